//! A bound on memory that requests share, whatever connections they come from.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use prometheus::IntGauge;

/// Memory of one kind of requests.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub max: usize,
    /// Part of it that only small messages may take, so that large ones do not refuse them.
    pub for_small: usize,
}

/// gRPC requests in progress: their heads, and the bytes of their messages that have arrived. Ten thousand usual requests
/// take a third of it.
pub const REQUESTS: Size = Size { max: 64 * 1024 * 1024, for_small: 16 * 1024 * 1024 };
/// HTTP responses that clients have not read yet. The longest, a scrape of all metrics, has about 10 MiB.
pub const RESPONSES: Size = Size { max: 64 * 1024 * 1024, for_small: 16 * 1024 * 1024 };
/// Largest message that counts as small, in bytes.
pub const SMALL_MAX: usize = 16 * 1024;

/// Memory that is in use, and its maximum.
pub struct MemoryBudget {
    size: Size,
    used: AtomicUsize,
    gauge: IntGauge,
}

impl MemoryBudget {
    pub fn new(size: Size, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { size, used: AtomicUsize::new(0), gauge })
    }

    /// Returns a charge of nothing.
    pub fn charge(self: &Arc<Self>) -> Charge {
        Charge { budget: Arc::clone(self), held: AtomicUsize::new(0) }
    }

    fn take(&self, bytes: usize, of_message: usize) -> bool {
        let max = self.size.max - if of_message > SMALL_MAX { self.size.for_small } else { 0 };
        let fits = |used: usize| used.checked_add(bytes).filter(|used| *used <= max);
        let taken = self.used.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if taken {
            self.gauge.add(bytes as i64);
        }
        taken
    }
}

/// Memory that one request takes, until it is dropped.
pub struct Charge {
    budget: Arc<MemoryBudget>,
    held: AtomicUsize,
}

impl Charge {
    /// Adds bytes of a message of `of_message` bytes. Returns false, and adds nothing, if the budget is exhausted.
    pub fn add(&self, bytes: usize, of_message: usize) -> bool {
        let taken = self.budget.take(bytes, of_message);
        if taken {
            self.held.fetch_add(bytes, Relaxed);
        }
        taken
    }

    /// Gives back bytes that [`Self::add`] has added.
    pub fn remove(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
        self.budget.used.fetch_sub(bytes, Relaxed);
        self.budget.gauge.sub(bytes as i64);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.remove(self.held.load(Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_messages_leave_room_for_small_ones() {
        let gauge = IntGauge::new("g", "g").unwrap();
        let budget = MemoryBudget::new(REQUESTS, gauge.clone());
        let (large, small) = (budget.charge(), budget.charge());
        let most = REQUESTS.max - REQUESTS.for_small;
        assert!(large.add(most, most) && !large.add(1, most));
        assert!(small.add(REQUESTS.for_small, SMALL_MAX) && !small.add(1, 1));
        assert_eq!(gauge.get(), REQUESTS.max as i64);
        small.remove(5);
        assert!(small.add(5, 5));
        drop((large, small));
        assert_eq!((gauge.get(), budget.used.load(Relaxed)), (0, 0));
    }
}
