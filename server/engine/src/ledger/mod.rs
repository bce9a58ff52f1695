//! The ledger: usage by day, consumer, model and route, and by session.
//!
//! [`Ledger::record`] adds a request to sums in memory. Every half second the sums gathered leave for the store, in one
//! call for each day and each part of the sessions. A call whose answer was lost is repeated until it is known to be
//! applied, and the store applies it once: so the sums are exact but for what a sidecar that was killed had not sent.

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

mod pending;
pub mod query;
pub mod text;

/// Time between flushes; doubled after each that fails, up to the longest.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// Time between tries to write what is left when draining.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);
/// Least time between two warnings.
const QUIET: Duration = Duration::from_secs(60);
/// Calls of one flush under way at once.
const CALLS_MAX: usize = 2;
/// Queries answered at once; each may hold a day's rows.
const QUERIES_MAX: usize = 2;

/// One request that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct UsageRecord<'a> {
    /// Whose; empty when unknown.
    pub consumer: &'a str,
    /// Model.
    pub model: &'a str,
    /// The gateway's route.
    pub route: &'a str,
    /// Session, as the client gave it; empty for none.
    pub session: &'a str,
    /// Tokens by kind.
    pub tokens: Tokens,
    /// The tokens were reckoned, as the response did not tell.
    pub estimated: bool,
    /// Cost in millionths of the price table's currency.
    pub cost: u64,
    /// HTTP status; 0 when none.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// Time to the first byte of the response body; 0 when there was none.
    pub first_token_ms: u64,
    /// Time to its end.
    pub total_ms: u64,
}

/// Tells the time, in ms of the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The ledger of one sidecar.
pub struct Ledger {
    options: LedgerOptions,
    store: Arc<dyn UsageStore>,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Random id of this process, by which the store knows what it has applied.
    instance: Arc<str>,
    sequence: AtomicU64,
    pending: Mutex<Pending>,
    /// Batches that have left `pending` and are not known to be applied. Whoever sends them holds this.
    outbox: tokio::sync::Mutex<Outbox>,
    /// Requests in the outbox.
    sent_requests: AtomicU64,
    queries: Semaphore,
    warned_at: Mutex<Option<Instant>>,
}

/// For each place its batches in order; the first may have been applied already.
type Outbox = BTreeMap<Place, VecDeque<Queued>>;

struct Queued {
    sequence: u64,
    batch: Batch,
}

impl Ledger {
    /// With nothing in it.
    #[must_use]
    pub fn new(options: LedgerOptions, store: Arc<dyn UsageStore>, metrics: Arc<Metrics>) -> Arc<Self> {
        Self::with_clock(options, store, metrics, Arc::new(unix_ms))
    }

    /// With a clock of one's own: for tests.
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

    /// What is kept, and for how long.
    #[must_use]
    pub fn options(&self) -> &LedgerOptions {
        &self.options
    }

    /// Adds one request that has ended: to the day it ended on, by this sidecar's clock. Never waits; takes some
    /// hundred nanoseconds.
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

    /// Requests recorded that are not known to be in the store.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.pending.lock().requests() + self.sent_requests.load(Ordering::Relaxed)
    }

    /// Sends what has been recorded.
    ///
    /// # Errors
    /// The last failure of the store. What did not reach it waits, and is sent by the next flush.
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

    /// Sends one place's batches in order. One is forgotten only when it is known to be applied.
    async fn send(&self, place: Place, queue: &mut VecDeque<Queued>) -> Result<(), StoreError> {
        let metrics = &self.metrics.ledger;
        while let Some(Queued { sequence, batch }) = queue.front() {
            let id =
                FlushId { instance: Arc::clone(&self.instance), sequence: *sequence, now_ms: (self.clock)() };
            let applied = match (place, batch) {
                (Place::Day(day), Batch::Day(batch)) => self.store.add_day(&id, day, batch).await,
                (Place::Part(part), Batch::Part(batch)) => self.store.add_sessions(&id, part, batch).await,
                _ => Ok(Applied::default()), // never made
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

    /// Flushes now and then until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut wait = FLUSH_INTERVAL;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
            // A call that is given up half-way stays in the outbox.
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
            None if warned_at.take().is_some() => info!("usage is written again"),
            None => {}
            Some(error) if warned_at.is_none_or(|at| at.elapsed() >= QUIET) => {
                *warned_at = Some(Instant::now());
                warn!(%error, waiting = self.waiting(), "usage cannot be written: it waits");
            }
            Some(_) => {}
        }
    }

    /// Writes what is left, trying for at most so long. To be called after the last record, and before the store closes.
    pub async fn drain(&self, limit: Duration) {
        let all = async {
            loop {
                let flushed = self.flush().await;
                if flushed.is_ok() && self.pending.lock().is_empty() {
                    return;
                }
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            let requests = self.waiting();
            self.metrics.ledger.dropped.requests.inc_by(requests);
            warn!(requests, "usage could not be written: it is lost");
        }
    }

    /// Today, by this sidecar's clock and UTC.
    #[must_use]
    pub fn today(&self) -> Day {
        Day::of_ms((self.clock)())
    }
}
