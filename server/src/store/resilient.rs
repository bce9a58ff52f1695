//! The store as the rest of the sidecar uses it: the shared one while it answers, local knowledge while it does
//! not. The circuit opens at the first sign that the store cannot be reached, or after a few
//! timeouts in a row; from then on nobody waits for it, and a probe tells when it is back.
//!
//! Local knowledge is the leases that this sidecar's gateways listed in their last KeepAlive, plus the
//! load other instances had in the last table seen. When the store is back, the gateways' next
//! KeepAlives make its table equal to what they hold; nothing local needs to be copied.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    Admit, Choice, Held, Lease, Pool, Reaped, Repairs, Store, StoreError, Table, memory::MemoryStore,
};
use crate::{
    domain::{HolderId, LeaseId, PoolId},
    telemetry::Metrics,
};

/// Failures in a row, other than the store being out of reach, that open the circuit.
const FAILURES_MAX: u32 = 3;
/// Time between probes while the circuit is open.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// What a pool does while the store is unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreFailure {
    /// Choose from local knowledge.
    #[default]
    Local,
    /// Admit without choosing; the gateway's own balancing decides.
    Open,
    /// Deny with 503.
    Closed,
}

/// How an admission was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// From the shared table.
    Shared(Choice),
    /// From local knowledge.
    Local(Choice),
    /// Not at all: the pool's policy is open.
    Open,
    /// Not at all: the pool's policy is closed.
    Closed,
}

/// A store with a plan for its failure.
pub struct ResilientStore {
    primary: Arc<dyn Store>,
    /// Absent where the primary is in this process and cannot fail.
    local: Option<MemoryStore>,
    down: AtomicBool,
    failures: AtomicU32,
    memory: Mutex<Memory>,
    holder_ttl: Duration,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// For the probe task, which outlives the call that starts it.
    this: std::sync::Weak<Self>,
}

/// What is remembered for the day the store fails.
#[derive(Default)]
struct Memory {
    lists: HashMap<(Arc<Pool>, HolderId), (Instant, Held)>,
    tables: HashMap<PoolId, Table>,
}

impl ResilientStore {
    /// An embedded store: it cannot be out of reach.
    #[must_use]
    pub fn embedded(
        store: MemoryStore,
        holder_ttl: Duration,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Self::build(Arc::new(store), None, holder_ttl, metrics, tasks, shutdown)
    }

    /// A shared store, with local knowledge to fall back on.
    #[must_use]
    pub fn shared(
        store: Arc<dyn Store>,
        holder_ttl: Duration,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let local = MemoryStore::new(holder_ttl);
        Self::build(store, Some(local), holder_ttl, metrics, tasks, shutdown)
    }

    fn build(
        primary: Arc<dyn Store>,
        local: Option<MemoryStore>,
        holder_ttl: Duration,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        metrics.store_up.set(1);
        Arc::new_cyclic(|this| Self {
            primary,
            local,
            down: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            memory: Mutex::default(),
            holder_ttl,
            metrics,
            tasks,
            shutdown,
            this: this.clone(),
        })
    }

    /// Connects. Where that fails the sidecar serves from local knowledge until the store is there.
    pub async fn connect(&self) {
        if let Err(error) = self.primary.ping().await {
            self.failed(&error, true);
        }
    }

    /// Whether the store answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// Picks and leases, or does what the pool's policy says where the store cannot.
    pub async fn admit(&self, admit: Admit, on_failure: OnStoreFailure) -> Result<Decision, StoreError> {
        let (primary, again) = (&self.primary, admit.clone());
        if let Some(answer) = self.attempt(primary.admit(admit)).await {
            match answer {
                Ok(choice) => return Ok(Decision::Shared(choice)),
                Err(error) if self.local.is_none() => return Err(error),
                Err(_) => {}
            }
        }
        match (on_failure, &self.local) {
            (OnStoreFailure::Local, Some(local)) => Ok(Decision::Local(local.admit(again).await?)),
            (OnStoreFailure::Closed, _) => Ok(Decision::Closed),
            _ => Ok(Decision::Open),
        }
    }

    /// Gives a lease back; see [`Store::settle`].
    pub async fn settle(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        lease: LeaseId,
    ) -> Result<bool, StoreError> {
        let answer = self.attempt(self.primary.settle(pool, holder, lease)).await;
        // A lease granted locally, or that the store will learn of from a KeepAlive, is settled here too.
        match (&self.local, answer) {
            (_, Some(Ok(released))) => Ok(released),
            (Some(local), _) => local.settle(pool, holder, lease).await,
            (None, Some(error)) => error,
            (None, None) => Err(unavailable()),
        }
    }

    /// Keeps a holder alive; see [`Store::keep_alive`]. The list is remembered for the store's failure.
    pub async fn keep_alive(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        held: Held,
    ) -> Result<Repairs, StoreError> {
        let answer = self.attempt(self.primary.keep_alive(pool, holder, &held)).await;
        let Some(local) = &self.local else { return answer.unwrap_or_else(|| Err(unavailable())) };
        let answer = match answer {
            Some(Ok(repairs)) => Ok(repairs),
            _ => local.keep_alive(pool, holder, &held).await,
        };
        let key = (Arc::clone(pool), holder.clone());
        self.memory.lock().lists.insert(key, (Instant::now(), held));
        answer
    }

    /// Gives back leases of a dead holder; see [`Store::reap`].
    pub async fn reap(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Reaped, StoreError> {
        match self.attempt(self.primary.reap(pool, holder)).await {
            Some(answer) => answer,
            None => match &self.local {
                Some(local) => local.reap(pool, holder).await,
                None => Err(unavailable()),
            },
        }
    }

    /// Reads one pool's table. The flag is false where it is not the shared one: it is then the last one seen,
    /// or what is known locally.
    pub async fn table(&self, pool: &Arc<Pool>) -> Result<(Table, bool), StoreError> {
        if let Some(Ok(table)) = self.attempt(self.primary.table(pool)).await {
            if self.local.is_some() {
                self.memory.lock().tables.insert(pool.id.clone(), table.clone());
            }
            return Ok((table, true));
        }
        let Some(local) = &self.local else { return Err(unavailable()) };
        let mut table = local.table(pool).await?;
        for (endpoint, others) in local.assumed(pool) {
            *table.in_flight.entry(endpoint).or_default() += others;
        }
        Ok((table, false))
    }

    /// See [`Store::audit`].
    pub async fn audit(&self, pool: &Arc<Pool>) -> Result<u64, StoreError> {
        self.attempt(self.primary.audit(pool)).await.unwrap_or_else(|| Err(unavailable()))
    }

    /// See [`Store::leases`].
    pub async fn leases(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Vec<Lease>, StoreError> {
        match (self.attempt(self.primary.leases(pool, holder)).await, &self.local) {
            (Some(Ok(leases)), _) => Ok(leases),
            (_, Some(local)) => local.leases(pool, holder).await,
            (Some(error), None) => error,
            (None, None) => Err(unavailable()),
        }
    }

    /// See [`Store::register`].
    pub async fn register(&self, pool: &Arc<Pool>) -> Result<(), StoreError> {
        self.attempt(self.primary.register(pool)).await.unwrap_or_else(|| Err(unavailable()))
    }

    /// See [`Store::pools`].
    pub async fn pools(&self) -> Result<Vec<PoolId>, StoreError> {
        self.attempt(self.primary.pools()).await.unwrap_or_else(|| Err(unavailable()))
    }

    /// Makes the call unless the circuit is open, and keeps count of how it went.
    async fn attempt<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Option<Result<T, StoreError>> {
        if self.down.load(Ordering::Relaxed) {
            return None;
        }
        let answer = call.await;
        match &answer {
            Ok(_) => {
                if self.failures.load(Ordering::Relaxed) != 0 {
                    self.failures.store(0, Ordering::Relaxed);
                }
            }
            Err(StoreError::Overloaded(_)) => {}
            Err(error) => self.failed(error, matches!(error, StoreError::Unavailable(_))),
        }
        Some(answer)
    }

    fn failed(&self, error: &StoreError, at_once: bool) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if (!at_once && failures < FAILURES_MAX) || self.local.is_none() {
            return;
        }
        if self.down.swap(true, Ordering::Relaxed) {
            return;
        }
        warn!(%error, "store unavailable: serving from local knowledge");
        self.metrics.store_up.set(0);
        self.prepare_local();
        if let Some(this) = self.this.upgrade() {
            // Ends when the store is back, or with the sidecar.
            self.tasks.spawn(async move { this.probe().await });
        }
    }

    /// Builds local knowledge: the leases this sidecar's gateways last listed, and everyone else's load.
    fn prepare_local(&self) {
        let Some(local) = &self.local else { return };
        local.clear();
        let mut memory = self.memory.lock();
        let alive_since = Instant::now().checked_sub(self.holder_ttl);
        memory.lists.retain(|_, (at, _)| alive_since.is_none_or(|since| *at >= since));
        let mut own: HashMap<&PoolId, BTreeMap<Arc<str>, u64>> = HashMap::new();
        for ((pool, holder), (_, held)) in &memory.lists {
            local.adopt(pool, holder, held);
            let own = own.entry(&pool.id).or_default();
            for endpoint in held.leases.iter().filter_map(|(_, endpoint)| endpoint.as_ref()) {
                *own.entry(Arc::clone(endpoint)).or_default() += 1;
            }
        }
        for (id, table) in &memory.tables {
            let mut others = table.in_flight.clone();
            for (endpoint, count) in own.get(id).into_iter().flatten() {
                if let Some(load) = others.get_mut(endpoint) {
                    *load = load.saturating_sub(*count);
                }
            }
            others.retain(|_, load| *load > 0);
            local.assume(id, others);
        }
    }

    async fn probe(&self) {
        let since = Instant::now();
        loop {
            let answer = tokio::select! {
                answer = self.primary.ping() => answer,
                () = self.shutdown.cancelled() => return,
            };
            if answer.is_ok() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
                () = self.shutdown.cancelled() => return,
            }
        }
        self.failures.store(0, Ordering::Relaxed);
        self.down.store(false, Ordering::Relaxed);
        self.metrics.store_up.set(1);
        info!(after_ms = since.elapsed().as_millis() as u64, "store is back");
    }

    /// Forgets the lists of holders that have fallen silent. To be called now and then.
    pub fn forget_silent_holders(&self) {
        let silent_since = Instant::now().checked_sub(self.holder_ttl * 4);
        self.memory.lock().lists.retain(|_, (at, _)| silent_since.is_none_or(|since| *at >= since));
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("circuit open after earlier failures".to_owned())
}
