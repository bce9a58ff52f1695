//! W3C Trace Context: what `traceparent` and `tracestate` say.
//!
//! The fields of a `traceparent` are OpenTelemetry's; where they begin and end is read here. Its own
//! `TraceContextPropagator` allocates for each request, sampled or not, and takes what the recommendation wants passed
//! over, such as ids that are too short or a version 00 with more behind it.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use super::Carried;

/// Longest `tracestate` passed on, in bytes.
const STATE_BYTES_MAX: usize = 512;
/// Bytes of a `traceparent` of version 00.
const LEN: usize = 55;

/// The span a request comes from; none where its `traceparent` is not sound. Allocates nothing unless it is sampled.
pub(super) fn parent(carried: Carried<'_>) -> Option<SpanContext> {
    let text = carried.parent;
    // Later versions may say more behind it.
    let sound = match text.get(..3)? {
        "ff-" => false,
        "00-" => text.len() == LEN,
        _ => text.len() == LEN || text.as_bytes().get(LEN) == Some(&b'-'),
    };
    let dashes = [2, 35, 52];
    let digit = |(at, byte): (usize, u8)| match byte {
        b'-' => dashes.contains(&at),
        _ => !dashes.contains(&at) && matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    if !sound || !text.bytes().take(LEN).enumerate().all(digit) {
        return None;
    }
    let trace = TraceId::from_hex(text.get(3..35)?).ok()?;
    let span = SpanId::from_hex(text.get(36..52)?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(text.get(53..LEN)?, 16).ok()?);
    let state = if flags.is_sampled() { state(carried.state) } else { TraceState::NONE };
    let context = SpanContext::new(trace, span, flags, true, state);
    context.is_valid().then_some(context)
}

/// A `tracestate` as it is passed on: one that is too long or not sound is left out whole.
fn state(text: &str) -> TraceState {
    let text = if text.len() <= STATE_BYTES_MAX { text } else { "" };
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOUND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read(text: &str) -> Option<SpanContext> {
        parent(Carried { parent: text, state: "" })
    }

    #[test]
    fn a_sound_one_is_read() {
        let parent = read(SOUND).unwrap();
        assert_eq!(parent.trace_id().to_string(), SOUND[3..35]);
        assert_eq!(parent.span_id().to_string(), SOUND[36..52]);
        assert!(parent.is_sampled() && parent.is_remote());
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let text = format!("{}{flags}", &SOUND[..53]);
            assert_eq!(read(&text).unwrap().is_sampled(), sampled, "{text}");
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = SOUND.replacen("00", "cc", 1);
        assert_eq!(read(&later), read(SOUND));
        assert_eq!(read(&format!("{later}-what-comes")), read(SOUND));
        assert_eq!(read(&format!("{later}.what-comes")), None);
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
            assert_eq!(read(&text), None, "{text}");
        }
    }

    #[test]
    fn a_state_is_bounded() {
        let passed_on = |text: &str| state(text).header();
        assert_eq!(passed_on(" rojo=00f067aa0ba902b7, congo=t61 "), "rojo=00f067aa0ba902b7,congo=t61");
        let long = format!("a={},b={},c=1", "1".repeat(253), "1".repeat(250));
        assert_eq!((long.len(), passed_on(&long)), (512, long.clone()));
        for left_out in [format!("{long}1"), "a".to_owned(), "A=1".to_owned(), String::new()] {
            assert_eq!(passed_on(&left_out), "", "{left_out}");
        }
    }

    proptest! {
        #[test]
        fn nothing_upsets_it(text in "[0-9a-f-]{0,60}|\\PC{0,60}") {
            if let Some(parent) = read(&text) {
                let flags = parent.trace_flags();
                let written = format!("{}-{}-{}-{flags:02x}", &text[..2], parent.trace_id(), parent.span_id());
                prop_assert!(text.starts_with(&written) && parent.is_valid());
            }
        }
    }
}
