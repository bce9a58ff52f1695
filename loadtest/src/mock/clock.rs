//! Virtual time: wall time, multiplied by a scale.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// The clock of all hosts of a fleet. Clones share the scale.
#[derive(Clone, Debug)]
pub(crate) struct Clock(Arc<Mutex<Rate>>);

#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Start of the scale.
    since: Instant,
    /// Virtual time at that moment.
    from: Duration,
    /// Virtual seconds per wall second.
    scale: f64,
}

impl Rate {
    fn at(&self, wall: Instant) -> Duration {
        self.from + wall.saturating_duration_since(self.since).mul_f64(self.scale)
    }
}

impl Clock {
    pub(crate) fn new(scale: f64) -> Self {
        Self(Arc::new(Mutex::new(Rate { since: Instant::now(), from: Duration::ZERO, scale })))
    }

    pub(crate) fn now(&self) -> Duration {
        self.0.lock().at(Instant::now())
    }

    /// Returns the wall time of a virtual time after the last change of the scale.
    pub(crate) fn wall(&self, at: Duration) -> Instant {
        let rate = *self.0.lock();
        rate.since + at.saturating_sub(rate.from).div_f64(rate.scale)
    }

    /// Changes the scale. Virtual time continues without a jump.
    pub(crate) fn set_scale(&self, scale: f64) {
        let mut rate = self.0.lock();
        let now = Instant::now();
        *rate = Rate { since: now, from: rate.at(now), scale };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_scale_does_not_move_virtual_time_back() {
        let clock = Clock::new(1000.0);
        let before = clock.now();
        clock.set_scale(0.001);
        let after = clock.now();
        assert!(after >= before);
        // At this scale, a virtual millisecond takes a second.
        let wait = clock.wall(after + Duration::from_millis(1)).saturating_duration_since(Instant::now());
        assert!(wait > Duration::from_millis(500) && wait <= Duration::from_secs(1), "{wait:?}");
    }
}
