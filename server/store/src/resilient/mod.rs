//! The store of sidecars that share a store: the shared store while it answers, and local knowledge while it does not.
//! A sidecar with the embedded store uses the memory store alone.
//!
//! The shared store has a circuit breaker for each of its servers. While the circuit breaker of a server is open, calls to
//! it fail at once, and no request waits. A single timeout, or an error about one pool's keys, opens no circuit breaker.
//! In each case, only the affected operations are answered locally.
//!
//! Local knowledge is a memory store. Every KeepAlive list and settlement of this sidecar's gateways updates it. It
//! takes the load of the other gateways from the last table that the sidecar read, and drops that load after an outage
//! of twice the holder TTL. When the store is available again, the gateways' next KeepAlives make the shared table
//! equal to their lists. The sidecar copies nothing from local knowledge to the store.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
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
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    Admit, Held, Lease, Pool, Reaped, Release, Repairs, Store, Table, Undelivered,
    counters::Counters,
    holders::{Epoch, HolderRecord, HolderStore, Secret},
    memory::{MemoryCounters, MemoryStore},
    verdict,
};

mod counters;
mod quotas;

/// Maximum time that a start waits for the store. A local store answers sooner. A store that hangs must not delay the
/// start, because the sidecar can serve without it.
const START_MAX: Duration = Duration::from_millis(250);
/// Minimum time between two warnings about single failed calls.
const QUIET: Duration = Duration::from_secs(10);

/// The store with its fallback.
pub struct ResilientStore {
    primary: Arc<dyn Store>,
    counters: Arc<dyn Counters>,
    holders: Arc<dyn HolderStore>,
    local: MemoryStore,
    local_counters: MemoryCounters,
    quotas: quotas::QuotaLevels,
    /// Tag of the records of `local_counters`.
    here: Arc<str>,
    /// Calls to counters that have not reached the store yet.
    waiting: Mutex<counters::Waiting>,
    /// Held while these calls are sent.
    sending: tokio::sync::Mutex<()>,
    /// Number of sidecars that share the store.
    instances: AtomicUsize,
    /// How long local knowledge keeps the load of other gateways after the last reading of a table. After that, the load is
    /// more likely wrong than right.
    assumed_kept: Duration,
    warned_at: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
    /// Whether a test imitates an outage of the whole store.
    #[cfg(test)]
    down: std::sync::atomic::AtomicBool,
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
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let found_again = primary.found_again();
        let store = Arc::new(Self {
            primary,
            counters,
            holders,
            local: MemoryStore::new(holder_ttl),
            local_counters: MemoryCounters::default(),
            quotas: quotas::QuotaLevels::default(),
            here: counters::here(),
            waiting: Mutex::default(),
            sending: tokio::sync::Mutex::default(),
            instances: AtomicUsize::new(1),
            assumed_kept: holder_ttl * 2,
            warned_at: Mutex::default(),
            metrics,
            #[cfg(test)]
            down: Default::default(),
        });
        if let Some(found_again) = found_again {
            tasks.spawn(shutdown.run_until_cancelled_owned(Arc::clone(&store).follow(found_again)));
        }
        store
    }

    /// Waits for the store for a short time. If the store does not answer, the sidecar serves from local knowledge until
    /// it does.
    pub async fn connect(&self) {
        if !matches!(tokio::time::timeout(START_MAX, self.primary.ping()).await, Ok(Ok(()))) {
            warn!("the store does not answer yet: serving from local knowledge");
        }
    }

    /// Sends the waiting calls whenever a server of the store is found again.
    async fn follow(self: Arc<Self>, mut found_again: watch::Receiver<u64>) {
        while found_again.changed().await.is_ok() {
            self.send_waiting(None).await;
        }
    }

    async fn if_up<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if !self.is_up() {
            return Err(away());
        }
        self.observe(call.await)
    }

    /// Logs a warning for an error that opens no circuit breaker.
    fn observe<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &answer
            && !error.is_outage()
        {
            self.warn(error);
        }
        answer
    }

    fn warn(&self, error: &StoreError) {
        let mut warned_at = self.warned_at.lock();
        if warned_at.is_none_or(|at| at.elapsed() >= QUIET) {
            *warned_at = Some(Instant::now());
            warn!(%error, "store call failed: answered from local knowledge (the next failures are not logged)");
        }
    }
}

/// The error of a call that is not sent because the whole store is lost.
fn away() -> StoreError {
    StoreError::NotSent("circuit open after earlier failures".to_owned())
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
            OnStoreFailure::Open => Verdict::Admitted { endpoint: None, basis: Basis::Open, unread: 0 },
            OnStoreFailure::Closed => Verdict::Refused(Reason::StoreUnavailable),
        })
    }

    async fn settle(&self, pool: &Arc<Pool>, holder: &HolderId, lease: LeaseId) -> Result<bool, StoreError> {
        Ok(self.release(pool, holder, lease).await?.is_released())
    }

    async fn release(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        lease: LeaseId,
    ) -> Result<Release, StoreError> {
        // Also settles in local knowledge: it may have granted a lease that the store does not know.
        let known_locally = self.local.remove(pool, holder, lease);
        if self.is_up()
            && let Ok(release) = self.observe(self.primary.release(pool, holder, lease).await)
        {
            return Ok(release);
        }
        Ok(Release::Unconfirmed { known_locally })
    }

    async fn first_token(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        lease: LeaseId,
    ) -> Result<(), StoreError> {
        self.local.read(pool, holder, lease);
        self.if_up(self.primary.first_token(pool, holder, lease)).await
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
        match self.if_up(self.primary.reap(pool, holder)).await {
            Err(error) if error.is_outage() => self.local.reap(pool, holder).await,
            answer => answer,
        }
    }

    async fn table(&self, pool: &Arc<Pool>) -> Result<Table, StoreError> {
        if self.is_up()
            && let Ok(table) = self.observe(self.primary.table(pool).await)
        {
            self.local.assume_rest_of(&pool.id, &table.loads);
            return Ok(table);
        }
        self.local.forget_assumed(self.assumed_kept);
        let mut table = Table { current: false, ..self.local.table(pool).await? };
        for (endpoint, others) in self.local.assumed(pool) {
            *table.loads.entry(endpoint).or_default() += others;
        }
        Ok(table)
    }

    async fn recount(&self, pool: &Arc<Pool>) -> Result<u64, StoreError> {
        self.if_up(self.primary.recount(pool)).await
    }

    async fn leases(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Vec<Lease>, StoreError> {
        match self.if_up(self.primary.leases(pool, holder)).await {
            Err(error) if error.is_outage() => self.local.leases(pool, holder).await,
            answer => answer,
        }
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
        #[cfg(test)]
        if self.down.load(Ordering::Relaxed) {
            return false;
        }
        self.primary.is_up()
    }

    fn losses(&self) -> u64 {
        self.primary.losses()
    }

    fn instances(&self) -> usize {
        self.instances.load(Ordering::Relaxed)
    }

    fn settlements_waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    async fn settle_waiting(&self) {
        self.send_waiting(None).await;
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
