//! Reads an unsigned integer from the digits of a JSON number.

/// Maximum number of fraction digits stored. With a larger exponent, a number of at least 1 exceeds 64 bits anyway.
const FRACTION_DIGITS_MAX: u32 = 19;

/// The part of a number that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Fraction,
    Exponent,
}

/// A number that is being read. Saturates at the largest 64-bit value.
#[derive(Debug)]
pub(super) struct Number {
    part: Part,
    whole: u64,
    /// The stored fraction digits, and the number of these digits.
    fraction: u64,
    fraction_len: u32,
    exponent: u32,
    exponent_negative: bool,
    /// True if the number has no minus sign and is well-formed.
    valid: bool,
}

impl Number {
    /// Starts a number with its first byte, a digit or a minus sign.
    pub(super) fn new(first: u8) -> Number {
        Number {
            part: Part::Whole,
            whole: u64::from(first.saturating_sub(b'0')),
            fraction: 0,
            fraction_len: 0,
            exponent: 0,
            exponent_negative: false,
            valid: first != b'-',
        }
    }

    /// Reads the next byte. Returns false if the byte does not belong to the number.
    pub(super) fn feed(&mut self, byte: u8) -> bool {
        let digit = u64::from(byte.wrapping_sub(b'0'));
        match (byte, self.part) {
            (b'0'..=b'9', Part::Whole) => self.whole = self.whole.saturating_mul(10).saturating_add(digit),
            (b'0'..=b'9', Part::Fraction) => {
                if self.fraction_len < FRACTION_DIGITS_MAX {
                    self.fraction = self.fraction * 10 + digit;
                    self.fraction_len += 1;
                }
            }
            (b'0'..=b'9', Part::Exponent) => {
                self.exponent = self.exponent.saturating_mul(10).saturating_add(digit as u32);
            }
            (b'.', Part::Whole) => self.part = Part::Fraction,
            (b'e' | b'E', Part::Whole | Part::Fraction) => self.part = Part::Exponent,
            (b'-', Part::Exponent) => self.exponent_negative = true,
            (b'+', Part::Exponent) => {}
            (b'.' | b'+' | b'-' | b'a'..=b'z' | b'A'..=b'Z', _) => self.valid = false,
            _ => return false,
        }
        true
    }

    /// Returns the number without its fraction; `None` if it is negative or malformed.
    pub(super) fn value(&self) -> Option<u64> {
        self.valid.then(|| self.magnitude())
    }

    fn magnitude(&self) -> u64 {
        let ten_to = |power: u32| 10_u64.checked_pow(power);
        if self.exponent_negative {
            return ten_to(self.exponent).map_or(0, |divisor| self.whole / divisor);
        }
        let whole = match ten_to(self.exponent) {
            _ if self.whole == 0 => 0,
            Some(factor) => self.whole.saturating_mul(factor),
            None => u64::MAX,
        };
        let fraction = if self.exponent < self.fraction_len {
            ten_to(self.fraction_len - self.exponent).map_or(0, |divisor| self.fraction / divisor)
        } else if self.fraction == 0 {
            0
        } else {
            ten_to(self.exponent - self.fraction_len)
                .map_or(u64::MAX, |factor| self.fraction.saturating_mul(factor))
        };
        whole.saturating_add(fraction)
    }
}
