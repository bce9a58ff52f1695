//! A body of server-sent events with JSON values as data.

use super::accumulator::{Place, UsageAccumulator};
use crate::scan::Scanner;

const DATA: &[u8] = b"data:";

/// Field of an event that reports an error, without the space that may follow the colon.
const ERROR: &[u8] = b"event:error";

/// Data of the last event of an OpenAI stream.
const DONE: &[u8] = b"[DONE]";

/// Position in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Number of bytes of `data:` matched so far.
    Name(usize),
    /// Number of bytes of `event:error` matched so far.
    Event(usize),
    /// Before the first byte of data, where one space is skipped.
    Blank,
    Data,
    /// In another field or a comment.
    Other,
}

/// Kind of an event's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    None,
    Json,
    /// Number of bytes of `[DONE]` matched so far.
    Done(usize),
    /// Anything else, including broken JSON.
    Other,
}

/// Splits a body into events.
#[derive(Debug)]
pub(super) struct Events {
    scanner: Scanner,
    line: Line,
    data: Data,
    is_error: bool,
    /// True if the last byte was a carriage return. A newline after it belongs to the same line end.
    after_cr: bool,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            scanner: Scanner::default(),
            line: Line::Name(0),
            data: Data::None,
            is_error: false,
            after_cr: false,
        }
    }
}

impl Events {
    pub(super) fn feed(&mut self, chunk: &[u8], accumulator: &mut UsageAccumulator) {
        let mut rest = chunk;
        while let [byte, after @ ..] = rest {
            if *byte == b'\n' && self.after_cr {
                self.after_cr = false;
                rest = after;
                continue;
            }
            self.after_cr = *byte == b'\r';
            if matches!(byte, b'\r' | b'\n') {
                self.end_line(accumulator);
                rest = after;
                continue;
            }
            match self.line {
                Line::Name(matched) if DATA[matched] == *byte => {
                    self.line = if matched + 1 == DATA.len() { Line::Blank } else { Line::Name(matched + 1) };
                    rest = after;
                }
                Line::Name(0) if *byte == ERROR[0] => {
                    self.line = Line::Event(1);
                    rest = after;
                }
                Line::Name(_) => self.line = Line::Other,
                Line::Event(matched) if ERROR.get(matched) == Some(byte) => {
                    self.line = Line::Event(matched + 1);
                    rest = after;
                }
                Line::Event(matched) if *byte == b' ' && ERROR[..matched].ends_with(b":") => rest = after,
                Line::Event(_) => self.line = Line::Other,
                Line::Blank => {
                    self.line = Line::Data;
                    rest = if *byte == b' ' { after } else { rest };
                }
                Line::Data | Line::Other => {
                    let end = rest.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(rest.len());
                    if self.line == Line::Data {
                        self.data(&rest[..end], accumulator);
                    }
                    rest = &rest[end..];
                }
            }
        }
    }

    /// Ends the body. An event that lacks only its final blank line is complete.
    pub(super) fn end(&mut self, accumulator: &mut UsageAccumulator) {
        let is_whole = match self.data {
            Data::None => true,
            Data::Json => self.scanner.is_done(),
            Data::Done(matched) => matched == DONE.len(),
            Data::Other => false,
        };
        if self.line == Line::Event(ERROR.len()) {
            self.is_error = true;
        }
        self.end_event(accumulator);
        if is_whole {
            accumulator.end();
        }
    }

    fn end_line(&mut self, accumulator: &mut UsageAccumulator) {
        match self.line {
            Line::Name(0) => self.end_event(accumulator),
            // A newline joins the data lines of one event.
            Line::Data => self.data(b"\n", accumulator),
            Line::Event(matched) => self.is_error |= matched == ERROR.len(),
            _ => {}
        }
        self.line = Line::Name(0);
    }

    /// Adds a part of the current event's data.
    fn data(&mut self, bytes: &[u8], accumulator: &mut UsageAccumulator) {
        let mut rest = bytes;
        while let [byte, after @ ..] = rest {
            match self.data {
                Data::None => {
                    self.data = match byte {
                        b'{' => Data::Json,
                        b'[' => Data::Done(0),
                        _ if byte.is_ascii_whitespace() => Data::None,
                        _ => Data::Other,
                    };
                    if self.data == Data::None {
                        rest = after;
                    }
                }
                Data::Done(matched) => {
                    let blank = byte.is_ascii_whitespace() && matched == DONE.len();
                    if !blank {
                        let fits = DONE.get(matched) == Some(byte);
                        self.data = if fits { Data::Done(matched + 1) } else { Data::Other };
                    }
                    rest = after;
                }
                Data::Json => {
                    let consumed = self.scanner.feed(rest, accumulator);
                    rest = &rest[consumed..];
                    let next = rest.iter().find(|byte| !byte.is_ascii_whitespace());
                    // Some servers do not write the blank lines between events.
                    if self.scanner.is_done() && matches!(next, Some(b'{' | b'[')) {
                        accumulator.end_document(Place::Event);
                        self.scanner.reset();
                        self.data = Data::None;
                        continue;
                    }
                    if self.scanner.is_broken() || self.scanner.is_done() && next.is_some() {
                        self.data = Data::Other;
                        accumulator.broken_document();
                    }
                    return;
                }
                Data::Other => return,
            }
        }
    }

    fn end_event(&mut self, accumulator: &mut UsageAccumulator) {
        let is_error = std::mem::take(&mut self.is_error);
        if is_error {
            accumulator.fail();
        }
        match self.data {
            Data::Json if self.scanner.is_done() => accumulator.end_document(Place::Event),
            Data::Json => accumulator.broken_document(),
            Data::Done(matched) if matched == DONE.len() => accumulator.mark_complete(),
            // Broken JSON was already counted as an error.
            // The text of an error event is no output.
            Data::Done(_) | Data::Other if !is_error => accumulator.skip(),
            Data::Done(_) | Data::Other | Data::None => {}
        }
        self.data = Data::None;
        self.scanner.reset();
    }
}
