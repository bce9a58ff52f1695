//! Histograms of durations. Observing takes two additions to atomic integers and no lock.
//!
//! The bounds are those of OpenTelemetry's conventions for model servers
//! (`gen_ai.server.time_to_first_token`, `.time_per_output_token`, `.request.duration`), with two changes. Bounds below what
//! a gateway can tell apart are left out, and some between two others, because each bound costs a series for every endpoint.
//! Larger bounds follow, those of vLLM's histograms for first tokens, and doublings for whole requests: queues and long
//! answers take minutes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus::proto;

/// Upper bounds of the time to first token, in microseconds. Up to 10 s, OpenTelemetry has all of them; vLLM has all.
pub(super) const FIRST_TOKEN_US: [u64; 16] = [
    10_000, 20_000, 40_000, 60_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000,
    7_500_000, 10_000_000, 20_000_000, 40_000_000, 80_000_000,
];

/// Upper bounds of the time per output token, in microseconds. OpenTelemetry and vLLM have all but the first, which is for
/// servers that generate more than 100 tokens a second.
pub(super) const PER_TOKEN_US: [u64; 12] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000, 500_000, 1_000_000, 2_500_000,
];

/// Upper bounds of the duration of a request, in microseconds. OpenTelemetry's doublings, continued to ten minutes.
pub(super) const TOTAL_US: [u64; 16] = [
    20_000,
    40_000,
    80_000,
    160_000,
    320_000,
    640_000,
    1_280_000,
    2_560_000,
    5_120_000,
    10_240_000,
    20_480_000,
    40_960_000,
    81_920_000,
    163_840_000,
    327_680_000,
    655_360_000,
];

/// A histogram with `N` upper bounds, which each call passes again: they are the same for all histograms of a kind.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    /// Number of durations up to each bound that exceed the bound before it.
    counts: [AtomicU64; N],
    /// Number of durations beyond the last bound.
    beyond: AtomicU64,
    sum_us: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::default()),
            beyond: AtomicU64::default(),
            sum_us: AtomicU64::default(),
        }
    }
}

impl<const N: usize> Histogram<N> {
    pub(super) fn observe(&self, bounds_us: &[u64; N], duration_us: u64) {
        let bucket = bounds_us.partition_point(|bound| *bound < duration_us);
        self.counts.get(bucket).unwrap_or(&self.beyond).fetch_add(1, Relaxed);
        self.sum_us.fetch_add(duration_us, Relaxed);
    }

    /// Returns the number of durations.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().chain([&self.beyond]).map(|count| count.load(Relaxed)).sum()
    }

    /// Returns the histogram in seconds; `None` if it is empty. The sum may lack durations that are observed meanwhile.
    pub(super) fn read(&self, bounds_us: &[u64; N]) -> Option<proto::Histogram> {
        let sum_us = self.sum_us.load(Relaxed);
        let mut count = 0;
        let buckets = self.counts.iter().zip(bounds_us).map(|(more, bound_us)| {
            count += more.load(Relaxed);
            let mut bucket = proto::Bucket::default();
            bucket.set_cumulative_count(count);
            bucket.set_upper_bound(seconds(*bound_us));
            bucket
        });
        let buckets: Vec<_> = buckets.collect();
        count += self.beyond.load(Relaxed);
        if count == 0 {
            return None;
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(count);
        histogram.set_sample_sum(seconds(sum_us));
        histogram.set_bucket(buckets);
        Some(histogram)
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_belongs_to_the_first_bound_that_it_does_not_exceed() {
        let histogram = Histogram::<3>::default();
        let bounds = [10, 20, 1_500_000];
        for us in [0, 10, 11, 20, 21, 1_500_000, 1_500_001, 9_000_000] {
            histogram.observe(&bounds, us);
        }
        let read = histogram.read(&bounds).unwrap();
        let buckets: Vec<_> =
            read.get_bucket().iter().map(|b| (b.upper_bound(), b.cumulative_count())).collect();
        assert_eq!(buckets, [(0.000_01, 2), (0.000_02, 4), (1.5, 6)]);
        assert_eq!((read.get_sample_count(), histogram.count()), (8, 8));
        assert!((read.get_sample_sum() - 12.000_063).abs() < 1e-9);
        assert!(Histogram::<3>::default().read(&bounds).is_none());
    }

    #[test]
    fn bounds_increase() {
        assert!(FIRST_TOKEN_US.is_sorted_by(|a, b| a < b));
        assert!(PER_TOKEN_US.is_sorted_by(|a, b| a < b));
        assert!(TOTAL_US.windows(2).all(|pair| pair[1] == 2 * pair[0]));
    }
}
