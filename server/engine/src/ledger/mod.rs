//! The ledger: usage by day, consumer, model and route, and by session.
//!
//! [`Ledger::record`] adds a request to sums in memory. Every half second, the sums are flushed to the store, with one
//! call for each day and each part of the sessions. A call whose reply was lost is repeated, and the store applies the
//! flush only once. So the sums are exact, apart from sums that a killed sidecar had not flushed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_domain::{
    StoreError,
    clock::unix_ms,
    limit::price::Tokens,
    settings::LedgerOptions,
    usage::{Day, Outcome},
};
use evenkeel_store::usage::{Applied, FlushId, UsageBounds, UsageStore};
use evenkeel_telemetry::Metrics;
use futures::StreamExt as _;
use parking_lot::Mutex;
use pending::{Batch, Pending, Place};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

mod page_token;
mod pending;
pub mod query;
pub mod sessions;

/// Time between flushes. It doubles after each failure, up to the maximum.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// Time between attempts of the final flush.
const FINAL_FLUSH_INTERVAL: Duration = Duration::from_millis(50);
/// Minimum time between two warnings.
const QUIET: Duration = Duration::from_secs(60);
/// Maximum number of concurrent calls of one flush.
const CALLS_MAX: usize = 2;
/// Maximum number of concurrent queries. Each query may have the rows of a whole day in memory.
const QUERIES_MAX: usize = 2;

/// One request that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct UsageRecord<'a> {
    pub consumer: &'a str,
    pub model: &'a str,
    pub route: &'a str,
    /// The session id that the client sent. May be empty.
    pub session: &'a str,
    pub tokens: Tokens,
    /// True if Evenkeel estimated the tokens, because the response did not report them.
    pub estimated: bool,
    /// Cost in millionths of the price table's currency.
    pub cost: u64,
    /// HTTP status of the response. 0: no response.
    pub status: u16,
    pub outcome: Outcome,
    /// Time to the first byte of the response body. 0: the response had no body.
    pub first_token_ms: u64,
    /// Time to the end of the response.
    pub total_ms: u64,
}

/// A function that returns the time, in ms since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The ledger of one sidecar.
pub struct Ledger {
    options: LedgerOptions,
    store: Arc<dyn UsageStore>,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Random id of this process. The store uses it to apply each flush once.
    instance: Arc<str>,
    sequence: AtomicU64,
    pending: Mutex<Pending>,
    /// Batches that were taken from `pending`, and that the store has not confirmed. Locked during a flush.
    outbox: tokio::sync::Mutex<Outbox>,
    /// Number of requests in the outbox.
    sent_requests: AtomicU64,
    queries: Semaphore,
    warned_at: Mutex<Option<Instant>>,
}

/// The batches for each day and each part, in order. The store may already have applied the first batch of a queue.
type Outbox = BTreeMap<Place, VecDeque<Queued>>;

struct Queued {
    sequence: u64,
    batch: Batch,
}

impl Ledger {
    #[must_use]
    pub fn new(options: LedgerOptions, store: Arc<dyn UsageStore>, metrics: Arc<Metrics>) -> Arc<Self> {
        Self::with_clock(options, store, metrics, Arc::new(unix_ms))
    }

    #[must_use]
    pub fn with_clock(
        options: LedgerOptions,
        store: Arc<dyn UsageStore>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Arc<Self> {
        let instance = format!("{:016x}", rand::random::<u64>()).into();
        Arc::new(Self {
            options,
            store,
            metrics,
            clock,
            instance,
            sequence: AtomicU64::new(0),
            pending: Mutex::new(Pending::new()),
            outbox: tokio::sync::Mutex::default(),
            sent_requests: AtomicU64::new(0),
            queries: Semaphore::new(QUERIES_MAX),
            warned_at: Mutex::default(),
        })
    }

    #[must_use]
    pub fn options(&self) -> &LedgerOptions {
        &self.options
    }

    /// Adds a request to the current day, by this sidecar's clock. Never waits, and takes a few hundred nanoseconds.
    pub fn record(&self, record: &UsageRecord<'_>) {
        if !self.options.enabled {
            return;
        }
        let lost =
            self.pending.lock().add(record, (self.clock)(), UsageBounds::from(&self.options).turns_max);
        let metrics = &self.metrics.ledger;
        metrics.requests.inc();
        if lost != pending::Lost::default() {
            metrics.folded.buffer_full.inc_by(u64::from(lost.folded));
            metrics.dropped.sessions.inc_by(u64::from(lost.session));
            metrics.dropped.turns.inc_by(u64::from(lost.turn));
            metrics.dropped.requests.inc_by(lost.requests);
        }
    }

    /// Returns the number of recorded requests that the store has not confirmed.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.pending.lock().requests() + self.sent_requests.load(Ordering::Relaxed)
    }

    /// Flushes the recorded requests to the store.
    ///
    /// # Errors
    /// If the store fails. The next flush sends the batches that did not reach the store.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let mut outbox = self.outbox.lock().await;
        let batches = self.pending.lock().take(|place| !outbox.contains_key(&place));
        for (place, batch) in batches {
            self.sent_requests.fetch_add(batch.requests(), Ordering::Relaxed);
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
            outbox.entry(place).or_default().push_back(Queued { sequence, batch });
        }
        let sends: Vec<_> = outbox.iter_mut().map(|(place, queue)| self.send(*place, queue)).collect();
        let mut sends = futures::stream::iter(sends).buffer_unordered(CALLS_MAX);
        let mut result = Ok(());
        while let Some(sent) = sends.next().await {
            result = result.and(sent);
        }
        drop(sends);
        outbox.retain(|_, queue| !queue.is_empty());
        result
    }

    /// Sends the batches for one day or part in order. Drops a batch only when the store has confirmed it.
    async fn send(&self, place: Place, queue: &mut VecDeque<Queued>) -> Result<(), StoreError> {
        let metrics = &self.metrics.ledger;
        while let Some(Queued { sequence, batch }) = queue.front() {
            let id =
                FlushId { instance: Arc::clone(&self.instance), sequence: *sequence, now_ms: (self.clock)() };
            let applied = match (place, batch) {
                (Place::Day(day), Batch::Day(batch)) => self.store.add_day(&id, day, batch).await,
                (Place::Part(part), Batch::Part(batch)) => self.store.add_sessions(&id, part, batch).await,
                _ => Ok(Applied::default()), // places and batches always match
            };
            let applied = applied.inspect_err(|_| metrics.flushes.failed.inc())?;
            if applied.repeated { &metrics.flushes.repeated } else { &metrics.flushes.applied }.inc();
            metrics.folded.day_full.inc_by(applied.folded);
            metrics.dropped.sessions.inc_by(applied.dropped);
            self.sent_requests.fetch_sub(batch.requests(), Ordering::Relaxed);
            queue.pop_front();
        }
        Ok(())
    }

    /// Flushes periodically until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut wait = FLUSH_INTERVAL;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
            // If the call is aborted, its batch remains in the outbox.
            let flushed = tokio::select! {
                flushed = self.flush() => flushed,
                () = shutdown.cancelled() => return,
            };
            self.report(flushed.as_ref().err());
            wait = if flushed.is_ok() { FLUSH_INTERVAL } else { (wait * 2).min(FLUSH_INTERVAL_MAX) };
        }
    }

    fn report(&self, error: Option<&StoreError>) {
        let mut warned_at = self.warned_at.lock();
        match error {
            None if warned_at.take().is_some() => info!("usage is written to the store again"),
            None => {}
            Some(error) if warned_at.is_none_or(|at| at.elapsed() >= QUIET) => {
                *warned_at = Some(Instant::now());
                warn!(%error, waiting = self.waiting(), "cannot write usage to the store: it waits in memory");
            }
            Some(_) => {}
        }
    }

    /// Flushes everything, for at most `limit`. The caller must call this after the last record and before the store
    /// closes.
    pub async fn flush_all(&self, limit: Duration) {
        let all = async {
            loop {
                let flushed = self.flush().await;
                if flushed.is_ok() && self.pending.lock().is_empty() {
                    return;
                }
                tokio::time::sleep(FINAL_FLUSH_INTERVAL).await;
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            let requests = self.waiting();
            self.metrics.ledger.dropped.requests.inc_by(requests);
            warn!(requests, "usage was not written to the store and is lost");
        }
    }

    /// Returns today's date in UTC, by this sidecar's clock.
    #[must_use]
    pub fn today(&self) -> Day {
        Day::of_ms((self.clock)())
    }
}
