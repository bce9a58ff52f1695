//! Reads usage from a response: the model, the tokens, and the number of bytes of generated text. The body arrives in
//! chunks, split at any byte, and is read in constant memory. The reader recognizes the framing and the API from the
//! content. `docs/plugin.md` lists the APIs.
//!
//! | module | content |
//! |---|---|
//! | `events`, `documents`, `event_stream`, `web_socket` | framings: how a body is split into JSON values |
//! | `members` | which members of a value hold counts and text |
//! | `document` | the contents of one value |
//! | `accumulator` | the usage of the response, from the contents of its values |
//! | `token_counts` | arithmetic of the counts |

mod accumulator;
mod base64;
mod document;
mod documents;
mod event_stream;
mod events;
mod members;
mod stream_length;
#[cfg(test)]
mod tests;
mod token_counts;
mod web_socket;

use accumulator::UsageAccumulator;
use documents::{Documents, RECORD_SEPARATOR};
use evenkeel_proto::v1::Tokens;
use event_stream::EventStream;
use events::Events;
use web_socket::WebSocket;

/// Usage reported by a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Empty if the response named no model.
    pub model: String,
    /// `None` if the response reported no tokens.
    pub tokens: Option<Tokens>,
    /// Sum of input and output tokens if the response reported only their sum, and probably generated text. Otherwise
    /// 0.
    pub total_tokens: u64,
    /// Whether `tokens` are the response's final counts.
    pub is_final: bool,
    /// Whether the response reported an error.
    pub is_error: bool,
    /// Bytes of generated text.
    pub output_bytes: u64,
    /// True if the body was read to its end, nothing was skipped, and its form is known: `tokens` and `output_bytes` are
    /// complete.
    pub body_read: bool,
    /// True if a part of the body was seen, and its form is not known.
    pub form_unknown: bool,
}

/// What the headers of a response say about the form of its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// They say nothing certain.
    #[default]
    Unknown,
    /// One JSON value, or events after all.
    Json,
    /// JSON values, one per line.
    Lines,
    Events,
    /// The messages of a WebSocket connection.
    WebSocket,
}

/// Beginnings of a body of server-sent events.
const EVENT_FIELDS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];
/// Length of the longest of them.
const EVENT_FIELD_BYTES_MAX: usize = 6;

/// How the body frames its JSON values.
#[derive(Debug)]
enum Framing {
    /// The body has contained only whitespace so far.
    Unknown,
    /// The body began with these bytes, which may be those of an event.
    Beginning([u8; EVENT_FIELD_BYTES_MAX], usize),
    Events(Events),
    Documents(Documents),
    EventStream(EventStream),
    WebSocket(WebSocket),
    /// The body is none of these.
    Other,
}

/// Reads the usage of one response.
#[derive(Debug)]
pub struct UsageReader {
    framing: Framing,
    accumulator: UsageAccumulator,
    format: Format,
}

impl UsageReader {
    /// Creates a reader. With [`Format::Lines`], the reader skips a line that is not valid JSON. Otherwise, reading stops
    /// at invalid JSON before the second value.
    pub fn new(format: Format) -> UsageReader {
        let framing = match format {
            Format::WebSocket => Framing::WebSocket(WebSocket::default()),
            _ => Framing::Unknown,
        };
        UsageReader { framing, accumulator: UsageAccumulator::default(), format }
    }

    /// Takes the numbers of input and output tokens from the headers of the response. They apply if the body reports no
    /// others.
    pub fn set_header_counts(&mut self, input: u64, output: u64) {
        self.accumulator.set_header_counts(input, output);
    }

    /// Reads the next chunk of the body.
    pub fn feed(&mut self, chunk: &[u8]) {
        let accumulator = &mut self.accumulator;
        match &mut self.framing {
            Framing::Events(events) => events.feed(chunk, accumulator),
            Framing::Documents(documents) => documents.feed(chunk, accumulator),
            Framing::EventStream(stream) => stream.feed(chunk, accumulator),
            Framing::WebSocket(socket) => socket.feed(chunk, accumulator),
            Framing::Other => {}
            Framing::Unknown => {
                // Skips whitespace and a byte order mark.
                let is_blank =
                    |b: &u8| b.is_ascii_whitespace() || matches!(b, 0xef | 0xbb | 0xbf | &RECORD_SEPARATOR);
                let Some(start) = chunk.iter().position(|b| !is_blank(b)) else { return };
                self.framing = match (chunk[start], self.format) {
                    (b'{' | b'[', format) => Framing::Documents(Documents::new(format == Format::Lines)),
                    (0, Format::Unknown) => Framing::EventStream(EventStream::default()),
                    (_, Format::Unknown) => Framing::Beginning([0; EVENT_FIELD_BYTES_MAX], 0),
                    _ => Framing::Events(Events::default()),
                };
                self.feed(&chunk[start..]);
            }
            Framing::Beginning(bytes, len) => {
                let Some((byte, rest)) = chunk.split_first() else { return };
                bytes[*len] = *byte;
                *len += 1;
                let (bytes, len) = (*bytes, *len);
                let beginning = &bytes[..len];
                if EVENT_FIELDS.contains(&beginning) {
                    self.framing = Framing::Events(Events::default());
                    self.feed(beginning);
                } else if !EVENT_FIELDS.iter().any(|field| field.starts_with(beginning)) {
                    self.framing = Framing::Other;
                }
                self.feed(rest);
            }
        }
    }

    /// Ends the body. Callers do not call this for a truncated body.
    pub fn end(&mut self) {
        let accumulator = &mut self.accumulator;
        match &mut self.framing {
            Framing::Events(events) => events.end(accumulator),
            Framing::Documents(documents) => documents.end(accumulator),
            Framing::EventStream(stream) => stream.end(accumulator),
            Framing::Unknown | Framing::Beginning(..) | Framing::WebSocket(_) | Framing::Other => {}
        }
    }

    /// Returns whether more of the body can change the usage.
    pub fn is_reading(&self) -> bool {
        !matches!(self.framing, Framing::Other)
    }

    /// Returns whether the body is a stream of events.
    pub fn is_stream(&self) -> bool {
        matches!(self.framing, Framing::Events(_) | Framing::EventStream(_))
    }

    /// Returns the usage reported so far.
    pub fn usage(&self) -> Usage {
        let usage = self.accumulator.usage();
        Usage { form_unknown: usage.form_unknown || !self.is_reading(), ..usage }
    }

    /// Returns the number of events, lines or bodies that are not valid JSON.
    pub fn faults(&self) -> u64 {
        self.accumulator.faults()
    }

    /// Returns the bytes of heap memory in use.
    pub fn held_bytes(&self) -> usize {
        let framing = if let Framing::EventStream(stream) = &self.framing { stream.held_bytes() } else { 0 };
        framing + self.accumulator.held_bytes()
    }
}
