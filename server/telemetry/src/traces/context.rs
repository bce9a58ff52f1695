//! Parses W3C Trace Context: `traceparent` and `tracestate`.
//!
//! OpenTelemetry's `TraceContextPropagator` allocates for each request, sampled or not. It also accepts values that the
//! recommendation rejects, such as ids that are too short, or version 00 with extra fields. So this module checks the
//! format itself, and uses OpenTelemetry only to parse the single fields.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use super::TraceHeaders;

/// Maximum length of a `tracestate` that is passed on, in bytes.
const STATE_BYTES_MAX: usize = 512;
/// Length of a `traceparent` of version 00, in bytes.
const LEN: usize = 55;

/// Returns the span that a request comes from, or `None` if its `traceparent` is invalid. Allocates only if the request
/// is sampled.
pub(super) fn parent(headers: TraceHeaders<'_>) -> Option<SpanContext> {
    let text = headers.parent;
    // Later versions may append fields.
    let valid = match text.get(..3)? {
        "ff-" => false,
        "00-" => text.len() == LEN,
        _ => text.len() == LEN || text.as_bytes().get(LEN) == Some(&b'-'),
    };
    let dashes = [2, 35, 52];
    let digit = |(at, byte): (usize, u8)| match byte {
        b'-' => dashes.contains(&at),
        _ => !dashes.contains(&at) && matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    if !valid || !text.bytes().take(LEN).enumerate().all(digit) {
        return None;
    }
    let trace = TraceId::from_hex(text.get(3..35)?).ok()?;
    let span = SpanId::from_hex(text.get(36..52)?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(text.get(53..LEN)?, 16).ok()?);
    let state = if flags.is_sampled() { state(headers.state) } else { TraceState::NONE };
    let context = SpanContext::new(trace, span, flags, true, state);
    context.is_valid().then_some(context)
}

/// Returns the `tracestate` to pass on. It is empty if the text is too long or invalid.
fn state(text: &str) -> TraceState {
    let text = if text.len() <= STATE_BYTES_MAX { text } else { "" };
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read(text: &str) -> Option<SpanContext> {
        parent(TraceHeaders { parent: text, state: "" })
    }

    #[test]
    fn a_valid_traceparent_is_parsed() {
        let parent = read(VALID).unwrap();
        assert_eq!(parent.trace_id().to_string(), VALID[3..35]);
        assert_eq!(parent.span_id().to_string(), VALID[36..52]);
        assert!(parent.is_sampled() && parent.is_remote());
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let text = format!("{}{flags}", &VALID[..53]);
            assert_eq!(read(&text).unwrap().is_sampled(), sampled, "{text}");
        }
    }

    #[test]
    fn a_later_version_may_append_fields() {
        let later = VALID.replacen("00", "cc", 1);
        assert_eq!(read(&later), read(VALID));
        assert_eq!(read(&format!("{later}-what-comes")), read(VALID));
        assert_eq!(read(&format!("{later}.what-comes")), None);
    }

    #[test]
    fn an_invalid_traceparent_is_ignored() {
        let wrong = [
            "".to_owned(),
            "00".to_owned(),
            // The header mutation of docs/traces.md writes this value if Envoy has no trace.
            "00-----01".to_owned(),
            VALID.to_uppercase(),
            VALID.replacen("00", "ff", 1),
            VALID[..54].to_owned(),
            format!("{VALID}-"),
            format!(" {VALID}"),
            // Two `traceparent` headers, joined.
            format!("{VALID},{VALID}"),
            VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            VALID.replace("b7ad", "b7ag"),
            VALID.replace("-b7", "_b7"),
            VALID.replace("b7ad6b71", "b7\u{e9}\u{e9}71"),
        ];
        for text in wrong {
            assert_eq!(read(&text), None, "{text}");
        }
    }

    #[test]
    fn a_tracestate_is_bounded() {
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
        fn any_text_is_parsed_or_ignored(text in "[0-9a-f-]{0,60}|\\PC{0,60}") {
            if let Some(parent) = read(&text) {
                let flags = parent.trace_flags();
                let written = format!("{}-{}-{}-{flags:02x}", &text[..2], parent.trace_id(), parent.span_id());
                prop_assert!(text.starts_with(&written) && parent.is_valid());
            }
        }
    }
}
