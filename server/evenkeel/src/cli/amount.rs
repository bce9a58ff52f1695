//! Amounts of limits and quotas, as arguments and in tables.

use evenkeel_config::{AMOUNT_EXPECTED, parse_amount};
use evenkeel_proto::v1 as pb;

use super::output::word;

/// Help text about the unit of amounts of cost.
pub(super) const OF_COST: &str = "\
Amounts are whole numbers, such as 10000, 100k or 1.5M; tables print all digits. If a limit or quota counts cost, amounts
are in millionths of the currency of `prices`: 2.50 is written 2.5M, and printed as 2500000.";

/// Parses an amount in the configuration's syntax, but in the API's unit: cost is in millionths of the currency.
///
/// # Errors
/// Returns a text that describes valid amounts.
pub(super) fn amount(text: &str) -> Result<u64, String> {
    let wrong = || format!("must be {AMOUNT_EXPECTED}; cost in millionths of the currency: 1.5M for 1.50");
    parse_amount(text, false).ok_or_else(wrong)
}

/// Returns what a limit or quota counts, with the unit if it counts cost; `-` if it is no longer configured.
pub(super) fn unit(counts: i32) -> String {
    if counts == i32::from(pb::Counts::Cost) {
        "cost (millionths)".to_owned()
    } else {
        word::<pb::Counts>(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_those_of_the_configuration() {
        let right =
            [("0", 0), ("100000", 100_000), ("100k", 100_000), ("1.5M", 1_500_000), ("1M", 1_000_000)];
        for (text, expected) in right {
            assert_eq!(amount(text), Ok(expected), "{text}");
        }
        for text in ["", "1.5", "0.5", "-1", "1e3", "100 k", "100K", "1000000000000001", "many"] {
            let error = amount(text).unwrap_err();
            assert!(error.contains("must be a whole number up to 10^15, such as"), "{text}: {error}");
            assert!(error.contains("1.5M for 1.50"), "{text}: {error}");
        }
    }

    #[test]
    fn only_cost_needs_a_unit() {
        assert_eq!(unit(pb::Counts::Cost.into()), "cost (millionths)");
        assert_eq!(unit(pb::Counts::Tokens.into()), "tokens");
        assert_eq!(unit(0), "-");
    }
}
