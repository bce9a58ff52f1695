//! How much chance contributes to the difference between two runs of the same requests: a paired block bootstrap.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use crate::percentiles::Percentiles;

/// Number of resamples. The ends of a 95 % interval are the 25th and the 975th of them.
const RESAMPLES: usize = 1000;
/// Requests that are drawn together. Requests that arrive soon after each other wait behind the same prompts, so single
/// requests are not independent, and drawing them one by one would give too narrow an interval.
const BLOCK: usize = 50;
/// Fewer blocks than this give no interval.
const BLOCKS_MIN: usize = 10;

/// A ratio with its 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Times to first token under one policy, divided by those under another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratios {
    /// Requests that were successful under both policies.
    pub pairs: usize,
    pub p50: Ratio,
    pub p90: Ratio,
    pub p99: Ratio,
    pub mean: Ratio,
}

impl Ratios {
    /// Compares two runs of the same requests in order of arrival; `None` for a failed request. Returns `None` if there are
    /// too few requests for an interval.
    pub fn of(ours: &[Option<f64>], theirs: &[Option<f64>], seed: u64) -> Option<Self> {
        let pairs: Vec<(f64, f64)> = ours.iter().zip(theirs).filter_map(|(a, b)| (*a).zip(*b)).collect();
        if pairs.len() < BLOCK * BLOCKS_MIN {
            return None;
        }
        let mut rng = SmallRng::seed_from_u64(seed);
        let resamples: Vec<[f64; 4]> = (0..RESAMPLES).map(|_| ratios(&resample(&pairs, &mut rng))).collect();
        let [p50, p90, p99, mean] = ratios(&pairs);
        let ratio = |index: usize, value| {
            let mut values: Vec<f64> = resamples.iter().map(|resample| resample[index]).collect();
            values.sort_by(f64::total_cmp);
            Ratio { value, low: values[RESAMPLES / 40], high: values[RESAMPLES - 1 - RESAMPLES / 40] }
        };
        Some(Self {
            pairs: pairs.len(),
            p50: ratio(0, p50),
            p90: ratio(1, p90),
            p99: ratio(2, p99),
            mean: ratio(3, mean),
        })
    }
}

/// Draws as many pairs as there are, in blocks that may begin at any request.
fn resample(pairs: &[(f64, f64)], rng: &mut SmallRng) -> Vec<(f64, f64)> {
    let mut drawn = Vec::with_capacity(pairs.len() + BLOCK);
    while drawn.len() < pairs.len() {
        let start = rng.random_range(0..pairs.len());
        drawn.extend(pairs.iter().cycle().skip(start).take(BLOCK));
    }
    drawn.truncate(pairs.len());
    drawn
}

/// Returns the ratios of p50, p90, p99 and mean.
fn ratios(pairs: &[(f64, f64)]) -> [f64; 4] {
    let ours = Percentiles::of(pairs.iter().map(|pair| pair.0));
    let theirs = Percentiles::of(pairs.iter().map(|pair| pair.1));
    [ours.p50 / theirs.p50, ours.p90 / theirs.p90, ours.p99 / theirs.p99, ours.mean / theirs.mean]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times with a long tail. Neighbours are alike.
    fn times(seed: u64) -> Vec<Option<f64>> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut level: f64 = 0.0;
        let time = |_| {
            level = 0.95 * level + rng.random_range(-0.5..0.5);
            Some(100.0 * level.exp())
        };
        (0..2000).map(time).collect()
    }

    #[test]
    fn a_constant_factor_has_no_uncertainty() {
        let theirs = times(1);
        let ours: Vec<_> = theirs.iter().map(|time| time.map(|time| time / 2.0)).collect();
        let ratios = Ratios::of(&ours, &theirs, 1).unwrap();
        assert_eq!(ratios.pairs, 2000);
        for ratio in [ratios.p50, ratios.p90, ratios.p99, ratios.mean] {
            assert!(
                [ratio.value, ratio.low, ratio.high].iter().all(|x| (x - 0.5).abs() < 1e-9),
                "{ratios:?}"
            );
        }
    }

    #[test]
    fn runs_that_differ_only_by_chance_have_an_interval_around_one() {
        let ratios = Ratios::of(&times(1), &times(2), 1).unwrap();
        assert!(ratios.p99.low < 1.0 && ratios.p99.high > 1.0, "{ratios:?}");
        assert!(ratios.p99.low < ratios.p99.value && ratios.p99.value < ratios.p99.high, "{ratios:?}");
        assert_eq!(Ratios::of(&times(1), &times(2), 1), Some(ratios));
    }

    #[test]
    fn failed_requests_and_short_runs_do_not_count() {
        let (mut ours, theirs) = (times(1), times(2));
        ours[..100].fill(None);
        assert_eq!(Ratios::of(&ours, &theirs, 1).unwrap().pairs, 1900);
        assert_eq!(Ratios::of(&ours[..550], &theirs[..550], 1), None);
    }
}
