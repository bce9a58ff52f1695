//! Reads one JSON value from chunks cut anywhere, and tells what it meets and where. Nothing is kept but the way
//! to where it is and the beginning of some texts, so a value of any size takes the same few hundred bytes.
//!
//! It is lenient: it follows the structure and does not judge numbers and words.

mod keys;
#[cfg(test)]
mod tests;

use keys::KEY_BYTES_MAX;
pub use keys::Key;

/// Levels of nesting followed. What is deeper is passed over.
pub const DEPTH_MAX: usize = 16;

/// Bytes kept of a text.
pub const TEXT_BYTES_MAX: usize = 256;

/// Something met in a value.
#[derive(Debug)]
pub enum Event<'a> {
    /// An object or array begins at this offset.
    Open {
        /// Whether it is an array.
        array: bool,
        /// Offset of its bracket.
        at: usize,
    },
    /// It ends.
    Close {
        /// Offset of its bracket.
        at: usize,
    },
    /// More of a text, decoded. Half of a surrogate pair comes as two bytes of no meaning.
    Part(&'a [u8]),
    /// The end of a text, with its beginning where its name is one of those kept, at most [`TEXT_BYTES_MAX`].
    Text(&'a [u8]),
    /// A number, also one with an exponent; none where it is negative. A fraction is left off.
    Number(Option<u64>),
    /// `true`, `false`, `null`, or another word.
    Word {
        /// The word.
        word: Word,
        /// Where its member begins: the quote before its name.
        member_at: usize,
        /// Where it begins.
        at: usize,
        /// Where it has ended.
        end: usize,
    },
}

/// A bare word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// `true`
    True,
    /// `false`
    False,
    /// `null`
    Null,
    /// Such as `NaN`, which some servers write.
    Other,
}

/// Takes what is met, with the names from the outermost to that of the value itself.
pub trait Sink {
    /// Something was met.
    fn on(&mut self, path: &[Key], event: Event<'_>);
}

/// Which text is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Key,
    Value,
    /// Below what is followed.
    Deep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    FirstItem,
    FirstKey,
    NextKey,
    Colon,
    After,
    Text(Of),
    Escape(Of),
    Hex(Of),
    Number,
    Word,
    Deep,
    Done,
    Broken,
}

/// Which part of a number is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DigitsOf {
    Whole,
    Fraction,
    Exponent,
}

/// Digits behind the point that may count: with more a number leaves 64 bits anyway.
const FRACTION_DIGITS_MAX: u32 = 19;

/// The reader of one value.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    /// Bytes taken.
    at: usize,
    /// Containers open; those beyond [`DEPTH_MAX`] are `deep`.
    depth: usize,
    deep: u32,
    /// A bit for each container: it is an array.
    arrays: u32,
    /// For each container the name of its value being read.
    path: [Key; DEPTH_MAX],
    /// Offset of the member being read, and of its value.
    member_at: usize,
    value_at: usize,
    /// Beginning of the text or word being read, and whether it was longer.
    head: [u8; TEXT_BYTES_MAX],
    head_len: usize,
    longer: bool,
    /// An escaped code unit being read, and its digits left.
    hex: u16,
    hex_left: u8,
    number: u64,
    /// The number can be given: it has no sign and no letters.
    plain: bool,
    /// Its digits behind the point, as many as may count, and how many these are.
    fraction: u64,
    fraction_len: u32,
    exponent: u32,
    exponent_negative: bool,
    digits_of: DigitsOf,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner {
            state: State::Value,
            at: 0,
            depth: 0,
            deep: 0,
            arrays: 0,
            path: [Key::Other; DEPTH_MAX],
            member_at: 0,
            value_at: 0,
            head: [0; TEXT_BYTES_MAX],
            head_len: 0,
            longer: false,
            hex: 0,
            hex_left: 0,
            number: 0,
            plain: true,
            fraction: 0,
            fraction_len: 0,
            exponent: 0,
            exponent_negative: false,
            digits_of: DigitsOf::Whole,
        }
    }
}

impl Scanner {
    /// Starts anew.
    pub fn reset(&mut self) {
        *self = Scanner::default();
    }

    /// Whether nothing of the value has come yet.
    pub fn is_fresh(&self) -> bool {
        self.at == 0
    }

    /// Whether the value is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether this is no JSON.
    pub fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Takes bytes up to the end of the value, or to a fault; how many it took.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> usize {
        let mut i = 0;
        while i < bytes.len() && !self.is_done() && !self.is_broken() {
            let taken = match self.state {
                State::Text(of) => self.text(of, &bytes[i..], sink),
                _ => usize::from(self.step(bytes[i], sink)),
            };
            i += taken;
            self.at += taken;
        }
        i
    }

    /// One byte outside texts. False: it belongs to what follows.
    fn step(&mut self, byte: u8, sink: &mut dyn Sink) -> bool {
        let blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.state {
            State::Number => return self.number(byte, sink),
            State::Word => return self.word(byte, sink),
            State::Escape(of) => self.escape(of, byte, sink),
            State::Hex(of) => self.hex(of, byte, sink),
            State::Deep => self.deep(byte),
            _ if blank => {}
            State::FirstItem if byte == b']' => self.close(true, sink),
            State::Value | State::FirstItem => self.value(byte, sink),
            State::FirstKey if byte == b'}' => self.close(false, sink),
            State::FirstKey | State::NextKey if byte == b'"' => {
                self.member_at = self.at;
                self.begin_text(Of::Key);
            }
            State::Colon if byte == b':' => self.state = State::Value,
            State::After => match byte {
                b',' if self.in_array() => self.state = State::Value,
                b',' => self.state = State::NextKey,
                b']' => self.close(true, sink),
                b'}' => self.close(false, sink),
                _ => self.state = State::Broken,
            },
            _ => self.state = State::Broken,
        }
        true
    }

    fn value(&mut self, byte: u8, sink: &mut dyn Sink) {
        self.value_at = self.at;
        match byte {
            b'{' => self.open(false, sink),
            b'[' => self.open(true, sink),
            b'"' => self.begin_text(Of::Value),
            b'-' | b'0'..=b'9' => {
                self.number = u64::from(byte.saturating_sub(b'0'));
                self.plain = byte != b'-';
                (self.fraction, self.fraction_len) = (0, 0);
                (self.exponent, self.exponent_negative) = (0, false);
                self.digits_of = DigitsOf::Whole;
                self.state = State::Number;
            }
            b'a'..=b'z' | b'A'..=b'Z' => {
                self.begin_head();
                self.keep(TEXT_BYTES_MAX, &[byte]);
                self.state = State::Word;
            }
            _ => self.state = State::Broken,
        }
    }

    fn open(&mut self, array: bool, sink: &mut dyn Sink) {
        sink.on(&self.path[..self.depth], Event::Open { array, at: self.at });
        if self.depth == DEPTH_MAX {
            self.deep = 1;
            self.state = State::Deep;
            return;
        }
        let bit = 1 << self.depth;
        self.arrays = if array { self.arrays | bit } else { self.arrays & !bit };
        self.path[self.depth] = if array { Key::Item } else { Key::Other };
        self.depth += 1;
        self.state = if array { State::FirstItem } else { State::FirstKey };
    }

    fn close(&mut self, array: bool, sink: &mut dyn Sink) {
        if self.in_array() != array {
            self.state = State::Broken;
            return;
        }
        self.depth -= 1;
        sink.on(&self.path[..self.depth], Event::Close { at: self.at });
        self.value_ended();
    }

    fn in_array(&self) -> bool {
        self.depth > 0 && self.arrays & (1 << (self.depth - 1)) != 0
    }

    fn value_ended(&mut self) {
        self.state = if self.depth == 0 { State::Done } else { State::After };
    }

    /// A byte below what is followed.
    fn deep(&mut self, byte: u8) {
        match byte {
            b'"' => self.begin_text(Of::Deep),
            b'{' | b'[' => self.deep = self.deep.saturating_add(1),
            b'}' | b']' => {
                self.deep -= 1;
                if self.deep == 0 {
                    self.value_ended();
                }
            }
            _ => {}
        }
    }

    fn number(&mut self, byte: u8, sink: &mut dyn Sink) -> bool {
        let digit = u64::from(byte.wrapping_sub(b'0'));
        match (byte, self.digits_of) {
            (b'0'..=b'9', DigitsOf::Whole) => {
                self.number = self.number.saturating_mul(10).saturating_add(digit);
            }
            (b'0'..=b'9', DigitsOf::Fraction) => {
                if self.fraction_len < FRACTION_DIGITS_MAX {
                    self.fraction = self.fraction * 10 + digit;
                    self.fraction_len += 1;
                }
            }
            (b'0'..=b'9', DigitsOf::Exponent) => {
                self.exponent = self.exponent.saturating_mul(10).saturating_add(digit as u32);
            }
            (b'.', DigitsOf::Whole) => self.digits_of = DigitsOf::Fraction,
            (b'e' | b'E', DigitsOf::Whole | DigitsOf::Fraction) => self.digits_of = DigitsOf::Exponent,
            (b'-', DigitsOf::Exponent) => self.exponent_negative = true,
            (b'+', DigitsOf::Exponent) => {}
            (b'.' | b'+' | b'-' | b'a'..=b'z' | b'A'..=b'Z', _) => self.plain = false,
            _ => {
                let number = self.plain.then(|| self.number_read());
                sink.on(&self.path[..self.depth], Event::Number(number));
                self.value_ended();
                return false;
            }
        }
        true
    }

    /// The number, without its fraction; the largest where it is larger than that.
    fn number_read(&self) -> u64 {
        let ten_to = |power: u32| 10_u64.checked_pow(power);
        if self.exponent_negative {
            return ten_to(self.exponent).map_or(0, |by| self.number / by);
        }
        let whole = match ten_to(self.exponent) {
            _ if self.number == 0 => 0,
            Some(by) => self.number.saturating_mul(by),
            None => u64::MAX,
        };
        let below = if self.exponent < self.fraction_len {
            ten_to(self.fraction_len - self.exponent).map_or(0, |by| self.fraction / by)
        } else {
            let by = ten_to(self.exponent - self.fraction_len);
            if self.fraction == 0 { 0 } else { by.map_or(u64::MAX, |by| self.fraction.saturating_mul(by)) }
        };
        whole.saturating_add(below)
    }

    fn word(&mut self, byte: u8, sink: &mut dyn Sink) -> bool {
        if byte.is_ascii_alphanumeric() {
            self.keep(TEXT_BYTES_MAX, &[byte]);
            return true;
        }
        let word = match &self.head[..self.head_len] {
            b"true" => Word::True,
            b"false" => Word::False,
            b"null" => Word::Null,
            _ => Word::Other,
        };
        let (member_at, at, end) = (self.member_at, self.value_at, self.at);
        sink.on(&self.path[..self.depth], Event::Word { word, member_at, at, end });
        self.value_ended();
        false
    }

    fn begin_text(&mut self, of: Of) {
        self.begin_head();
        self.state = State::Text(of);
    }

    fn begin_head(&mut self) {
        (self.head_len, self.longer) = (0, false);
    }

    /// Bytes of a text, up to its end or an escape; how many.
    fn text(&mut self, of: Of, bytes: &[u8], sink: &mut dyn Sink) -> usize {
        let run = bytes.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(bytes.len());
        if run > 0 {
            self.part(of, &bytes[..run], sink);
        }
        match bytes.get(run) {
            None => return run,
            Some(b'"') => self.end_text(of, sink),
            Some(b'\\') => self.state = State::Escape(of),
            // A bare control character: no JSON.
            Some(_) => self.state = State::Broken,
        }
        run + 1
    }

    fn end_text(&mut self, of: Of, sink: &mut dyn Sink) {
        match of {
            Of::Deep => self.state = State::Deep,
            Of::Key => {
                let key = if self.longer { Key::Other } else { Key::of(&self.head[..self.head_len]) };
                self.path[self.depth - 1] = key;
                self.state = State::Colon;
            }
            Of::Value => {
                sink.on(&self.path[..self.depth], Event::Text(&self.head[..self.head_len]));
                self.value_ended();
            }
        }
    }

    /// A decoded piece of a text.
    fn part(&mut self, of: Of, piece: &[u8], sink: &mut dyn Sink) {
        match of {
            Of::Deep => {}
            Of::Key => self.keep(KEY_BYTES_MAX, piece),
            Of::Value => {
                let path = &self.path[..self.depth];
                let keeps = path.last().is_some_and(|key| key.keeps());
                sink.on(path, Event::Part(piece));
                if keeps {
                    self.keep(TEXT_BYTES_MAX, piece);
                }
            }
        }
    }

    fn keep(&mut self, bytes_max: usize, piece: &[u8]) {
        let room = bytes_max - self.head_len;
        let kept = &piece[..piece.len().min(room)];
        self.head[self.head_len..self.head_len + kept.len()].copy_from_slice(kept);
        self.head_len += kept.len();
        self.longer |= kept.len() < piece.len();
    }

    fn escape(&mut self, of: Of, byte: u8, sink: &mut dyn Sink) {
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                (self.hex, self.hex_left) = (0, 4);
                self.state = State::Hex(of);
                return;
            }
            _ => {
                self.state = State::Broken;
                return;
            }
        };
        self.state = State::Text(of);
        self.part(of, &[plain], sink);
    }

    fn hex(&mut self, of: Of, byte: u8, sink: &mut dyn Sink) {
        let Some(digit) = char::from(byte).to_digit(16) else {
            self.state = State::Broken;
            return;
        };
        self.hex = self.hex << 4 | digit as u16;
        self.hex_left -= 1;
        if self.hex_left > 0 {
            return;
        }
        self.state = State::Text(of);
        // Each half of a surrogate pair stands for two of the character's four bytes.
        match char::from_u32(self.hex.into()) {
            Some(char) => {
                let mut utf8 = [0; 4];
                self.part(of, char.encode_utf8(&mut utf8).as_bytes(), sink);
            }
            None => self.part(of, b"??", sink),
        }
    }
}
