//! The rate at which a worker lets requests go on without an answer.

/// A token bucket that holds the requests of one second.
#[derive(Debug, Default)]
pub(super) struct OpenRate {
    /// Requests that may go on, in thousandths.
    left: u64,
    filled_ms: Option<u64>,
}

impl OpenRate {
    /// Returns whether one more request may go on. Without a maximum, every request may.
    pub(super) fn take(&mut self, per_second: Option<u64>, now_ms: u64) -> bool {
        let Some(per_second) = per_second else { return true };
        let full = per_second * 1000;
        let since_ms = self.filled_ms.map_or(u64::MAX, |filled_ms| now_ms.saturating_sub(filled_ms));
        self.left = self.left.saturating_add(since_ms.saturating_mul(per_second)).min(full);
        self.filled_ms = Some(now_ms);
        let fits = self.left >= 1000;
        self.left -= if fits { 1000 } else { 0 };
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_on_at_the_rate() {
        let mut rate = OpenRate::default();
        let taken = |rate: &mut OpenRate, now_ms| (0..10).filter(|_| rate.take(Some(3), now_ms)).count();
        assert_eq!((taken(&mut rate, 5000), taken(&mut rate, 5000)), (3, 0));
        assert_eq!((taken(&mut rate, 5334), taken(&mut rate, 5400), taken(&mut rate, 60_000)), (1, 0, 3));
        assert!((0..1000).all(|_| rate.take(None, 0)));
        assert!((0..1000).all(|now_ms| !OpenRate::default().take(Some(0), now_ms)));
    }
}
