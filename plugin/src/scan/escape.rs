//! Decodes the escapes of texts.

use super::{Scanner, Sink, State, TextRole};

impl Scanner {
    /// Handles the byte after a backslash.
    pub(super) fn escape(&mut self, role: TextRole, byte: u8, sink: &mut dyn Sink) {
        if self.high_half != 0 && byte != b'u' {
            self.lone_half(role, sink);
        }
        let decoded = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                (self.hex, self.hex_left) = (0, 4);
                self.state = State::Hex(role);
                return;
            }
            _ => {
                self.state = State::Broken;
                return;
            }
        };
        self.state = State::Text(role);
        self.part(role, &[decoded], sink);
    }

    /// Handles a digit of an escaped code unit.
    pub(super) fn hex(&mut self, role: TextRole, byte: u8, sink: &mut dyn Sink) {
        let Some(digit) = char::from(byte).to_digit(16) else {
            self.state = State::Broken;
            return;
        };
        self.hex = self.hex << 4 | digit as u16;
        self.hex_left -= 1;
        if self.hex_left > 0 {
            return;
        }
        self.state = State::Text(role);
        self.code_unit(role, sink);
    }

    /// Handles an escaped code unit. Two of them may be the halves of one character.
    fn code_unit(&mut self, role: TextRole, sink: &mut dyn Sink) {
        let (high, unit) = (self.high_half, self.hex);
        if high != 0 && is_low_half(unit) {
            self.high_half = 0;
            let code = 0x1_0000 + ((u32::from(high) & 0x3ff) << 10) + (u32::from(unit) & 0x3ff);
            return self.char(role, code, sink);
        }
        if high != 0 {
            self.lone_half(role, sink);
        }
        if matches!(unit, 0xd800..0xdc00) {
            self.high_half = unit;
            self.state = State::Half(role);
        } else {
            self.char(role, unit.into(), sink);
        }
    }

    /// Handles the byte after the first half of a surrogate pair. Returns false if the byte belongs to the next token.
    pub(super) fn half(&mut self, role: TextRole, byte: u8, sink: &mut dyn Sink) -> bool {
        if byte == b'\\' {
            self.state = State::Escape(role);
            return true;
        }
        self.state = State::Text(role);
        self.lone_half(role, sink);
        false
    }

    /// Handles the first half of a surrogate pair without its second half.
    fn lone_half(&mut self, role: TextRole, sink: &mut dyn Sink) {
        let half = std::mem::take(&mut self.high_half);
        self.char(role, half.into(), sink);
    }

    fn char(&mut self, role: TextRole, code: u32, sink: &mut dyn Sink) {
        let mut utf8 = [0; 4];
        match char::from_u32(code) {
            Some(char) => self.part(role, char.encode_utf8(&mut utf8).as_bytes(), sink),
            // Different halves must stay different, because the hashes of prompts tell texts apart.
            None => {
                let tail = |shift: u32| 0x80 | (code >> shift & 0x3f) as u8;
                self.part(role, &[0xe0 | (code >> 12) as u8, tail(6), tail(0)], sink);
            }
        }
    }
}

fn is_low_half(unit: u16) -> bool {
    matches!(unit, 0xdc00..0xe000)
}
