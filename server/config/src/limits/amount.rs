//! Parses amounts such as `10k` and `1.5M`.

use evenkeel_domain::limit::AMOUNT_MAX;

/// Describes a valid amount in error messages.
pub const AMOUNT_EXPECTED: &str = "a whole number up to 10^15, such as 10000, 10k or 1.5M";

/// Parses `10000`, `10k`, `1.5M` or `2G` exactly. Returns whole units or, if `millionths` is set, millionths.
///
/// Returns `None` if the text is not an amount, or if the result is not a whole number or is above 10^15.
pub fn parse_amount(text: &str, millionths: bool) -> Option<u64> {
    let (digits, thousands) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1),
        b'M' => (&text[..text.len() - 1], 2),
        b'G' => (&text[..text.len() - 1], 3),
        _ => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let exponent = 3 * thousands + if millionths { 6 } else { 0 };
    let fraction = fraction.trim_end_matches('0');
    let only_digits = |part: &str| part.len() <= 18 && part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !only_digits(whole) || !only_digits(fraction) || fraction.len() > exponent {
        return None;
    }
    let shift = |part: &str, by: usize| part.parse::<u128>().unwrap_or(0) * 10u128.pow(by as u32);
    let sum = shift(whole, exponent) + shift(fraction, exponent - fraction.len());
    u64::try_from(sum).ok().filter(|sum| *sum <= AMOUNT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        let cases = [
            ("0", false, Some(0)),
            ("10000", false, Some(10_000)),
            ("10k", false, Some(10_000)),
            ("1.5M", false, Some(1_500_000)),
            ("1.5000000", false, None),
            ("1.0", false, Some(1)),
            ("0.5", false, None),
            ("1G", false, Some(1_000_000_000)),
            ("1000000000000000", false, Some(AMOUNT_MAX)),
            ("1000000000000001", false, None),
            ("2.50", true, Some(2_500_000)),
            ("0.000001", true, Some(1)),
            ("0.0000001", true, None),
            ("1000M", true, Some(AMOUNT_MAX)),
            ("", false, None),
            ("k", false, None),
            (".5k", false, None),
            ("-1", false, None),
            ("+1", false, None),
            ("1e3", false, None),
            ("1K", false, None),
            ("1 k", false, None),
            ("99999999999999999999999", false, None),
            ("ü", false, None),
        ];
        for (text, millionths, expected) in cases {
            assert_eq!(parse_amount(text, millionths), expected, "{text}");
        }
    }
}
