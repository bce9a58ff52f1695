//! Takes out of an event stream what was only sent because the plugin asked for it: OpenAI's usage. The chunk that
//! carries nothing else is dropped, and `"usage": null` is taken out of the others. All else passes byte for byte.

use crate::scan::{Event, Key, Scanner, Sink, Word};
use std::ops::Range;

/// Longest event looked into. An event is held until it is complete, or has become longer than this: then it passes as
/// it is.
pub const EVENT_BYTES_MAX: usize = 64 << 10;

/// Hides the usage of one response.
#[derive(Debug, Default)]
pub struct Hider {
    /// The event being gathered.
    held: Vec<u8>,
    /// It became too long and passes as it comes.
    passing: bool,
    /// Bytes of the line under way, if any.
    in_line: bool,
    /// The last byte was a carriage return.
    returned: bool,
    /// The last byte ended an event, and whether that went on: a newline that follows a carriage return goes with it.
    ended: Option<bool>,
    too_long: u64,
}

impl Hider {
    /// What of a chunk, and of what was held before it, is to go on now.
    pub fn feed(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(chunk.len() + self.held.len());
        let mut rest = chunk;
        while !rest.is_empty() {
            if let Some(went_on) = self.ended.take()
                && self.returned
                && rest[0] == b'\n'
            {
                // Not held for the next event: that may be long in coming.
                self.returned = false;
                out.extend(went_on.then_some(b'\n'));
                rest = &rest[1..];
                continue;
            }
            let (taken, ended) = self.event_end(rest);
            let (piece, after) = rest.split_at(taken);
            rest = after;
            if self.passing {
                out.extend_from_slice(piece);
            } else {
                self.held.extend_from_slice(piece);
            }
            if ended {
                self.ended = Some(without_usage(&self.held, &mut out));
                self.held.clear();
                self.passing = false;
            } else if self.held.len() > EVENT_BYTES_MAX {
                self.too_long += 1;
                self.passing = true;
                out.append(&mut self.held);
            }
        }
        out
    }

    /// What was held, at the end of the body.
    pub fn end(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        without_usage(&self.held, &mut out);
        self.held = Vec::new();
        out
    }

    /// Events that were too long to be looked into.
    pub fn too_long(&self) -> u64 {
        self.too_long
    }

    /// Bytes it holds.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Bytes up to the end of the event, its blank line included, and whether it ends there. An event that would
    /// become too long is cut short of its end.
    fn event_end(&mut self, bytes: &[u8]) -> (usize, bool) {
        let room = if self.passing { usize::MAX } else { EVENT_BYTES_MAX + 1 - self.held.len() };
        for (i, byte) in bytes.iter().take(room).enumerate() {
            let after_return = std::mem::replace(&mut self.returned, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\r' | b'\n' if self.in_line => self.in_line = false,
                b'\r' | b'\n' => return (i + 1, true),
                _ => self.in_line = true,
            }
        }
        (bytes.len().min(room), false)
    }
}

/// Writes an event without the usage that was not asked for. False: there was nothing else in it.
fn without_usage(event: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(data) = data(event) else {
        out.extend_from_slice(event);
        return true;
    };
    let mut found = Found::default();
    let mut scanner = Scanner::default();
    scanner.feed(&event[data.clone()], &mut found);
    if !scanner.is_done() || found.choice_or_twice {
        // Not the chunk with the usage alone.
        found.usage = false;
    }
    if found.usage && found.choices {
        return false;
    }
    match found.null {
        Some(null) if scanner.is_done() => {
            let cut = member(event, data.start + null.start..data.start + null.end);
            out.extend_from_slice(&event[..cut.start]);
            out.extend_from_slice(&event[cut.end..]);
        }
        _ => out.extend_from_slice(event),
    }
    true
}

/// Where the data of an event is; none where it has none, or several lines of it.
fn data(event: &[u8]) -> Option<Range<usize>> {
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

/// A member with the comma beside it.
fn member(event: &[u8], member: Range<usize>) -> Range<usize> {
    let blank = |b: &u8| b.is_ascii_whitespace();
    let before = event[..member.start].iter().rposition(|b| !blank(b));
    if let Some(comma) = before.filter(|at| event[*at] == b',') {
        return comma..member.end;
    }
    let after = event[member.end..].iter().position(|b| !blank(b)).map(|at| member.end + at);
    match after.filter(|at| event[*at] == b',') {
        Some(comma) => member.start..comma + 1,
        None => member,
    }
}

/// What is in a chunk.
#[derive(Debug, Default)]
struct Found {
    choices: bool,
    choice_or_twice: bool,
    usage: bool,
    null: Option<Range<usize>>,
}

impl Sink for Found {
    fn on(&mut self, path: &[Key], event: Event<'_>) {
        match (path, event) {
            ([Key::Choices], Event::Open { array: true, .. }) => {
                self.choice_or_twice |= self.choices;
                self.choices = true;
            }
            ([Key::Choices, Key::Item], Event::Open { .. }) => self.choice_or_twice = true,
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
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn hide(chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
        let mut hider = Hider::default();
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend(hider.feed(chunk.as_ref()));
            assert!(hider.held_bytes() <= EVENT_BYTES_MAX);
        }
        out.extend(hider.end());
        String::from_utf8_lossy(&out).into_owned()
    }

    const USAGE: &str = r#"{"id":"1","choices":[],"usage":{"prompt_tokens":1}}"#;

    #[test]
    fn only_what_was_not_asked_for_is_taken_out() {
        let kept = [
            "data: [DONE]\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"{\\\"usage\\\":null,\"}}]}\n\n",
            // With the last choice: the server sends it to everyone.
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
            assert_eq!(hide([text]), text);
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
            assert_eq!(hide([&text]), expected, "{text}");
        }
    }

    #[test]
    fn a_chunk_without_an_end_is_held_until_it_has_one() {
        let mut hider = Hider::default();
        assert_eq!(hider.feed(b"data: {\"choices\":[],"), b"");
        assert_eq!(hider.feed(b"\"usage\":{}}\n"), b"");
        assert_eq!(hider.feed(b"\ndata: [DONE]\n"), b"");
        assert_eq!(hider.feed(b"\n"), b"data: [DONE]\n\n");
    }

    /// Each event was missing its last byte until the next one came, and the last one for good with HTTP trailers.
    #[test]
    fn an_event_with_carriage_returns_is_not_kept_back() {
        let mut hider = Hider::default();
        assert_eq!(hider.feed(b"data: a\r\n\r\n"), b"data: a\r\n\r\n");
        assert_eq!(hider.feed(b"data: b\r\n\r"), b"data: b\r\n\r");
        assert_eq!(hider.feed(b"\n"), b"\n");
        assert_eq!(hider.feed(format!("data:{USAGE}\r\n\r").as_bytes()), b"");
        assert_eq!(hider.feed(b"\ndata: c\r\r"), b"data: c\r\r");
        assert_eq!(hider.feed(b"data: d\r\n\r\n\r\n"), b"data: d\r\n\r\n\r\n");
        assert_eq!((hider.held_bytes(), hider.end()), (0, Vec::new()));
    }

    #[test]
    fn a_long_event_passes_and_the_next_is_read_again() {
        let long = format!("data: {{\"a\":\"{}\",\"usage\":null}}\n\n", "x".repeat(EVENT_BYTES_MAX));
        let text = format!("{long}data: {USAGE}\n\ndata: [DONE]\n\n");
        for size in [1000, text.len()] {
            let mut hider = Hider::default();
            let mut out = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                out.extend(hider.feed(chunk));
            }
            assert_eq!(String::from_utf8(out).unwrap(), format!("{long}data: [DONE]\n\n"));
            assert_eq!(hider.too_long(), 1);
        }
    }

    /// The stream a client sees that had not asked: what OpenAI sends one that does not.
    #[test]
    fn it_is_as_if_it_had_not_been_asked_for() {
        let asked = include_str!("../tests/fixtures/openai-chat.sse");
        let hidden = hide([asked]);
        assert!(!hidden.contains("usage"));
        assert_eq!(hidden.matches("data: ").count() + 1, asked.matches("data: ").count());
        assert!(hidden.ends_with("\n\ndata: [DONE]\n\n"));
        for line in hidden.lines().filter_map(|line| line.strip_prefix("data: {")) {
            serde_json::from_str::<serde_json::Value>(&format!("{{{line}")).unwrap();
        }
    }

    proptest! {
        /// Cuts change nothing, whatever is sent.
        #[test]
        fn cuts_change_nothing(parts in vec(prop_oneof![
            Just("data: ".to_owned()), Just(USAGE.to_owned()), Just("\n\n".to_owned()), Just("\r\n".to_owned()),
            Just("\r".to_owned()), Just("{\"usage\":null}".to_owned()), "[ -~]{0,9}",
        ], 0..30), size in 1..9_usize) {
            let text = parts.concat();
            prop_assert_eq!(hide(text.as_bytes().chunks(size)), hide([&text]));
        }
    }
}
