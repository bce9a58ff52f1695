//! Edits an OpenAI request so that its response stream reports usage.

use std::ops::Range;

use crate::scan::{Event, Key, Word};

/// An edit that replaces one range of a request body and leaves all other bytes unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Range of the bytes to replace; empty for an insertion.
    pub(super) range: Range<usize>,
    pub(super) replacement: &'static str,
}

impl Edit {
    /// Returns the edited body; `None` if the range is outside the body.
    pub fn apply(&self, body: &[u8]) -> Option<Vec<u8>> {
        let (before, after) = (body.get(..self.range.start)?, body.get(self.range.end..)?);
        Some([before, self.replacement.as_bytes(), after].concat())
    }

    pub(super) fn shifted(self, by: usize) -> Edit {
        Edit { range: self.range.start + by..self.range.end + by, ..self }
    }
}

/// Tracks `stream` and `stream_options` of a request body.
#[derive(Debug, Default)]
pub(super) struct StreamOptions {
    /// Offset of the body's opening brace.
    object_at: Option<usize>,
    /// Whether `stream` is true, and how many members have this name.
    stream: bool,
    stream_count: u32,
    options: Options,
    options_count: u32,
}

/// The value of `stream_options`.
#[derive(Clone, Debug, Default)]
enum Options {
    #[default]
    Absent,
    Null(Range<usize>),
    Object {
        at: usize,
        empty: bool,
        /// The value of `include_usage`, if it is false or null.
        off: Option<Range<usize>>,
        /// True if `include_usage` is true or has an unexpected value.
        on: bool,
    },
    Other,
}

impl StreamOptions {
    pub(super) fn on_event(&mut self, path: &[Key], event: &Event<'_>) {
        match (path, event) {
            ([], Event::Open { array: false, at }) => self.object_at = Some(*at),
            ([Key::Stream], Event::Close { .. } | Event::Part(_)) => {}
            ([Key::Stream], event) => {
                self.stream_count += 1;
                self.stream = matches!(event, Event::Word { word: Word::True, .. });
            }
            ([Key::StreamOptions], Event::Close { .. } | Event::Part(_)) => {}
            ([Key::StreamOptions], event) => {
                self.options_count += 1;
                self.options = match event {
                    Event::Word { word: Word::Null, at, end, .. } => Options::Null(*at..*end),
                    Event::Open { array: false, at } => {
                        Options::Object { at: *at, empty: true, off: None, on: false }
                    }
                    _ => Options::Other,
                };
            }
            ([Key::StreamOptions, name, ..], event) => {
                let Options::Object { empty, off, on, .. } = &mut self.options else { return };
                *empty = false;
                if *name == Key::IncludeUsage {
                    match event {
                        Event::Word { word: Word::False | Word::Null, at, end, .. } if off.is_none() => {
                            *off = Some(*at..*end);
                        }
                        _ => *on = true,
                    }
                }
            }
            _ => {}
        }
    }

    /// Returns the edit that sets `include_usage`; `None` if the body does not request a stream, already requests
    /// usage, or repeats one of the two members.
    pub(super) fn edit(&self) -> Option<Edit> {
        if !self.stream || self.stream_count != 1 || self.options_count > 1 {
            return None;
        }
        let (range, replacement) = match &self.options {
            Options::Absent => {
                let at = self.object_at? + 1;
                (at..at, r#""stream_options":{"include_usage":true},"#)
            }
            Options::Null(range) => (range.clone(), r#"{"include_usage":true}"#),
            Options::Object { on: true, .. } | Options::Other => return None,
            Options::Object { off: Some(range), .. } => (range.clone(), "true"),
            Options::Object { at, empty: true, .. } => (at + 1..at + 1, r#""include_usage":true"#),
            Options::Object { at, empty: false, .. } => (at + 1..at + 1, r#""include_usage":true,"#),
        };
        Some(Edit { range, replacement })
    }
}
