//! A body of messages in AWS's binary event stream encoding, which Bedrock's streams have. A message is: its length and
//! the length of its headers (4 bytes each, big-endian), a checksum, the headers, the payload, and a checksum. The
//! reader does not verify checksums, because TCP and TLS already do. The payload is JSON. InvokeModel puts the model's
//! own JSON into its member `bytes`, in base64.

use super::{
    accumulator::{Place, UsageAccumulator},
    base64::Decoder,
};
use crate::scan::{Event, Key, Scanner, Sink};

/// Bytes before the headers.
const PRELUDE_BYTES: usize = 12;
/// Bytes after the payload.
const CHECKSUM_BYTES: usize = 4;
/// Longest message that the reader accepts. AWS allows 24 MiB, and a longer length means that the body is something
/// else.
const MESSAGE_BYTES_MAX: usize = 24 << 20;

/// Position in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Number of bytes of the prelude read so far.
    Prelude(usize),
    /// Number of bytes of the headers, the payload or the checksum that follow.
    Headers(usize),
    Payload(usize),
    Checksum(usize),
    /// The body is not an event stream.
    Broken,
}

/// Splits a body into messages.
#[derive(Debug)]
pub(super) struct EventStream {
    position: Position,
    prelude: [u8; PRELUDE_BYTES],
    payload_len: usize,
    /// The last two bytes of the headers.
    header_tail: [u8; 2],
    payload: Scanner,
    /// On the heap, because other bodies do not need it.
    inner: Box<Inner>,
}

/// The JSON inside the member `bytes`.
#[derive(Debug, Default)]
struct Inner {
    decoder: Decoder,
    scanner: Scanner,
    is_present: bool,
}

/// Sends the decoded `bytes` of a payload to the scanner of the inner JSON, and all else to the accumulator.
struct Unwrap<'a> {
    inner: &'a mut Inner,
    accumulator: &'a mut UsageAccumulator,
}

impl Sink for Unwrap<'_> {
    fn on_event(&mut self, path: &[Key], event: Event<'_>) {
        match (path, event) {
            ([Key::Bytes], Event::Part(part)) => {
                self.inner.is_present = true;
                let Inner { decoder, scanner, .. } = &mut *self.inner;
                decoder.feed(part, |bytes| {
                    scanner.feed(bytes, self.accumulator);
                });
            }
            ([Key::Bytes], Event::Text(_)) => {}
            (path, event) => self.accumulator.on_event(path, event),
        }
    }
}

impl Default for EventStream {
    fn default() -> EventStream {
        EventStream {
            position: Position::Prelude(0),
            prelude: [0; PRELUDE_BYTES],
            payload_len: 0,
            header_tail: [0; 2],
            payload: Scanner::default(),
            inner: Box::default(),
        }
    }
}

impl EventStream {
    pub(super) fn feed(&mut self, chunk: &[u8], accumulator: &mut UsageAccumulator) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let left = match self.position {
                Position::Prelude(read) => PRELUDE_BYTES - read,
                Position::Headers(left) | Position::Payload(left) | Position::Checksum(left) => left,
                Position::Broken => return,
            };
            let (part, after) = rest.split_at(left.min(rest.len()));
            rest = after;
            let left = left - part.len();
            match self.position {
                Position::Prelude(read) => {
                    self.prelude[read..read + part.len()].copy_from_slice(part);
                    self.position = Position::Prelude(read + part.len());
                }
                Position::Headers(_) => {
                    self.headers(part, accumulator);
                    self.position = Position::Headers(left);
                }
                Position::Payload(_) => {
                    let inner = &mut self.inner;
                    self.payload.feed(part, &mut Unwrap { inner, accumulator });
                    self.position = Position::Payload(left);
                }
                Position::Checksum(_) => self.position = Position::Checksum(left),
                Position::Broken => {}
            }
            self.advance(accumulator);
        }
    }

    /// Returns the bytes of heap memory in use.
    pub(super) fn held_bytes(&self) -> usize {
        size_of::<Inner>()
    }

    /// Ends the body, which is complete unless it ends inside a message.
    pub(super) fn end(&mut self, accumulator: &mut UsageAccumulator) {
        if self.position == Position::Prelude(0) {
            accumulator.end();
        }
    }

    /// Goes on to the next part of the message if the current one is complete.
    fn advance(&mut self, accumulator: &mut UsageAccumulator) {
        if self.position == Position::Prelude(PRELUDE_BYTES) {
            self.position = match self.lengths() {
                Some((headers, payload)) => {
                    self.payload_len = payload;
                    Position::Headers(headers)
                }
                None => {
                    accumulator.skip();
                    Position::Broken
                }
            };
        }
        if self.position == Position::Headers(0) {
            self.header_tail = [0; 2];
            self.position = Position::Payload(self.payload_len);
        }
        if self.position == Position::Payload(0) {
            if self.payload_len > 0 {
                self.end_payload(accumulator);
            }
            self.position = Position::Checksum(CHECKSUM_BYTES);
        } else if self.position == Position::Checksum(0) {
            self.position = Position::Prelude(0);
        }
    }

    /// Returns the lengths of the headers and of the payload; `None` if they are impossible.
    fn lengths(&self) -> Option<(usize, usize)> {
        let [a, b, c, d, e, f, g, h, ..] = self.prelude;
        let message = u32::from_be_bytes([a, b, c, d]) as usize;
        let headers = u32::from_be_bytes([e, f, g, h]) as usize;
        let payload = message.checked_sub(PRELUDE_BYTES + CHECKSUM_BYTES)?.checked_sub(headers)?;
        (message <= MESSAGE_BYTES_MAX).then_some((headers, payload))
    }

    /// Looks for the headers of errors. Of the header names that AWS defines, only `:exception-type` begins with `:ex`,
    /// and only `:error-code` and `:error-message` begin with `:er`.
    fn headers(&mut self, part: &[u8], accumulator: &mut UsageAccumulator) {
        for byte in part {
            if self.header_tail == *b":e" && matches!(byte, b'x' | b'r') {
                accumulator.fail();
            }
            self.header_tail = [self.header_tail[1], *byte];
        }
    }

    fn end_payload(&mut self, accumulator: &mut UsageAccumulator) {
        let inner_is_done = !self.inner.is_present || self.inner.scanner.is_done();
        if self.payload.is_done() && inner_is_done {
            accumulator.end_document(Place::Event);
        } else {
            accumulator.broken_document();
        }
        self.payload.reset();
        self.inner.scanner.reset();
        self.inner.decoder = Decoder::default();
        self.inner.is_present = false;
    }
}
