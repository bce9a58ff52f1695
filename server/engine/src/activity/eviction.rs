//! Eviction: keeps the half of the items that have the lower scores.

/// Decides which items remain, in one pass over the items.
pub(super) struct Eviction {
    median: f64,
    /// How many more items with exactly the median score may remain.
    equal: usize,
}

impl Eviction {
    /// Plans to keep `most` items, about half of all. `scores` contains the score of each item and must not be empty.
    pub(super) fn new(mut scores: Vec<f64>, most: usize) -> Self {
        let at = scores.len() / 2;
        let (below, median, _) = scores.select_nth_unstable_by(at, f64::total_cmp);
        let median = *median;
        let below = below.iter().filter(|score| **score < median).count();
        Self { median, equal: most.saturating_sub(below) }
    }

    /// Returns whether an item with this score remains. The caller must call it exactly once for each item.
    pub(super) fn keeps(&mut self, score: f64) -> bool {
        let is_equal = score == self.median && self.equal > 0;
        self.equal -= usize::from(is_equal);
        score < self.median || is_equal
    }
}
