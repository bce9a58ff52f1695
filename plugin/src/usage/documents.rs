//! A body that is one JSON value, a sequence of JSON values, or an array of JSON values.

use super::accumulator::UsageAccumulator;
use crate::scan::Scanner;

/// Splits a body into JSON values.
#[derive(Debug)]
pub(super) struct Documents {
    scanner: Scanner,
    by_line: bool,
    /// True inside the array that contains the values.
    in_array: bool,
    /// True after an error: the reader skips the rest of the line or, without `by_line`, the rest of the body.
    skipping: bool,
}

impl Documents {
    pub(super) fn new(by_line: bool) -> Documents {
        Documents { scanner: Scanner::default(), by_line, in_array: false, skipping: false }
    }

    pub(super) fn feed(&mut self, chunk: &[u8], accumulator: &mut UsageAccumulator) {
        let mut rest = chunk;
        while let [byte, after @ ..] = rest {
            if self.skipping {
                if !self.by_line {
                    return;
                }
                self.skipping = *byte != b'\n';
                rest = after;
            } else if self.scanner.is_at_start() && self.consume_separator(*byte) {
                rest = after;
            } else {
                let consumed = self.scanner.feed(rest, accumulator);
                rest = &rest[consumed..];
                self.after_feed(accumulator);
            }
        }
    }

    /// Returns whether the body so far ends between two values.
    pub(super) fn is_between_values(&self) -> bool {
        self.scanner.is_at_start() && !self.skipping && !self.in_array
    }

    /// Consumes a byte between two values. Returns false if the byte starts a value.
    fn consume_separator(&mut self, byte: u8) -> bool {
        match byte {
            b'[' if !self.in_array => self.in_array = true,
            b']' if self.in_array => self.in_array = false,
            b',' => return self.in_array,
            _ => return byte.is_ascii_whitespace(),
        }
        true
    }

    fn after_feed(&mut self, accumulator: &mut UsageAccumulator) {
        if self.scanner.is_done() {
            // A single value is the whole body. After a line or an array item, more values may follow.
            accumulator.end_document(!self.by_line && !self.in_array);
        } else if self.scanner.is_broken() {
            accumulator.broken_document();
            self.skipping = true;
        } else {
            return;
        }
        self.scanner.reset();
    }
}
