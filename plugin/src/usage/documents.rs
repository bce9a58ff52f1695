//! A body that is one JSON value, a sequence of JSON values, or an array of JSON values.

use super::accumulator::{Place, UsageAccumulator};
use crate::scan::Scanner;

/// Byte before each value of a JSON text sequence (RFC 7464).
pub(super) const RECORD_SEPARATOR: u8 = 0x1e;

/// Splits a body into JSON values.
#[derive(Debug)]
pub(super) struct Documents {
    scanner: Scanner,
    /// True if the values are lines or parts of a stream, as their content type or a second value shows.
    by_line: bool,
    /// True inside the array that contains the values.
    in_array: bool,
    /// True after the first value.
    has_value: bool,
    /// True after an error: the reader skips the rest of the line or, without `by_line`, the rest of the body.
    skipping: bool,
}

impl Documents {
    pub(super) fn new(by_line: bool) -> Documents {
        Documents { scanner: Scanner::default(), by_line, in_array: false, has_value: false, skipping: false }
    }

    pub(super) fn feed(&mut self, chunk: &[u8], accumulator: &mut UsageAccumulator) {
        let mut rest = chunk;
        while let [byte, after @ ..] = rest {
            if self.skipping {
                if !self.by_line {
                    return;
                }
                self.skipping = !matches!(*byte, b'\n' | RECORD_SEPARATOR);
                rest = after;
            } else if self.scanner.is_at_start() && self.consume_separator(*byte, accumulator) {
                rest = after;
            } else {
                if self.has_value && !self.in_array && self.scanner.is_at_start() {
                    self.by_line = true;
                    accumulator.continue_body();
                }
                let consumed = self.scanner.feed(rest, accumulator);
                rest = &rest[consumed..];
                self.after_feed(accumulator);
            }
        }
    }

    /// Ends the body, which is complete unless it ends inside a value or array.
    pub(super) fn end(&mut self, accumulator: &mut UsageAccumulator) {
        if self.scanner.is_at_start() && !self.skipping && !self.in_array {
            accumulator.end();
        }
    }

    /// Consumes a byte between two values. Returns false if the byte starts a value.
    fn consume_separator(&mut self, byte: u8, accumulator: &mut UsageAccumulator) -> bool {
        match byte {
            b'[' if !self.in_array => self.in_array = true,
            b']' if self.in_array => {
                self.in_array = false;
                accumulator.mark_complete();
            }
            b',' => return self.in_array,
            _ => return byte.is_ascii_whitespace() || byte == RECORD_SEPARATOR,
        }
        true
    }

    fn after_feed(&mut self, accumulator: &mut UsageAccumulator) {
        if self.scanner.is_done() {
            accumulator.end_document(match (self.in_array, self.by_line) {
                (true, _) => Place::Item,
                (false, true) => Place::Event,
                (false, false) => Place::Whole,
            });
            self.has_value = true;
        } else if self.scanner.is_broken() {
            accumulator.broken_document();
            self.skipping = true;
        } else {
            return;
        }
        self.scanner.reset();
    }
}
