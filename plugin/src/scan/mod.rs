//! Scans one JSON value that arrives in chunks, split at any byte, and reports each event with its path. The scanner
//! stores only the path and the beginning of some texts, so it needs a few hundred bytes for a value of any size.
//!
//! The scanner is lenient: it checks the structure, but does not validate numbers and bare words.

mod escape;
mod keys;
mod number;
#[cfg(test)]
mod tests;

use keys::KEY_BYTES_MAX;
pub use keys::Key;
use number::Number;

/// Number of nesting levels that the scanner reports; it skips deeper levels.
pub const DEPTH_MAX: usize = 16;

/// Maximum number of bytes stored of a text.
pub const TEXT_BYTES_MAX: usize = 256;

/// An event within a value. Offsets are relative to the first byte of the value's input.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// An object or array starts; `at` is the offset of its bracket.
    Open { array: bool, at: usize },
    /// An object or array ends; `at` is the offset of its bracket.
    Close { at: usize },
    /// A decoded part of a text. Half a surrogate pair becomes three bytes, as if it were a character.
    Part(&'a [u8]),
    /// The end of a text. Contains the first [`TEXT_BYTES_MAX`] bytes of the text if [`Key::keeps_text`], otherwise
    /// nothing.
    Text(&'a [u8]),
    /// The integer part of a number, after its exponent is applied; `None` if the number is negative or malformed.
    Number(Option<u64>),
    /// A bare word at offsets `at` to `end`. `member_at` is the offset of the quote before its member name.
    Word { word: Word, member_at: usize, at: usize, end: usize },
}

/// A token that no event represents whole.
#[derive(Clone, Copy, Debug)]
pub enum Token<'a> {
    /// The name of a member starts. The path is the one of the object.
    Member,
    /// A decoded part of a member's name. The path is the one of the object.
    Name(&'a [u8]),
    /// A part of a value: of a number, before its event; of a word that JSON does not have, before its event; or of what
    /// is deeper than [`DEPTH_MAX`], without blanks and with [`DEEP_QUOTE`] for the quotes of texts.
    Raw(&'a [u8]),
}

/// Stands for a quote in [`Token::Raw`]. Texts in UTF-8 do not contain this byte.
const DEEP_QUOTE: u8 = 0xff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    True,
    False,
    Null,
    /// Any other word, such as `NaN`, which some servers write.
    Other,
}

pub trait Sink {
    /// Handles an event. `path` contains the keys from the outermost value to the value of the event.
    fn on_event(&mut self, path: &[Key], event: Event<'_>);

    /// Handles a token. Called only after [`Scanner::report_tokens`].
    fn on_token(&mut self, _path: &[Key], _token: Token<'_>) {}
}

/// Role of the text that is being scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TextRole {
    Key,
    Value,
    /// The text is deeper than [`DEPTH_MAX`].
    Skipped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    FirstItem,
    FirstKey,
    NextKey,
    Colon,
    After,
    Text(TextRole),
    Escape(TextRole),
    Hex(TextRole),
    /// After the first half of a surrogate pair.
    Half(TextRole),
    Number,
    Word,
    /// Inside a value that is deeper than [`DEPTH_MAX`].
    Skipping,
    Done,
    Broken,
}

#[derive(Debug)]
pub struct Scanner {
    state: State,
    at: usize,
    /// Number of open containers up to [`DEPTH_MAX`], and number of open containers beyond it.
    depth: usize,
    skipped_depth: u32,
    /// One bit per open container: set for an array.
    arrays: u32,
    /// For each open container, the key of the value that is being scanned in it.
    path: [Key; DEPTH_MAX],
    /// Offsets of the current member and of the current value.
    member_at: usize,
    value_at: usize,
    /// Beginning of the current text or word, and whether the text continues after it.
    head: [u8; TEXT_BYTES_MAX],
    head_len: usize,
    truncated: bool,
    /// True if `head` must contain the beginning of the current text.
    keeps_text: bool,
    /// The current escaped code unit, and the number of its digits that are still missing.
    hex: u16,
    hex_left: u8,
    /// The first half of a surrogate pair whose second half may follow; 0 for none.
    high_half: u16,
    /// True if the sink wants every token.
    reports_tokens: bool,
    number: Number,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner {
            state: State::Value,
            at: 0,
            depth: 0,
            skipped_depth: 0,
            arrays: 0,
            path: [Key::Other; DEPTH_MAX],
            member_at: 0,
            value_at: 0,
            head: [0; TEXT_BYTES_MAX],
            head_len: 0,
            truncated: false,
            keeps_text: false,
            hex: 0,
            hex_left: 0,
            high_half: 0,
            reports_tokens: false,
            number: Number::new(b'0'),
        }
    }
}

impl Scanner {
    /// Resets the scanner for a new value. Leaves the buffers as they are, because they are written before they are
    /// read.
    pub fn reset(&mut self) {
        self.state = State::Value;
        (self.at, self.depth, self.high_half) = (0, 0, 0);
    }

    /// Reports tokens too, so that the sink learns every byte of the value that has a meaning.
    pub fn report_tokens(&mut self) {
        self.reports_tokens = true;
    }

    /// Returns whether the scanner has consumed nothing yet.
    pub fn is_at_start(&self) -> bool {
        self.at == 0
    }

    /// Returns whether the value is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Returns whether the input is not JSON.
    pub fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Consumes bytes up to the end of the value or the first error. Returns the number of bytes consumed.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> usize {
        let mut i = 0;
        while i < bytes.len() && !self.is_done() && !self.is_broken() {
            let consumed = match self.state {
                State::Text(role) => self.text(role, &bytes[i..], sink),
                State::Number => self.number(&bytes[i..], sink),
                State::Escape(role) => {
                    self.escape(role, bytes[i], sink);
                    1
                }
                _ => usize::from(self.step(bytes[i], sink)),
            };
            i += consumed;
            self.at += consumed;
        }
        i
    }

    /// Handles one byte outside texts. Returns false if the byte belongs to the next token.
    fn step(&mut self, byte: u8, sink: &mut dyn Sink) -> bool {
        let is_blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.state {
            State::Word => return self.word(byte, sink),
            State::Hex(role) => self.hex(role, byte, sink),
            State::Half(role) => return self.half(role, byte, sink),
            State::Skipping if is_blank => {}
            State::Skipping => self.skip(byte, sink),
            _ if is_blank => {}
            State::FirstItem if byte == b']' => self.close(true, sink),
            State::Value | State::FirstItem => self.value(byte, sink),
            State::FirstKey if byte == b'}' => self.close(false, sink),
            State::FirstKey | State::NextKey if byte == b'"' => {
                self.member_at = self.at;
                if self.reports_tokens {
                    self.report(self.depth - 1, Token::Member, sink);
                }
                self.begin_text(TextRole::Key);
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
            b'"' => {
                self.keeps_text = self.path[..self.depth].last().is_some_and(|key| key.keeps_text());
                self.begin_text(TextRole::Value);
            }
            b'-' | b'0'..=b'9' => {
                self.number = Number::new(byte);
                self.state = State::Number;
                self.raw(&[byte], sink);
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
        sink.on_event(&self.path[..self.depth], Event::Open { array, at: self.at });
        if self.depth == DEPTH_MAX {
            self.skipped_depth = 1;
            self.state = State::Skipping;
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
        sink.on_event(&self.path[..self.depth], Event::Close { at: self.at });
        self.value_ended();
    }

    fn in_array(&self) -> bool {
        self.depth > 0 && self.arrays & (1 << (self.depth - 1)) != 0
    }

    fn value_ended(&mut self) {
        self.state = if self.depth == 0 { State::Done } else { State::After };
    }

    /// Handles a byte of a value that is deeper than [`DEPTH_MAX`].
    fn skip(&mut self, byte: u8, sink: &mut dyn Sink) {
        self.raw(&[if byte == b'"' { DEEP_QUOTE } else { byte }], sink);
        match byte {
            b'"' => self.begin_text(TextRole::Skipped),
            b'{' | b'[' => self.skipped_depth = self.skipped_depth.saturating_add(1),
            b'}' | b']' => {
                self.skipped_depth -= 1;
                if self.skipped_depth == 0 {
                    self.value_ended();
                }
            }
            _ => {}
        }
    }

    fn raw(&self, bytes: &[u8], sink: &mut dyn Sink) {
        if self.reports_tokens {
            self.report(self.depth, Token::Raw(bytes), sink);
        }
    }

    // Responses need no tokens, so their path stays short.
    #[inline(never)]
    fn report(&self, depth: usize, token: Token<'_>, sink: &mut dyn Sink) {
        sink.on_token(&self.path[..depth], token);
    }

    /// Consumes a number up to its end. Returns the number of bytes consumed.
    fn number(&mut self, bytes: &[u8], sink: &mut dyn Sink) -> usize {
        let len = bytes.iter().take_while(|byte| self.number.feed(**byte)).count();
        self.raw(&bytes[..len], sink);
        if len < bytes.len() {
            sink.on_event(&self.path[..self.depth], Event::Number(self.number.value()));
            self.value_ended();
        }
        len
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
        if word == Word::Other {
            self.raw(&self.head[..self.head_len], sink);
        }
        let (member_at, at, end) = (self.member_at, self.value_at, self.at);
        sink.on_event(&self.path[..self.depth], Event::Word { word, member_at, at, end });
        self.value_ended();
        false
    }

    fn begin_text(&mut self, role: TextRole) {
        self.begin_head();
        self.state = State::Text(role);
    }

    fn begin_head(&mut self) {
        (self.head_len, self.truncated) = (0, false);
    }

    /// Consumes a text up to its end or the next escape. Returns the number of bytes consumed.
    fn text(&mut self, role: TextRole, bytes: &[u8], sink: &mut dyn Sink) -> usize {
        let run = run_len(bytes);
        if run > 0 {
            self.part(role, &bytes[..run], sink);
        }
        match bytes.get(run) {
            None => return run,
            Some(b'"') => self.end_text(role, sink),
            Some(b'\\') => self.state = State::Escape(role),
            // JSON does not allow bare control characters.
            Some(_) => self.state = State::Broken,
        }
        run + 1
    }

    fn end_text(&mut self, role: TextRole, sink: &mut dyn Sink) {
        match role {
            TextRole::Skipped => {
                self.raw(&[DEEP_QUOTE], sink);
                self.state = State::Skipping;
            }
            TextRole::Key => {
                let key =
                    if self.truncated { Key::Other } else { Key::from_name(&self.head[..self.head_len]) };
                self.path[self.depth - 1] = key;
                self.state = State::Colon;
            }
            TextRole::Value => {
                sink.on_event(&self.path[..self.depth], Event::Text(&self.head[..self.head_len]));
                self.value_ended();
            }
        }
    }

    /// Handles a decoded part of a text.
    fn part(&mut self, role: TextRole, part: &[u8], sink: &mut dyn Sink) {
        match role {
            TextRole::Skipped => self.raw(part, sink),
            TextRole::Key => {
                if self.reports_tokens {
                    self.report(self.depth - 1, Token::Name(part), sink);
                }
                self.keep(KEY_BYTES_MAX, part);
            }
            TextRole::Value => {
                sink.on_event(&self.path[..self.depth], Event::Part(part));
                if self.keeps_text {
                    self.keep(TEXT_BYTES_MAX, part);
                }
            }
        }
    }

    /// Appends to `head`, up to `bytes_max` bytes in total.
    fn keep(&mut self, bytes_max: usize, part: &[u8]) {
        let room = bytes_max - self.head_len;
        let kept = &part[..part.len().min(room)];
        self.head[self.head_len..self.head_len + kept.len()].copy_from_slice(kept);
        self.head_len += kept.len();
        self.truncated |= kept.len() < part.len();
    }
}

/// Returns the length of the text before the next quote, backslash or control character.
fn run_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    while let Some(eight) = bytes[len..].first_chunk() {
        if may_end_run(u64::from_le_bytes(*eight)) {
            break;
        }
        len += 8;
    }
    let ends_run = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    bytes[len..].iter().position(ends_run).map_or(bytes.len(), |at| len + at)
}

/// Returns whether any of eight bytes is a quote, a backslash or a control character. Compares all eight at once: a
/// subtraction borrows from the highest bit of each byte that is smaller.
fn may_end_run(eight: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGHEST_BITS: u64 = ONES << 7;
    let is_below = |bytes: u64, bound: u64| bytes.wrapping_sub(ONES * bound) & !bytes & HIGHEST_BITS;
    let is = |byte: u8| is_below(eight ^ (ONES * u64::from(byte)), 1);
    is_below(eight, 0x20) | is(b'"') | is(b'\\') != 0
}
