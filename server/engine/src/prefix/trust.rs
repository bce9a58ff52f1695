//! How far the index can be trusted: the part of the tokens that it finds which really come from the endpoint's cache.

use crate::mean::Mean;

/// Number of classes of age: [`PER_OCTAVE`] for each doubling, from a 64th to 8 times the configured size of a cache.
const CLASSES: usize = 18;
const PER_OCTAVE: f64 = 2.0;
/// The class of an age equal to the configured size.
const CONFIGURED: f64 = 12.0;
/// Number of responses that the first assumption counts for.
const ASSUMED_COUNT: u32 = 4;
/// Minimum weight of a response.
const WEIGHT_MIN: f64 = 0.02;

/// The part of the found tokens that came true, by age: by the tokens that the endpoint was assigned since it read the
/// prefix. The first assumption is all below the configured size of the cache, and nothing above.
#[derive(Debug)]
pub(super) struct Trust {
    cache_tokens: f64,
    by_age: [Mean; CLASSES],
}

impl Trust {
    pub(super) fn new(cache_tokens: u64) -> Self {
        let assumed =
            |class| Mean { value: if (class as f64) < CONFIGURED { 1.0 } else { 0.0 }, count: ASSUMED_COUNT };
        Self { cache_tokens: cache_tokens as f64, by_age: std::array::from_fn(assumed) }
    }

    fn class(&self, age: u64) -> usize {
        let octaves = (age as f64 / self.cache_tokens).log2();
        // The smallest ages and 0, whose logarithm is negative infinity, are in the first class.
        (octaves * PER_OCTAVE + CONFIGURED).clamp(0.0, CLASSES as f64 - 1.0) as usize
    }

    /// Returns the part of the found tokens that will probably come from the cache.
    pub(super) fn at(&self, age: u64) -> f64 {
        self.by_age[self.class(age)].value
    }

    /// Learns which part of the found tokens came from the cache.
    pub(super) fn learn(&mut self, age: u64, hit: f64) {
        let class = self.class(age);
        self.by_age[class].add(hit, WEIGHT_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assumption_holds_up_to_the_configured_size() {
        let trust = Trust::new(1_000_000);
        for (age, part) in [(0, 1.0), (1000, 1.0), (900_000, 1.0), (1_100_000, 0.0), (u64::MAX, 0.0)] {
            assert_eq!(trust.at(age), part, "{age}");
        }
    }

    #[test]
    fn a_smaller_and_a_larger_cache_are_learned() {
        for (real, configured) in [(100_000, 1_500_000), (1_500_000, 300_000)] {
            let mut trust = Trust::new(configured);
            for n in 0..2000_u64 {
                let age = n * 7919 % 3_000_000;
                trust.learn(age, if age < real { 1.0 } else { 0.0 });
            }
            assert!(trust.at(real / 2) > 0.9 && trust.at(real * 3 / 2) < 0.1, "{trust:?}");
        }
    }

    #[test]
    fn an_index_that_is_worth_nothing_fades_and_returns() {
        let mut trust = Trust::new(1_000_000);
        (0..200).for_each(|_| trust.learn(5000, 0.0));
        assert!(trust.at(5000) < 0.03);
        (0..200).for_each(|_| trust.learn(5000, 1.0));
        assert!(trust.at(5000) > 0.97);
    }
}
