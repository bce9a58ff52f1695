//! A mean that follows its values.

/// An exponentially weighted mean that starts as an arithmetic mean.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    pub(crate) value: f64,
    pub(crate) count: u32,
}

impl Mean {
    /// Adds a value. `weight_min`: its minimum weight. The first values have equal weights.
    pub(crate) fn add(&mut self, value: f64, weight_min: f64) {
        self.count = self.count.saturating_add(1);
        let weight = (1.0 / f64::from(self.count)).max(weight_min);
        self.value += (value - self.value) * weight;
    }
}
