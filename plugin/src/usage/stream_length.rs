//! Length of a text that a stream of events carries. Each event contains either the next part of the text or the whole
//! text so far. DashScope and SGLang send either form, depending on the request or the server's configuration, and the
//! events do not show which form they have.

/// Measures the length of such a text, in bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamLength {
    /// Bytes of all complete events.
    total: u64,
    /// Length and hash of the previous event.
    previous_len: u64,
    previous_hash: u64,
    /// Length and hash of the current event, and whether it starts with the text of the previous event.
    len: u64,
    hash: u64,
    continues: bool,
    /// True if at least one event did not start with the text of the previous event.
    incremental: bool,
    /// True if an event was longer than the previous event. Number of events that were equal to it.
    grew: bool,
    repeats: u32,
}

/// Number of repetitions from which events without any growth are parts of a text, such as a word that repeats. Servers
/// that send the whole text repeat it once, with the finish reason.
const REPEATS_OF_PARTS: u32 = 2;

impl StreamLength {
    /// Adds a part of the current event's text.
    pub(super) fn add(&mut self, part: &[u8]) {
        for byte in part {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            self.len += 1;
            if self.len == self.previous_len {
                self.continues = self.hash == self.previous_hash;
            }
        }
    }

    /// Ends the current event. An event without text is ignored.
    pub(super) fn end_event(&mut self) {
        if self.len == 0 {
            return;
        }
        self.incremental |= self.previous_len > 0 && !self.continues;
        self.grew |= self.previous_len > 0 && self.len > self.previous_len;
        self.repeats += u32::from(self.len == self.previous_len);
        self.total += self.len;
        (self.previous_len, self.previous_hash) = (self.len, self.hash);
        self.discard_event();
    }

    /// Returns whether the current event has carried text so far.
    pub(super) fn has_text(&self) -> bool {
        self.len > 0
    }

    /// Forgets the text of the current event.
    pub(super) fn discard_event(&mut self) {
        (self.len, self.hash, self.continues) = (0, 0, false);
    }

    /// Returns the length of the text. While the current event is shorter than the previous event, the form of the
    /// stream is unknown, and the current event counts as a repetition.
    pub(super) fn bytes(&self) -> u64 {
        let is_repeated_word = !self.grew && self.repeats >= REPEATS_OF_PARTS;
        if self.incremental
            || is_repeated_word
            || (self.len >= self.previous_len && self.previous_len > 0 && !self.continues)
        {
            self.total + self.len
        } else {
            self.previous_len.max(self.len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StreamLength;

    #[test]
    fn increments_add_up_and_repeated_text_counts_once() {
        let cases: [(&[&str], u64); 8] = [
            (&["Hel", "lo", " there"], 11),
            (&["Hel", "Hello", "Hello there", "", "Hello there"], 11),
            (&["abc"], 3),
            (&["abc", "xyz"], 6),
            (&["abcd", "ab"], 6),
            (&[], 0),
            (&[" a", " a", " a", " a"], 8),
            (&["a", "ab", "ab", "ab", "ab"], 2),
        ];
        for (events, bytes) in cases {
            let mut length = StreamLength::default();
            for event in events {
                event.bytes().for_each(|byte| length.add(&[byte]));
                length.end_event();
            }
            assert_eq!(length.bytes(), bytes, "{events:?}");
        }
    }
}
