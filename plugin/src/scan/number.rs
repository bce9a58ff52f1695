//! Reads an unsigned integer from the digits of a JSON number.

/// Significant digits below this bound can take one more digit. Digits beyond cannot change the result: 38 digits exceed
/// 64 bits, unless the exponent removes at least as many digits as were dropped.
const DIGITS_BOUND: u128 = 10_u128.pow(37);

/// Digits below this bound can take one more digit in 64 bits.
const SHORT_BOUND: u64 = 10_u64.pow(18);

/// The part of a number that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Fraction,
    Exponent,
}

/// A number that is being read: `digits` times ten to the power of `power` plus the exponent. Saturates at the largest
/// 64-bit value.
#[derive(Debug)]
pub(super) struct Number {
    part: Part,
    digits: u128,
    power: i64,
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
            digits: u128::from(first.saturating_sub(b'0')),
            power: 0,
            exponent: 0,
            exponent_negative: false,
            valid: first != b'-',
        }
    }

    /// Reads the next byte. Returns false if the byte does not belong to the number.
    pub(super) fn feed(&mut self, byte: u8) -> bool {
        let digit = u32::from(byte.wrapping_sub(b'0'));
        match (byte, self.part) {
            (b'0'..=b'9', Part::Whole | Part::Fraction) => {
                let is_fraction = self.part == Part::Fraction;
                if self.digits < DIGITS_BOUND {
                    self.digits = match u64::try_from(self.digits) {
                        // Most numbers are short, and 64-bit arithmetic is fast.
                        Ok(digits) if digits < SHORT_BOUND => u128::from(digits * 10 + u64::from(digit)),
                        _ => self.digits * 10 + u128::from(digit),
                    };
                    self.power -= i64::from(is_fraction);
                } else {
                    self.power += i64::from(!is_fraction);
                }
            }
            (b'0'..=b'9', Part::Exponent) => {
                self.exponent = self.exponent.saturating_mul(10).saturating_add(digit);
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
        if self.digits == 0 {
            return 0;
        }
        let exponent = i64::from(self.exponent);
        let power = self.power + if self.exponent_negative { -exponent } else { exponent };
        let ten_to = u32::try_from(power.unsigned_abs()).ok().and_then(|n| 10_u128.checked_pow(n));
        let magnitude = match ten_to {
            Some(factor) if power >= 0 => self.digits.saturating_mul(factor),
            Some(divisor) => self.digits / divisor,
            None if power >= 0 => u128::MAX,
            None => 0,
        };
        u64::try_from(magnitude).unwrap_or(u64::MAX)
    }
}
