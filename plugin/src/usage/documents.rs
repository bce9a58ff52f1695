//! A body of JSON values: one, several after each other, or an array of them.

use super::tally::Tally;
use crate::scan::Scanner;

/// Where the values of a body begin and end.
#[derive(Debug)]
pub(super) struct Documents {
    scanner: Scanner,
    by_line: bool,
    /// Within an array of values.
    in_array: bool,
    /// Past a fault: up to the end of the line, or for good.
    skipping: bool,
}

impl Documents {
    pub(super) fn new(by_line: bool) -> Documents {
        Documents { scanner: Scanner::default(), by_line, in_array: false, skipping: false }
    }

    pub(super) fn feed(&mut self, chunk: &[u8], tally: &mut Tally) {
        let mut rest = chunk;
        while let [byte, after @ ..] = rest {
            if self.skipping {
                if !self.by_line {
                    return;
                }
                self.skipping = *byte != b'\n';
                rest = after;
            } else if self.scanner.is_fresh() && self.between(*byte) {
                rest = after;
            } else {
                let taken = self.scanner.feed(rest, tally);
                rest = &rest[taken..];
                self.after_feed(tally);
            }
        }
    }

    /// Whether the body ended between two values.
    pub(super) fn end(&mut self) -> bool {
        self.scanner.is_fresh() && !self.skipping && !self.in_array
    }

    /// Whether a byte stands between values.
    fn between(&mut self, byte: u8) -> bool {
        match byte {
            b'[' if !self.in_array => self.in_array = true,
            b']' if self.in_array => self.in_array = false,
            b',' => return self.in_array,
            _ => return byte.is_ascii_whitespace(),
        }
        true
    }

    fn after_feed(&mut self, tally: &mut Tally) {
        if self.scanner.is_done() {
            // One value that is the whole body has told all there is; lines and items are followed by others.
            tally.end_document(!self.by_line && !self.in_array);
        } else if self.scanner.is_broken() {
            tally.broken_document();
            self.skipping = true;
        } else {
            return;
        }
        self.scanner.reset();
    }
}
