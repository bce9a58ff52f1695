//! Paired differences: what one variant costs more than another in the same round.

use serde::{Deserialize, Serialize};

/// The median of paired differences with a confidence interval of at least 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    pub median: f64,
    /// Bounds of the interval. With fewer than 6 rounds no interval has 95 %, and the bounds are the extremes.
    pub low: f64,
    pub high: f64,
}

impl Difference {
    /// Compares the values of two variants, whose rounds have the same order. Without rounds, all fields are 0.
    pub(super) fn between(of: impl IntoIterator<Item = f64>, minus: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = of.into_iter().zip(minus).map(|(of, minus)| of - minus).collect();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return Self { median: 0.0, low: 0.0, high: 0.0 };
        };
        let outside = excluded_ranks(sorted.len());
        Self { median: median_of_sorted(&sorted), low: sorted[outside], high: sorted[last - outside] }
    }
}

/// Returns the median; 0 without values.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    median_of_sorted(&sorted)
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    if n == 0 { 0.0 } else { (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0 }
}

/// Returns how many of the smallest and of the largest of `n` samples are outside the median's interval: the largest
/// `k` with P(B ≤ k) ≤ 2.5 %, where B is binomial with n trials and probability ½ (the interval of the sign test).
fn excluded_ranks(n: usize) -> usize {
    let mut probability = 0.5f64.powi(n as i32);
    let mut at_most = probability;
    let mut k = 0;
    while k < n / 2 {
        probability *= (n - k) as f64 / (k + 1) as f64;
        at_most += probability;
        if at_most > 0.025 {
            break;
        }
        k += 1;
    }
    k
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_the_ranks_of_the_sign_test() {
        // Standard tables give the intervals [1, 6], [2, 9], [3, 13] and [6, 15] for these numbers of samples.
        for (n, excluded) in [(0, 0), (1, 0), (2, 0), (5, 0), (6, 0), (10, 1), (15, 3), (20, 5)] {
            assert_eq!(excluded_ranks(n), excluded, "{n} samples");
        }
    }

    #[test]
    fn differences_are_taken_within_a_round() {
        let fast = [1.0, 100.0, 3.0, 50.0];
        let slow = [2.0, 102.0, 6.0, 54.0];
        let difference = Difference::between(slow, fast);
        assert_eq!(difference, Difference { median: 2.5, low: 1.0, high: 4.0 });
        assert_eq!(median([3.0, 1.0]), 2.0);
        assert_eq!(Difference::between([], []).median, 0.0);
    }
}
