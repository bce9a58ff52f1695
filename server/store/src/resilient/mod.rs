//! The store of sidecars that share a store: the shared store while it answers, and local knowledge while it does not.
//! A sidecar with the embedded store uses the memory store alone.
//!
//! The circuit breaker opens when the store is unavailable. Several timeouts in a row count as unavailable. While the
//! circuit breaker is open, no request waits for the store, and a probe finds out when the store is available again. A
//! single timeout, or an error about one pool's keys, does not open the circuit breaker: only the affected operations
//! are answered locally.
//!
//! Local knowledge is a memory store. Every KeepAlive list and settlement of this sidecar's gateways updates it. It
//! takes the load of the other gateways from the last table that the sidecar read, and drops that load after an outage
//! of twice the holder TTL. When the store is available again, the gateways' next KeepAlives make the shared table
//! equal to their lists. The sidecar copies nothing from local knowledge to the store.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use evenkeel_domain::{
    HolderId, LeaseId, PoolId, StoreError,
    settings::OnStoreFailure,
    verdict::{Basis, Reason, Verdict},
};
use evenkeel_telemetry::Metrics;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    Admit, Held, Lease, Pool, Reaped, Repairs, Store, Table, Undelivered,
    counters::Counters,
    holders::{Epoch, HolderRecord, HolderStore, Secret},
    memory::{MemoryCounters, MemoryStore},
    verdict,
};

mod counters;

/// Time between probes while the circuit breaker is open. It grows up to the maximum if the circuit breaker keeps
/// opening.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(2);
/// If the circuit breaker opens again within this time after closing, the time between probes doubles.
const FLAP: Duration = Duration::from_secs(10);
/// Minimum time between two warnings about single failed calls.
const QUIET: Duration = Duration::from_secs(10);

/// The store with its fallback.
pub struct ResilientStore {
    primary: Arc<dyn Store>,
    counters: Arc<dyn Counters>,
    holders: Arc<dyn HolderStore>,
    local: MemoryStore,
    local_counters: MemoryCounters,
    /// Calls to counters that have not reached the store yet.
    waiting: Mutex<counters::Waiting>,
    /// Number of sidecars that share the store.
    instances: AtomicUsize,
    down: AtomicBool,
    /// Number of times that the circuit breaker has opened.
    losses: AtomicU64,
    circuit: Mutex<Circuit>,
    holder_ttl: Duration,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// A reference for the probe task, which outlives the call that starts it.
    this: std::sync::Weak<Self>,
}

/// State of the circuit breaker that is retained between outages.
#[derive(Default)]
struct Circuit {
    closed_at: Option<Instant>,
    probe_interval: Duration,
    warned_at: Option<Instant>,
}

impl ResilientStore {
    /// Creates a store on top of the shared tables and counters, with local knowledge as the fallback.
    #[must_use]
    pub fn new(
        primary: Arc<dyn Store>,
        counters: Arc<dyn Counters>,
        holders: Arc<dyn HolderStore>,
        holder_ttl: Duration,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        metrics.store_up.set(1);
        Arc::new_cyclic(|this| Self {
            primary,
            counters,
            holders,
            local: MemoryStore::new(holder_ttl),
            local_counters: MemoryCounters::default(),
            waiting: Mutex::default(),
            instances: AtomicUsize::new(1),
            down: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            circuit: Mutex::default(),
            holder_ttl,
            metrics,
            tasks,
            shutdown,
            this: this.clone(),
        })
    }

    /// Connects to the store. If that fails, the sidecar serves from local knowledge until the store answers.
    pub async fn connect(&self) {
        if let Err(error) = self.primary.ping().await {
            self.open_circuit(&error);
        }
    }

    async fn if_up<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if !self.is_up() {
            return Err(StoreError::Unavailable("circuit open after earlier failures".to_owned()));
        }
        self.observe(call.await)
    }

    /// Opens the circuit breaker if a call found the store unavailable. Logs a warning for another error.
    fn observe<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        match &answer {
            Ok(_) => {}
            Err(error @ StoreError::Unavailable(_)) => self.open_circuit(error),
            Err(error) => self.warn(error),
        }
        answer
    }

    fn warn(&self, error: &StoreError) {
        let mut circuit = self.circuit.lock();
        if circuit.warned_at.is_none_or(|at| at.elapsed() >= QUIET) {
            circuit.warned_at = Some(Instant::now());
            warn!(%error, "store call failed: answered from local knowledge (the next failures are not logged)");
        }
    }

    fn open_circuit(&self, error: &StoreError) {
        if self.down.swap(true, Ordering::Relaxed) {
            return;
        }
        let probe_interval = {
            let mut circuit = self.circuit.lock();
            let flapping = circuit.closed_at.is_some_and(|at| at.elapsed() < FLAP);
            circuit.probe_interval =
                if flapping { (circuit.probe_interval * 2).min(PROBE_INTERVAL_MAX) } else { PROBE_INTERVAL };
            circuit.probe_interval
        };
        warn!(%error, "store down: serving from local knowledge");
        self.losses.fetch_add(1, Ordering::Relaxed);
        self.metrics.store_up.set(0);
        self.metrics.store_losses.inc();
        if let Some(this) = self.this.upgrade() {
            // The task ends when the store is available again or the sidecar stops.
            self.tasks.spawn(async move { this.probe(probe_interval).await });
        }
    }

    async fn probe(&self, interval: Duration) {
        let since = Instant::now();
        // If the circuit breaker did not open shortly before, probes at once: usually only the connection was lost.
        let mut wait = if interval > PROBE_INTERVAL { interval } else { Duration::ZERO };
        let mut guessing = true;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.shutdown.cancelled() => return,
            }
            let answer = tokio::select! {
                answer = self.primary.ping() => answer,
                () = self.shutdown.cancelled() => return,
            };
            if answer.is_ok() {
                break;
            }
            wait = interval;
            if guessing && since.elapsed() > self.holder_ttl * 2 {
                info!("the store has been down too long: the load of other gateways no longer counts");
                self.local.forget_assumed();
                guessing = false;
            }
        }
        self.circuit.lock().closed_at = Some(Instant::now());
        self.down.store(false, Ordering::Relaxed);
        self.metrics.store_up.set(1);
        info!(after_ms = since.elapsed().as_millis() as u64, "store up again");
        self.send_waiting().await;
    }
}

#[async_trait]
impl Store for ResilientStore {
    async fn admit(&self, admit: Admit) -> Result<Verdict, StoreError> {
        if self.is_up()
            && let Ok(verdict) = self.observe(self.primary.admit(admit.clone()).await)
        {
            return Ok(verdict);
        }
        Ok(match admit.on_failure {
            OnStoreFailure::Local => verdict(self.local.pick(&admit), Basis::Local),
            OnStoreFailure::Open => Verdict::Admitted { endpoint: None, basis: Basis::Open },
            OnStoreFailure::Closed => Verdict::Refused(Reason::StoreUnavailable),
        })
    }

    async fn settle(&self, pool: &Arc<Pool>, holder: &HolderId, lease: LeaseId) -> Result<bool, StoreError> {
        // Also settles in local knowledge: it may have granted a lease that the store does not know.
        let known_locally = self.local.remove(pool, holder, lease);
        if !self.is_up() {
            return Ok(known_locally);
        }
        Ok(self.observe(self.primary.settle(pool, holder, lease).await).unwrap_or(known_locally))
    }

    async fn keep_alive(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        held: &Held,
    ) -> Result<Repairs, StoreError> {
        self.local.adopt(pool, holder, held);
        self.if_up(self.primary.keep_alive(pool, holder, held)).await
    }

    async fn reap(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Reaped, StoreError> {
        if !self.is_up() {
            return self.local.reap(pool, holder).await;
        }
        self.observe(self.primary.reap(pool, holder).await)
    }

    async fn table(&self, pool: &Arc<Pool>) -> Result<Table, StoreError> {
        if self.is_up()
            && let Ok(table) = self.observe(self.primary.table(pool).await)
        {
            self.local.assume_rest_of(&pool.id, &table.in_flight);
            return Ok(table);
        }
        let mut table = Table { current: false, ..self.local.table(pool).await? };
        for (endpoint, others) in self.local.assumed(pool) {
            *table.in_flight.entry(endpoint).or_default() += others;
        }
        Ok(table)
    }

    async fn recount(&self, pool: &Arc<Pool>) -> Result<u64, StoreError> {
        self.if_up(self.primary.recount(pool)).await
    }

    async fn leases(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Vec<Lease>, StoreError> {
        if !self.is_up() {
            return self.local.leases(pool, holder).await;
        }
        self.observe(self.primary.leases(pool, holder).await)
    }

    async fn register(&self, pool: &Arc<Pool>) -> Result<(), StoreError> {
        self.if_up(self.primary.register(pool)).await
    }

    async fn pools(&self) -> Result<Vec<PoolId>, StoreError> {
        self.if_up(self.primary.pools()).await
    }

    async fn announce(&self, instance: &str, ttl: Duration) -> Result<usize, StoreError> {
        let alive = self.if_up(self.primary.announce(instance, ttl)).await?;
        self.instances.store(alive.max(1), Ordering::Relaxed);
        Ok(alive)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.primary.ping().await
    }

    fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    fn instances(&self) -> usize {
        self.instances.load(Ordering::Relaxed)
    }

    fn settlements_waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    async fn settle_waiting(&self) {
        self.send_waiting().await;
    }

    async fn drain(&self, limit: Duration) -> Undelivered {
        self.send_all_waiting(limit).await
    }

    fn forget_silent_holders(&self) {
        self.local.forget_silent_holders();
    }
}

#[async_trait]
impl HolderStore for ResilientStore {
    async fn claim(
        &self,
        holder: &HolderId,
        secret: &Secret,
        epoch: Epoch,
    ) -> Result<HolderRecord, StoreError> {
        self.if_up(self.holders.claim(holder, secret, epoch)).await
    }
}
