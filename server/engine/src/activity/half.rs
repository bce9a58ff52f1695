//! Which of many stay when there is room for half: those with the least score, by order and not by chance.

/// The line through the middle.
pub(super) struct Half {
    middle: f64,
    /// How many that are equal to the middle may still stay.
    equal: usize,
}

impl Half {
    /// Of these scores, of which there is at least one; `most` stay.
    pub(super) fn of(mut scores: Vec<f64>, most: usize) -> Self {
        let at = scores.len() / 2;
        let (below, middle, _) = scores.select_nth_unstable_by(at, f64::total_cmp);
        let middle = *middle;
        let below = below.iter().filter(|score| **score < middle).count();
        Self { middle, equal: most.saturating_sub(below) }
    }

    /// Whether one with this score stays; to be asked once for each.
    pub(super) fn stays(&mut self, score: f64) -> bool {
        let is_equal = score == self.middle && self.equal > 0;
        self.equal -= usize::from(is_equal);
        score < self.middle || is_equal
    }
}
