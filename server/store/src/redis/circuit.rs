//! The circuit breaker of one server: whether calls may be sent to it, and when to probe it. [`Outages`] counts the open
//! circuit breakers of all servers of the store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use evenkeel_telemetry::Metrics;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

/// Time between probes while the circuit breaker is open. It grows up to the maximum if the circuit breaker keeps
/// opening.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(100);
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(2);
/// If the circuit breaker opens again within this time after closing, the time between probes doubles.
const FLAP: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// No probe has succeeded or failed yet.
    #[default]
    Unknown,
    /// The server answers, so calls are sent.
    Closed,
    /// The server is lost: calls fail at once.
    Open,
    /// The server no longer belongs to the store.
    Retired,
}

/// The circuit breaker of one server.
pub(super) struct Circuit {
    outages: Arc<Outages>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    state: State,
    closed_at: Option<Instant>,
    probe_interval: Duration,
}

impl Circuit {
    pub(super) fn new(outages: Arc<Outages>) -> Self {
        outages.servers.fetch_add(1, Ordering::Relaxed);
        Self { outages, inner: Mutex::default() }
    }

    pub(super) fn state(&self) -> State {
        self.inner.lock().state
    }

    /// Opens the circuit breaker. Returns the time between probes, or `None` if it is open already.
    pub(super) fn open(&self) -> Option<Duration> {
        let mut inner = self.inner.lock();
        let before = inner.state;
        if matches!(before, State::Open | State::Retired) {
            return None;
        }
        let flapping = inner.closed_at.is_some_and(|at| at.elapsed() < FLAP);
        inner.probe_interval =
            if flapping { (inner.probe_interval * 2).min(PROBE_INTERVAL_MAX) } else { PROBE_INTERVAL };
        inner.state = State::Open;
        self.outages.lost(before);
        Some(inner.probe_interval)
    }

    /// Closes the circuit breaker after a successful probe.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        let before = inner.state;
        if before == State::Retired {
            return;
        }
        inner.state = State::Closed;
        // The first connection of all follows no outage.
        inner.closed_at = (before == State::Open).then(Instant::now);
        self.outages.found(before);
    }

    /// Ends the circuit breaker of a server that no longer belongs to the store.
    pub(super) fn retire(&self) {
        let mut inner = self.inner.lock();
        let before = std::mem::replace(&mut inner.state, State::Retired);
        if before != State::Retired {
            self.outages.left(before);
        }
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        self.retire();
    }
}

/// Returns the wait before the first probe. If the circuit breaker did not open shortly before, probes at once: usually
/// only the connection was lost.
pub(super) fn first_wait(probe_interval: Duration) -> Duration {
    if probe_interval > PROBE_INTERVAL { probe_interval } else { Duration::ZERO }
}

/// The servers of a store, by the state of their circuit breakers.
pub(super) struct Outages {
    servers: AtomicUsize,
    open: AtomicUsize,
    closed: AtomicUsize,
    losses: AtomicU64,
    /// Counts the circuit breakers that have closed.
    found: watch::Sender<u64>,
    /// The metrics that show the outages. Absent for connections that no request uses.
    metrics: Option<Arc<Metrics>>,
}

impl Outages {
    pub(super) fn new(metrics: Option<Arc<Metrics>>) -> Arc<Self> {
        Arc::new(Self {
            servers: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            losses: AtomicU64::new(0),
            found: watch::Sender::new(0),
            metrics,
        })
    }

    /// Whether at least one server can be used.
    pub(super) fn is_up(&self) -> bool {
        self.closed.load(Ordering::Relaxed) > 0
    }

    /// Whether every server can be used.
    pub(super) fn is_complete(&self) -> bool {
        let closed = self.closed.load(Ordering::Relaxed);
        closed > 0 && closed == self.servers.load(Ordering::Relaxed)
    }

    /// Whether a server is lost.
    pub(super) fn any_lost(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// Returns a receiver that is notified when a circuit breaker closes.
    pub(super) fn found_again(&self) -> watch::Receiver<u64> {
        self.found.subscribe()
    }

    fn lost(&self, before: State) {
        if before == State::Closed {
            self.closed.fetch_sub(1, Ordering::Relaxed);
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        self.losses.fetch_add(1, Ordering::Relaxed);
        if let Some(metrics) = &self.metrics {
            metrics.store_losses.inc();
        }
        self.show();
    }

    fn found(&self, before: State) {
        match before {
            State::Closed | State::Retired => return,
            State::Open => drop(self.open.fetch_sub(1, Ordering::Relaxed)),
            State::Unknown => {}
        }
        self.closed.fetch_add(1, Ordering::Relaxed);
        self.show();
        self.found.send_modify(|count| *count += 1);
    }

    fn left(&self, before: State) {
        self.servers.fetch_sub(1, Ordering::Relaxed);
        match before {
            State::Open => drop(self.open.fetch_sub(1, Ordering::Relaxed)),
            State::Closed => drop(self.closed.fetch_sub(1, Ordering::Relaxed)),
            State::Unknown | State::Retired => {}
        }
        self.show();
    }

    fn show(&self) {
        if let Some(metrics) = &self.metrics {
            let open = self.open.load(Ordering::Relaxed);
            metrics.store_up.set(i64::from(open == 0 && self.is_up()));
            metrics.store_nodes_lost.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
    }
}
