//! W3C Trace Context: what `traceparent` and `tracestate` say.

/// Longest `tracestate` passed on, in bytes.
const STATE_BYTES_MAX: usize = 512;
/// Bytes of a `traceparent` of version 00.
const LEN: usize = 55;

/// Identity of a trace.
pub(super) type TraceId = [u8; 16];
/// Identity of a span in it.
pub(super) type SpanId = [u8; 8];

/// The span a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    /// Whether it is recorded.
    pub(super) sampled: bool,
}

impl Parent {
    /// Reads a `traceparent`; none where it is not sound.
    pub(super) fn read(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let version: [u8; 1] = hex(bytes.get(..2)?)?;
        // Later versions may say more behind it.
        let whole = match version[0] {
            0xff => false,
            0 => bytes.len() == LEN,
            _ => bytes.len() == LEN || bytes.get(LEN) == Some(&b'-'),
        };
        if !whole || [2, 35, 52].iter().any(|at| bytes.get(*at) != Some(&b'-')) {
            return None;
        }
        let (trace, span): (TraceId, SpanId) = (hex(bytes.get(3..35)?)?, hex(bytes.get(36..52)?)?);
        let flags: [u8; 1] = hex(bytes.get(53..LEN)?)?;
        let known = trace != TraceId::default() && span != SpanId::default();
        known.then_some(Self { trace, span, sampled: flags[0] & 1 == 1 })
    }
}

/// Lower-case hexadecimal digits, as the recommendation wants them.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// A `tracestate` as it is passed on: what is too long or no printable ASCII is left out whole.
pub(super) fn state(text: &str) -> &str {
    let sound = text.len() <= STATE_BYTES_MAX && text.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~'));
    if sound { text.trim() } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOUND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_sound_one_is_read() {
        let parent = Parent::read(SOUND).unwrap();
        assert_eq!((parent.trace[0], parent.trace[15]), (0x0a, 0x9c));
        assert_eq!((parent.span[0], parent.span[7]), (0xb7, 0x31));
        assert!(parent.sampled);
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let text = format!("{}{flags}", &SOUND[..53]);
            assert_eq!(Parent::read(&text).unwrap().sampled, sampled, "{text}");
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = SOUND.replacen("00", "cc", 1);
        assert_eq!(Parent::read(&later), Parent::read(SOUND));
        assert_eq!(Parent::read(&format!("{later}-what-comes")), Parent::read(SOUND));
        assert_eq!(Parent::read(&format!("{later}.what-comes")), None);
    }

    #[test]
    fn one_that_is_not_sound_is_passed_over() {
        let wrong = [
            "".to_owned(),
            "00".to_owned(),
            // What Envoy writes where it knows no trace.
            "00-----01".to_owned(),
            SOUND.to_uppercase(),
            SOUND.replacen("00", "ff", 1),
            SOUND[..54].to_owned(),
            format!("{SOUND}-"),
            format!(" {SOUND}"),
            // Two headers, put together.
            format!("{SOUND},{SOUND}"),
            SOUND.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            SOUND.replace("b7ad6b7169203331", &"0".repeat(16)),
            SOUND.replace("b7ad", "b7ag"),
            SOUND.replace("-b7", "_b7"),
            SOUND.replace("b7ad6b71", "b7\u{e9}\u{e9}71"),
        ];
        for text in wrong {
            assert_eq!(Parent::read(&text), None, "{text}");
        }
    }

    #[test]
    fn a_state_is_bounded() {
        assert_eq!(
            state(" rojo=00f067aa0ba902b7,congo=t61rcWkgMzE "),
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
        );
        assert_eq!(state(&"a".repeat(512)).len(), 512);
        assert_eq!(state(&"a".repeat(513)), "");
        assert_eq!(state("a=\u{1}"), "");
        assert_eq!(state("a=\u{e9}"), "");
    }

    proptest! {
        #[test]
        fn nothing_upsets_it(text in "[0-9a-f-]{0,60}|\\PC{0,60}") {
            if let Some(parent) = Parent::read(&text) {
                prop_assert!(parent.trace.iter().any(|b| *b > 0) && parent.span.iter().any(|b| *b > 0));
            }
        }
    }
}
