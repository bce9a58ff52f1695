//! The store as the rest of the sidecar uses it: the shared store while it answers, and local knowledge while it does
//! not.
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

use evenkeel_domain::{
    HolderId, LeaseId, PoolId, StoreError,
    settings::OnStoreFailure,
    verdict::{Basis, Reason, Verdict},
};
use evenkeel_telemetry::{Metrics, traces::StoreSpan};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    Admit, Held, Lease, Pool, Reaped, Repairs, Store, Table,
    counters::Counters,
    memory::{MemoryCounters, MemoryStore},
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
    /// `None` if the primary store is in this process and cannot fail.
    local: Option<MemoryStore>,
    local_counters: Option<MemoryCounters>,
    /// Calls on counters that wait for the store.
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

/// Returns the verdict for the endpoint that a table picked. `None` means that every endpoint is at its cap.
fn verdict(endpoint: Option<Arc<str>>, basis: Basis) -> Verdict {
    match endpoint {
        Some(_) => Verdict::Admitted { endpoint, basis },
        None => Verdict::Refused(Reason::PoolFull),
    }
}

impl ResilientStore {
    /// Creates a store on top of an embedded store, which cannot become unavailable.
    #[must_use]
    pub fn embedded(
        store: MemoryStore,
        counters: Arc<MemoryCounters>,
        holder_ttl: Duration,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Self::build(Arc::new(store), counters, None, holder_ttl, metrics, tasks, shutdown)
    }

    /// Creates a store on top of a shared store, with local knowledge as the fallback.
    #[must_use]
    pub fn shared<S: Store + Counters>(
        store: Arc<S>,
        holder_ttl: Duration,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let local = MemoryStore::new(holder_ttl);
        Self::build(Arc::clone(&store) as _, store, Some(local), holder_ttl, metrics, tasks, shutdown)
    }

    fn build(
        primary: Arc<dyn Store>,
        counters: Arc<dyn Counters>,
        local: Option<MemoryStore>,
        holder_ttl: Duration,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        metrics.store_up.set(1);
        Arc::new_cyclic(|this| Self {
            primary,
            counters,
            local_counters: local.is_some().then(MemoryCounters::default),
            local,
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

    /// Whether the circuit breaker is closed.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// Returns the number of live sidecars that share the store, as of the last [`Self::announce`].
    #[must_use]
    pub fn instances(&self) -> usize {
        self.instances.load(Ordering::Relaxed)
    }

    /// Returns how often the circuit breaker has opened.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// Picks an endpoint and takes a lease on it. If the store fails, applies `on_failure`, the pool's policy.
    pub async fn admit(&self, admit: Admit, on_failure: OnStoreFailure) -> Result<Verdict, StoreError> {
        let Some(local) = &self.local else {
            let _span = StoreSpan::memory("evenkeel.store commit");
            return Ok(verdict(self.primary.admit(admit).await?, Basis::Shared));
        };
        if self.is_up()
            && let Ok(endpoint) = self.observe(self.primary.admit(admit.clone()).await)
        {
            return Ok(verdict(endpoint, Basis::Shared));
        }
        match on_failure {
            OnStoreFailure::Local => {
                let _span = StoreSpan::memory("evenkeel.store commit");
                Ok(verdict(local.admit(admit).await?, Basis::Local))
            }
            OnStoreFailure::Open => Ok(Verdict::Admitted { endpoint: None, basis: Basis::Open }),
            OnStoreFailure::Closed => Ok(Verdict::Refused(Reason::StoreUnavailable)),
        }
    }

    /// Gives a lease back; see [`Store::settle`].
    pub async fn settle(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        lease: LeaseId,
    ) -> Result<bool, StoreError> {
        let Some(local) = &self.local else {
            let _span = StoreSpan::memory("evenkeel.store commit");
            return self.primary.settle(pool, holder, lease).await;
        };
        // Also settles in local knowledge: it may have granted a lease that the store does not know.
        let known_locally = local.settle(pool, holder, lease).await?;
        if !self.is_up() {
            return Ok(known_locally);
        }
        match self.observe(self.primary.settle(pool, holder, lease).await) {
            Ok(released) => Ok(released),
            Err(_) => Ok(known_locally),
        }
    }

    /// Renews a holder's deadline; see [`Store::keep_alive`]. The flag is false if the list did not reach the shared
    /// store. Local knowledge always adopts the list.
    pub async fn keep_alive(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        held: Held,
    ) -> Result<(Repairs, bool), StoreError> {
        let Some(local) = &self.local else {
            return Ok((self.primary.keep_alive(pool, holder, &held).await?, true));
        };
        local.adopt(pool, holder, &held);
        if !self.is_up() {
            return Ok((Repairs::default(), false));
        }
        match self.observe(self.primary.keep_alive(pool, holder, &held).await) {
            Ok(repairs) => Ok((repairs, true)),
            Err(_) => Ok((Repairs::default(), false)),
        }
    }

    /// Gives back leases of a dead holder; see [`Store::reap`].
    pub async fn reap(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Reaped, StoreError> {
        match &self.local {
            Some(local) if !self.is_up() => local.reap(pool, holder).await,
            _ => self.observe(self.primary.reap(pool, holder).await),
        }
    }

    /// Reads one pool's table. The flag is false if the table comes from local knowledge.
    pub async fn table(&self, pool: &Arc<Pool>) -> Result<(Table, bool), StoreError> {
        let Some(local) = &self.local else { return Ok((self.primary.table(pool).await?, true)) };
        if self.is_up()
            && let Ok(table) = self.observe(self.primary.table(pool).await)
        {
            local.assume_rest_of(&pool.id, &table.in_flight);
            return Ok((table, true));
        }
        let mut table = local.table(pool).await?;
        for (endpoint, others) in local.assumed(pool) {
            *table.in_flight.entry(endpoint).or_default() += others;
        }
        Ok((table, false))
    }

    /// Corrects wrong counts; see [`Store::recount`].
    pub async fn recount(&self, pool: &Arc<Pool>) -> Result<u64, StoreError> {
        self.if_up(self.primary.recount(pool)).await
    }

    /// Returns a holder's leases; see [`Store::leases`].
    pub async fn leases(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Vec<Lease>, StoreError> {
        match &self.local {
            Some(local) if !self.is_up() => local.leases(pool, holder).await,
            _ => self.observe(self.primary.leases(pool, holder).await),
        }
    }

    /// Registers a pool; see [`Store::register`].
    pub async fn register(&self, pool: &Arc<Pool>) -> Result<(), StoreError> {
        self.if_up(self.primary.register(pool)).await
    }

    /// Returns the registered pools; see [`Store::pools`].
    pub async fn pools(&self) -> Result<Vec<PoolId>, StoreError> {
        self.if_up(self.primary.pools()).await
    }

    /// Announces this sidecar to the other sidecars, and records how many are alive; see [`Store::announce`].
    pub async fn announce(&self, instance: &str, ttl: Duration) -> Result<(), StoreError> {
        let alive = self.if_up(self.primary.announce(instance, ttl)).await?;
        self.instances.store(alive.max(1), Ordering::Relaxed);
        self.metrics.sidecars.set(alive as i64);
        Ok(())
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
        if self.local.is_none() || self.down.swap(true, Ordering::Relaxed) {
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
            if let Some(local) =
                self.local.as_ref().filter(|_| guessing && since.elapsed() > self.holder_ttl * 2)
            {
                info!("the store has been down too long: the load of other gateways no longer counts");
                local.forget_assumed();
                guessing = false;
            }
        }
        self.circuit.lock().closed_at = Some(Instant::now());
        self.down.store(false, Ordering::Relaxed);
        self.metrics.store_up.set(1);
        info!(after_ms = since.elapsed().as_millis() as u64, "store up again");
        self.settle_waiting().await;
    }

    /// Removes dead holders from local knowledge, with their leases. The sidecar's housekeeping calls this.
    pub fn forget_silent_holders(&self) {
        if let Some(local) = &self.local {
            local.forget_silent_holders();
        }
    }
}
