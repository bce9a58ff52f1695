//! A body of server-sent events, each with a JSON value as its data.

use super::tally::Tally;
use crate::scan::Scanner;

/// The field that carries data.
const DATA: &[u8] = b"data:";

/// Data that ends an OpenAI stream.
const DONE: &[u8] = b"[DONE]";

/// Where in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So many bytes of `data:` have come.
    Name(usize),
    /// Before the first byte of data, where one blank is left off.
    Blank,
    /// In the data.
    Data,
    /// In another field or a comment.
    Other,
}

/// What an event's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    /// Nothing has come.
    None,
    /// A JSON object.
    Json,
    /// `[DONE]`, of which so many bytes have come.
    Done(usize),
    /// Nothing that can be read.
    Other,
}

/// Where the events of a body begin and end.
#[derive(Debug)]
pub(super) struct Events {
    scanner: Scanner,
    line: Line,
    data: Data,
    /// The last byte was a carriage return, which a newline may follow.
    returned: bool,
}

impl Default for Events {
    fn default() -> Events {
        Events { scanner: Scanner::default(), line: Line::Name(0), data: Data::None, returned: false }
    }
}

impl Events {
    pub(super) fn feed(&mut self, chunk: &[u8], tally: &mut Tally) {
        let mut rest = chunk;
        while let [byte, after @ ..] = rest {
            if *byte == b'\n' && self.returned {
                self.returned = false;
                rest = after;
                continue;
            }
            self.returned = *byte == b'\r';
            if matches!(byte, b'\r' | b'\n') {
                self.end_line(tally);
                rest = after;
                continue;
            }
            match self.line {
                Line::Name(matched) if DATA[matched] == *byte => {
                    self.line = if matched + 1 == DATA.len() { Line::Blank } else { Line::Name(matched + 1) };
                    rest = after;
                }
                Line::Name(_) => self.line = Line::Other,
                Line::Blank => {
                    self.line = Line::Data;
                    rest = if *byte == b' ' { after } else { rest };
                }
                Line::Data | Line::Other => {
                    let end = rest.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(rest.len());
                    if self.line == Line::Data {
                        self.data(&rest[..end], tally);
                    }
                    rest = &rest[end..];
                }
            }
        }
    }

    /// Whether the body ended between two events. One that lacks only its blank line counts as ended.
    pub(super) fn end(&mut self, tally: &mut Tally) -> bool {
        let whole = match self.data {
            Data::None => true,
            Data::Json => self.scanner.is_done(),
            Data::Done(matched) => matched == DONE.len(),
            Data::Other => false,
        };
        self.end_event(tally);
        whole
    }

    fn end_line(&mut self, tally: &mut Tally) {
        match self.line {
            Line::Name(0) => self.end_event(tally),
            // Lines of one event's data are joined by a newline.
            Line::Data => self.data(b"\n", tally),
            _ => {}
        }
        self.line = Line::Name(0);
    }

    /// More of an event's data.
    fn data(&mut self, bytes: &[u8], tally: &mut Tally) {
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
                    let taken = self.scanner.feed(rest, tally);
                    if self.scanner.is_broken()
                        || self.scanner.is_done() && !after_value_blank(&rest[taken..])
                    {
                        self.data = Data::Other;
                        tally.broken_document();
                    }
                    return;
                }
                Data::Other => return,
            }
        }
    }

    fn end_event(&mut self, tally: &mut Tally) {
        match self.data {
            Data::Json if self.scanner.is_done() => tally.end_document(false),
            Data::Json => tally.broken_document(),
            Data::Done(matched) if matched == DONE.len() => tally.complete(),
            // What was no JSON at its end is counted as a fault already.
            Data::Done(_) | Data::Other => tally.pass_over(),
            Data::None => {}
        }
        self.data = Data::None;
        self.scanner.reset();
    }
}

fn after_value_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}
