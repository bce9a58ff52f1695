//! Draws from a distribution that is given by its quantiles.

use rand::{Rng, rngs::SmallRng};

/// Pairs of a fraction of the values, from 0 to 1, and the value that this fraction does not exceed. Values are above 0.
pub(super) type Quantiles = &'static [(f64, f64)];

/// Draws a value. Interpolates between quantiles on a logarithmic scale.
pub(super) fn draw(quantiles: Quantiles, rng: &mut SmallRng) -> f64 {
    let p: f64 = rng.random();
    let upper = quantiles.iter().position(|(q, _)| *q > p).unwrap_or(quantiles.len() - 1).max(1);
    let ((p0, x0), (p1, x1)) = (quantiles[upper - 1], quantiles[upper]);
    let share = (p - p0) / (p1 - p0);
    (x0.ln() + share * (x1.ln() - x0.ln())).exp()
}
