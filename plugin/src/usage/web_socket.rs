//! The server's side of a WebSocket connection (RFC 6455). Each message is one JSON value.

use super::accumulator::{Place, UsageAccumulator};
use crate::scan::Scanner;

/// Longest header of a frame: 2 bytes, 8 of the length, and 4 of the mask.
const HEADER_BYTES_MAX: usize = 14;
/// Bits of the first byte of a frame: the last frame of a message, an extension such as compression, and a control
/// frame.
const FINAL: u8 = 0x80;
const EXTENDED: u8 = 0x70;
const CONTROL: u8 = 0x08;

/// Splits a connection into messages.
#[derive(Debug, Default)]
pub(super) struct WebSocket {
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    /// Bytes of the frame's payload that follow, and that have passed.
    left: u64,
    passed: usize,
    scanner: Scanner,
    /// True if the current message cannot be read, for example because it is compressed or not JSON.
    is_unreadable: bool,
}

impl WebSocket {
    pub(super) fn feed(&mut self, chunk: &[u8], accumulator: &mut UsageAccumulator) {
        accumulator.set_connection();
        let mut rest = chunk;
        while let [byte, after @ ..] = rest {
            if self.left == 0 {
                rest = after;
                self.header[self.header_len] = *byte;
                self.header_len += 1;
                if self.header_len == self.header_bytes() {
                    self.begin_frame(accumulator);
                }
                continue;
            }
            let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at(len);
            rest = after;
            self.payload(part, accumulator);
            self.left -= len as u64;
            if self.left == 0 {
                self.end_frame(accumulator);
            }
        }
    }

    /// Returns the length of the frame's header, as far as its first two bytes show.
    fn header_bytes(&self) -> usize {
        let length = match self.header[1] & 0x7f {
            _ if self.header_len < 2 => return HEADER_BYTES_MAX,
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.is_masked() { 4 } else { 0 }
    }

    fn is_masked(&self) -> bool {
        self.header[1] & 0x80 != 0
    }

    fn is_control(&self) -> bool {
        self.header[0] & CONTROL != 0
    }

    fn begin_frame(&mut self, accumulator: &mut UsageAccumulator) {
        let header = self.header;
        self.left = match header[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([header[2], header[3]])),
            127 => header[2..10].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
            short => u64::from(short),
        };
        self.passed = 0;
        // Extensions mark only the first frame of a message.
        self.is_unreadable |= !self.is_control() && header[0] & EXTENDED != 0;
        if self.left == 0 {
            self.end_frame(accumulator);
        }
    }

    fn payload(&mut self, part: &[u8], accumulator: &mut UsageAccumulator) {
        if self.is_control() || self.is_unreadable {
            return;
        }
        if !self.is_masked() {
            self.is_unreadable = !self.scan(part, accumulator);
            return;
        }
        let mask: [u8; 4] = std::array::from_fn(|i| self.header[self.header_len - 4 + i]);
        for byte in part {
            let byte = byte ^ mask[self.passed % 4];
            self.passed += 1;
            self.is_unreadable |= !self.scan(&[byte], accumulator);
        }
    }

    /// Scans a part of a message. Returns false if the message is not one JSON value.
    fn scan(&mut self, part: &[u8], accumulator: &mut UsageAccumulator) -> bool {
        let consumed = self.scanner.feed(part, accumulator);
        !self.scanner.is_broken() && part[consumed..].iter().all(u8::is_ascii_whitespace)
    }

    fn end_frame(&mut self, accumulator: &mut UsageAccumulator) {
        let is_end = self.header[0] & FINAL != 0 && !self.is_control();
        let has_data = !self.scanner.is_at_start() || self.is_unreadable;
        self.header_len = 0;
        if !is_end || !has_data {
            return;
        }
        if self.is_unreadable || !self.scanner.is_done() {
            accumulator.broken_document();
        } else {
            accumulator.end_document(Place::Message);
        }
        self.scanner.reset();
        self.is_unreadable = false;
    }
}
