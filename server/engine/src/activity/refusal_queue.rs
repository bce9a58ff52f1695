//! A queue of recorded refusals that wait for the store. It takes refusals at a bounded rate.

use std::sync::atomic::{AtomicUsize, Ordering};

use evenkeel_domain::activity::Refused;
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::time::Instant;

/// Refusals that all sidecars together record: per second on average, and in one burst. At this rate, the refusals of
/// one hour take about 44 MB in the store.
const RATE_PER_S: f64 = 20.0;
const BURST: f64 = 1000.0;
/// Maximum number of refusals that wait for the store.
const WAITING_MAX: usize = 2000;

pub(super) struct RefusalQueue {
    state: Mutex<State>,
    /// Number of sidecars that share the rate.
    sidecars: AtomicUsize,
    /// Counts the refusals that are not recorded.
    unrecorded: IntCounter,
}

struct State {
    waiting: Vec<Refused>,
    /// Number of refusals that may be recorded now: the tokens of a token bucket, as of `at`.
    room: f64,
    at: Instant,
}

impl RefusalQueue {
    pub(super) fn new(unrecorded: IntCounter) -> Self {
        let state = State { waiting: Vec::new(), room: BURST, at: Instant::now() };
        Self { state: Mutex::new(state), sidecars: AtomicUsize::new(1), unrecorded }
    }

    /// Sets the number of sidecars that share the rate.
    pub(super) fn set_sidecars(&self, sidecars: usize) {
        self.sidecars.store(sidecars.max(1), Ordering::Relaxed);
    }

    /// Returns whether the caller may record a refusal. If not, counts the refusal as unrecorded.
    pub(super) fn has_room(&self) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        let passed = now.saturating_duration_since(state.at).as_secs_f64();
        let share = 1.0 / self.sidecars.load(Ordering::Relaxed) as f64;
        state.room = (state.room + passed * RATE_PER_S * share).min((BURST * share).max(1.0));
        state.at = now;
        let has_room = state.room >= 1.0 && state.waiting.len() < WAITING_MAX;
        if has_room {
            state.room -= 1.0;
        } else {
            self.unrecorded.inc();
        }
        has_room
    }

    pub(super) fn push(&self, refused: Refused) {
        self.state.lock().waiting.push(refused);
    }

    pub(super) fn take(&self) -> Vec<Refused> {
        std::mem::take(&mut self.state.lock().waiting)
    }

    /// Puts refusals that did not reach the store back to the front of the queue. Drops the oldest if there are too
    /// many.
    pub(super) fn put_back(&self, refusals: Vec<Refused>) {
        let mut state = self.state.lock();
        let newer = std::mem::replace(&mut state.waiting, refusals);
        state.waiting.extend(newer);
        let excess = state.waiting.len().saturating_sub(WAITING_MAX);
        state.waiting.drain(..excess);
        self.unrecorded.inc_by(excess as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use evenkeel_domain::activity::AdmitResult;

    use super::*;

    fn refused(id: usize) -> Refused {
        Refused {
            id: 0,
            request_id: id.to_string(),
            at_ms: 0,
            route: String::new(),
            cluster: "c".into(),
            reason: AdmitResult::Limit,
            why: String::new(),
            status: 429,
            retry_after_ms: 0,
            consumer: String::new(),
            model: String::new(),
            limit: String::new(),
            key: String::new(),
            amount: 0,
            used: 0,
            cost: 0,
            sidecar: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_recorded_at_a_bounded_rate() {
        let queue = RefusalQueue::new(IntCounter::new("unrecorded", "Refusals not recorded").unwrap());
        let flood = |from: usize| {
            (from..from + 5000).filter(|i| {
                let has_room = queue.has_room();
                if has_room {
                    queue.push(refused(*i));
                }
                has_room
            })
        };
        assert_eq!(flood(0).count(), 1000);
        assert_eq!(queue.unrecorded.get(), 4000);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(flood(5000).count(), 40);
        queue.set_sidecars(4);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(flood(10_000).count(), 250, "four sidecars share the rate");
        let taken = queue.take();
        assert_eq!((taken.len(), &*taken[0].request_id), (1290, "0"));
        queue.push(refused(9));
        queue.put_back(taken);
        assert_eq!(queue.take().last().map(|refused| refused.request_id.clone()), Some("9".into()));
    }
}
