//! Nearest-rank percentiles of samples.

use serde::{Deserialize, Serialize};

/// Latency percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    #[serde(default)]
    pub mean: f64,
}

impl Percentiles {
    /// Computes the percentiles of samples in any order. Without samples, all percentiles are 0.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let mean = sorted.iter().sum::<f64>() / sorted.len().max(1) as f64;
        Self {
            mean,
            p50: quantile(&sorted, 0.5),
            p90: quantile(&sorted, 0.9),
            p99: quantile(&sorted, 0.99),
            p999: quantile(&sorted, 0.999),
        }
    }

    #[must_use]
    pub fn divided_by(self, divisor: f64) -> Self {
        let Self { p50, p90, p99, p999, mean } = self;
        Self {
            p50: p50 / divisor,
            p90: p90 / divisor,
            p99: p99 / divisor,
            p999: p999 / divisor,
            mean: mean / divisor,
        }
    }
}

/// Returns the smallest sample that at least a fraction `q` of the samples does not exceed; 0 without samples.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let p = Percentiles::of((1..=1000).rev().map(f64::from));
        assert_eq!(p, Percentiles { p50: 500.0, p90: 900.0, p99: 990.0, p999: 999.0, mean: 500.5 });
        assert_eq!(Percentiles::of([]), Percentiles::default());
        assert_eq!(Percentiles::of([7.0]).p999, 7.0);
    }
}
