//! A text sent in pieces, or each time from its beginning: DashScope does either, as the request asked, and the
//! events look the same.

/// Counts such a text.
#[derive(Clone, Debug, Default)]
pub(super) struct Growing {
    /// Bytes of all events.
    sum: u64,
    /// Length and hash of the event before.
    before: u64,
    before_hash: u64,
    /// Of the event under way; it began like the one before.
    len: u64,
    hash: u64,
    alike: bool,
    /// Some event did not continue the one before.
    pieces: bool,
}

impl Growing {
    /// More of an event's text.
    pub(super) fn part(&mut self, piece: &[u8]) {
        for byte in piece {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            self.len += 1;
            if self.len == self.before {
                self.alike = self.hash == self.before_hash;
            }
        }
    }

    /// The event ended. One without text tells nothing.
    pub(super) fn end(&mut self) {
        if self.len == 0 {
            return;
        }
        self.pieces |= self.before > 0 && !self.alike;
        self.sum += self.len;
        (self.before, self.before_hash) = (self.len, self.hash);
        (self.len, self.hash, self.alike) = (0, 0, false);
    }

    /// Bytes of the text. Of an event under way it is not known yet whether it continues the one before.
    pub(super) fn bytes(&self) -> u64 {
        if self.pieces || (self.len >= self.before && self.before > 0 && !self.alike) {
            self.sum + self.len
        } else {
            self.before.max(self.len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Growing;

    #[test]
    fn pieces_are_added_and_repeated_texts_are_not() {
        let cases: [(&[&str], u64); 6] = [
            (&["Hel", "lo", " there"], 11),
            (&["Hel", "Hello", "Hello there", "", "Hello there"], 11),
            (&["abc"], 3),
            (&["abc", "xyz"], 6),
            (&["abcd", "ab"], 6),
            (&[], 0),
        ];
        for (events, bytes) in cases {
            let mut growing = Growing::default();
            for event in events {
                event.bytes().for_each(|byte| growing.part(&[byte]));
                growing.end();
            }
            assert_eq!(growing.bytes(), bytes, "{events:?}");
        }
    }
}
