//! Eviction: keeps the half of many scored things with the lower scores.

/// Decides, in one pass over the things, which of them stay.
pub(super) struct Eviction {
    median: f64,
    /// How many more things with exactly the median score may stay.
    equal: usize,
}

impl Eviction {
    /// Plans to keep `most` things, about half of them. `scores` holds the score of each and must not be empty.
    pub(super) fn new(mut scores: Vec<f64>, most: usize) -> Self {
        let at = scores.len() / 2;
        let (below, median, _) = scores.select_nth_unstable_by(at, f64::total_cmp);
        let median = *median;
        let below = below.iter().filter(|score| **score < median).count();
        Self { median, equal: most.saturating_sub(below) }
    }

    /// Returns whether a thing with this score stays. Call it once for each thing.
    pub(super) fn keeps(&mut self, score: f64) -> bool {
        let is_equal = score == self.median && self.equal > 0;
        self.equal -= usize::from(is_equal);
        score < self.median || is_equal
    }
}
