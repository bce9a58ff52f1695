//! Removes from an OpenAI event stream the usage that the plugin requested and the client did not. Drops the chunk that
//! contains only usage, and removes `"usage": null` from the other chunks. Every other byte passes unchanged.

use std::ops::Range;

use crate::scan::{Event, Key, Scanner, Sink, Word};

/// Longest event that the stripper inspects. The stripper holds an event back until the event is complete or longer
/// than this. A longer event passes unchanged.
pub const EVENT_BYTES_MAX: usize = 64 << 10;

/// Strips the usage from one response.
#[derive(Debug, Default)]
pub struct UsageStripper {
    held: Vec<u8>,
    /// True if the current event is too long to inspect and passes as it arrives.
    passing_through: bool,
    /// True if the current line is not empty.
    in_line: bool,
    /// True if the last byte was a carriage return.
    after_cr: bool,
    /// If the last byte ended an event: whether that event was forwarded. The newline of a `\r\n` is forwarded only if
    /// the event before it was.
    event_forwarded: Option<bool>,
    oversized_events: u64,
}

impl UsageStripper {
    /// Takes the next chunk and returns the bytes to forward now.
    pub fn feed(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(chunk.len() + self.held.len());
        let mut rest = chunk;
        while !rest.is_empty() {
            if let Some(forwarded) = self.event_forwarded.take()
                && self.after_cr
                && rest[0] == b'\n'
            {
                // Forward the newline at once, because the next event may arrive much later.
                self.after_cr = false;
                out.extend(forwarded.then_some(b'\n'));
                rest = &rest[1..];
                continue;
            }
            let (taken, ended) = self.event_end(rest);
            let (part, after) = rest.split_at(taken);
            rest = after;
            if self.passing_through {
                out.extend_from_slice(part);
            } else {
                self.held.extend_from_slice(part);
            }
            if ended {
                self.event_forwarded = Some(strip_usage(&self.held, &mut out));
                self.held.clear();
                self.passing_through = false;
            } else if self.held.len() > EVENT_BYTES_MAX {
                self.oversized_events += 1;
                self.passing_through = true;
                out.append(&mut self.held);
            }
        }
        out
    }

    /// Ends the body, and returns the bytes that are still held back.
    pub fn end(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        strip_usage(&self.held, &mut out);
        self.held = Vec::new();
        out
    }

    /// Returns the number of events that were too long to inspect.
    pub fn oversized_events(&self) -> u64 {
        self.oversized_events
    }

    /// Returns the number of bytes held back.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Returns the number of bytes up to the end of the event, including its blank line, and whether the event ends
    /// there. Stops early if the event becomes too long.
    fn event_end(&mut self, bytes: &[u8]) -> (usize, bool) {
        let room = if self.passing_through { usize::MAX } else { EVENT_BYTES_MAX + 1 - self.held.len() };
        for (i, byte) in bytes.iter().take(room).enumerate() {
            let was_cr = std::mem::replace(&mut self.after_cr, *byte == b'\r');
            match byte {
                b'\n' if was_cr => {}
                b'\r' | b'\n' if self.in_line => self.in_line = false,
                b'\r' | b'\n' => return (i + 1, true),
                _ => self.in_line = true,
            }
        }
        (bytes.len().min(room), false)
    }
}

/// Appends an event to `out` without the usage that only the plugin requested. Returns false if nothing remains of the
/// event.
fn strip_usage(event: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(data) = data_range(event) else {
        out.extend_from_slice(event);
        return true;
    };
    let mut contents = ChunkContents::default();
    let mut scanner = Scanner::default();
    scanner.feed(&event[data.clone()], &mut contents);
    if !scanner.is_done() || contents.other_content {
        // This is not the chunk that contains only usage.
        contents.usage = false;
    }
    if contents.usage && contents.choices {
        return false;
    }
    match contents.null {
        Some(null) if scanner.is_done() => {
            let cut = with_comma(event, data.start + null.start..data.start + null.end);
            out.extend_from_slice(&event[..cut.start]);
            out.extend_from_slice(&event[cut.end..]);
        }
        _ => out.extend_from_slice(event),
    }
    true
}

/// Returns the range of an event's data; `None` if the event has no data line, or several.
fn data_range(event: &[u8]) -> Option<Range<usize>> {
    let mut data = None;
    let mut at = 0;
    for line in event.split(|b| matches!(b, b'\r' | b'\n')) {
        if line.starts_with(b"data:") {
            if data.is_some() {
                return None;
            }
            data = Some(at + b"data:".len()..at + line.len());
        }
        at += line.len() + 1;
    }
    data
}

/// Extends the range of a member to include one adjacent comma.
fn with_comma(event: &[u8], member: Range<usize>) -> Range<usize> {
    let is_blank = |b: &u8| b.is_ascii_whitespace();
    let before = event[..member.start].iter().rposition(|b| !is_blank(b));
    if let Some(comma) = before.filter(|at| event[*at] == b',') {
        return comma..member.end;
    }
    let after = event[member.end..].iter().position(|b| !is_blank(b)).map(|at| member.end + at);
    match after.filter(|at| event[*at] == b',') {
        Some(comma) => member.start..comma + 1,
        None => member,
    }
}

/// Contents of one chunk of the stream.
#[derive(Debug, Default)]
struct ChunkContents {
    choices: bool,
    other_content: bool,
    usage: bool,
    null: Option<Range<usize>>,
}

impl Sink for ChunkContents {
    fn on_event(&mut self, path: &[Key], event: Event<'_>) {
        match (path, event) {
            ([Key::Choices], Event::Open { array: true, .. }) => {
                self.other_content |= self.choices;
                self.choices = true;
            }
            ([Key::Choices, Key::Item], Event::Open { .. }) => self.other_content = true,
            ([Key::Usage], Event::Open { array: false, .. }) => self.usage = true,
            ([Key::Usage], Event::Word { word: Word::Null, member_at, end, .. }) => {
                self.null = Some(member_at..end);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn strip(chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
        let mut stripper = UsageStripper::default();
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend(stripper.feed(chunk.as_ref()));
            assert!(stripper.held_bytes() <= EVENT_BYTES_MAX);
        }
        out.extend(stripper.end());
        String::from_utf8_lossy(&out).into_owned()
    }

    const USAGE: &str = r#"{"id":"1","choices":[],"usage":{"prompt_tokens":1}}"#;

    #[test]
    fn only_usage_that_the_plugin_requested_is_removed() {
        let kept = [
            "data: [DONE]\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"{\\\"usage\\\":null,\"}}]}\n\n",
            // Usage in the chunk of the last choice: the server sends it to every client.
            "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":1}}\n\n",
            "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
            "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":1}}\n\n",
            ": comment\n\n\n\nevent: ping\n\n",
            "data: {\"a\":\ndata: \"usage\":null}\n\n",
            "data: {\"usage\":null\n\n",
            "data: {\"x\":{\"usage\":null}}\n\n",
            "no event at all",
        ];
        for text in kept {
            assert_eq!(strip([text]), text);
        }
        let changed = [
            (format!("data: {USAGE}\n\n"), String::new()),
            (format!("data: {USAGE}"), String::new()),
            (format!("a: 1\n\nevent: x\r\ndata:{USAGE}\r\n\r\nb: 2\n\n"), "a: 1\n\nb: 2\n\n".into()),
            ("data: {\"choices\":[{}],\"usage\":null}\n\n".into(), "data: {\"choices\":[{}]}\n\n".into()),
            ("data: {\"usage\" : null , \"a\":1}\n\n".into(), "data: { \"a\":1}\n\n".into()),
            ("data: {\"a\":1, \"usage\":null, \"b\":2}\n\n".into(), "data: {\"a\":1, \"b\":2}\n\n".into()),
            ("data: {\"usage\":null}\n\n".into(), "data: {}\n\n".into()),
        ];
        for (text, expected) in changed {
            assert_eq!(strip([&text]), expected, "{text}");
        }
    }

    #[test]
    fn an_incomplete_event_is_held() {
        let mut stripper = UsageStripper::default();
        assert_eq!(stripper.feed(b"data: {\"choices\":[],"), b"");
        assert_eq!(stripper.feed(b"\"usage\":{}}\n"), b"");
        assert_eq!(stripper.feed(b"\ndata: [DONE]\n"), b"");
        assert_eq!(stripper.feed(b"\n"), b"data: [DONE]\n\n");
    }

    /// The last byte of each event is forwarded at once. A stripper that held this byte back lost it when HTTP trailers
    /// followed.
    #[test]
    fn an_event_with_carriage_returns_is_forwarded_at_once() {
        let mut stripper = UsageStripper::default();
        assert_eq!(stripper.feed(b"data: a\r\n\r\n"), b"data: a\r\n\r\n");
        assert_eq!(stripper.feed(b"data: b\r\n\r"), b"data: b\r\n\r");
        assert_eq!(stripper.feed(b"\n"), b"\n");
        assert_eq!(stripper.feed(format!("data:{USAGE}\r\n\r").as_bytes()), b"");
        assert_eq!(stripper.feed(b"\ndata: c\r\r"), b"data: c\r\r");
        assert_eq!(stripper.feed(b"data: d\r\n\r\n\r\n"), b"data: d\r\n\r\n\r\n");
        assert_eq!((stripper.held_bytes(), stripper.end()), (0, Vec::new()));
    }

    #[test]
    fn an_oversized_event_passes_and_the_next_is_inspected() {
        let long = format!("data: {{\"a\":\"{}\",\"usage\":null}}\n\n", "x".repeat(EVENT_BYTES_MAX));
        let text = format!("{long}data: {USAGE}\n\ndata: [DONE]\n\n");
        for size in [1000, text.len()] {
            let mut stripper = UsageStripper::default();
            let mut out = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                out.extend(stripper.feed(chunk));
            }
            assert_eq!(String::from_utf8(out).unwrap(), format!("{long}data: [DONE]\n\n"));
            assert_eq!(stripper.oversized_events(), 1);
        }
    }

    /// The client receives what OpenAI sends to a client that did not request usage.
    #[test]
    fn the_client_sees_a_stream_without_usage() {
        let requested = include_str!("../tests/fixtures/openai-chat.sse");
        let stripped = strip([requested]);
        assert!(!stripped.contains("usage"));
        assert_eq!(stripped.matches("data: ").count() + 1, requested.matches("data: ").count());
        assert!(stripped.ends_with("\n\ndata: [DONE]\n\n"));
        for line in stripped.lines().filter_map(|line| line.strip_prefix("data: {")) {
            serde_json::from_str::<serde_json::Value>(&format!("{{{line}")).unwrap();
        }
    }

    proptest! {
        /// The result does not depend on how the input is split.
        #[test]
        fn splits_do_not_matter(parts in vec(prop_oneof![
            Just("data: ".to_owned()), Just(USAGE.to_owned()), Just("\n\n".to_owned()), Just("\r\n".to_owned()),
            Just("\r".to_owned()), Just("{\"usage\":null}".to_owned()), "[ -~]{0,9}",
        ], 0..30), size in 1..9_usize) {
            let text = parts.concat();
            prop_assert_eq!(strip(text.as_bytes().chunks(size)), strip([&text]));
        }
    }
}
