//! The embedded store, and the reference that the Redis scripts are tested against.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

mod activity;
mod cell;
mod changes;
mod counters;
mod holders;
mod records;
mod usage;
mod versioned;

pub use activity::MemoryActivity;
pub(crate) use cell::last_bit;
pub use changes::MemoryChanges;
pub use counters::MemoryCounters;
use evenkeel_domain::{
    HolderId, LeaseId, PoolId, StoreError,
    choice::{Load, choose},
    clock::unix_ms,
    verdict::{Basis, Verdict},
};
use evenkeel_telemetry::traces::StoreSpan;
pub use holders::MemoryHolders;
pub use records::MemoryRecords;
pub use usage::MemoryUsage;
pub use versioned::MemoryMap;

use super::{Admit, Held, HeldLease, Lease, Pool, Reaped, Repairs, Store, Table, verdict};

/// Maximum number of leases that one [`Store::reap`] gives back.
pub const REAP_MAX: usize = 1000;

/// Tables in this process's memory. Uses tokio's time, so that tests can pause the clock.
pub struct MemoryStore {
    holder_ttl: Duration,
    started: Instant,
    started_unix_ms: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pools: HashMap<PoolId, PoolTable>,
    registered: BTreeSet<PoolId>,
}

#[derive(Default)]
struct PoolTable {
    loads: BTreeMap<Arc<str>, Load>,
    /// Load by requests of other sidecars. See [`MemoryStore::assume_rest_of`].
    assumed: BTreeMap<Arc<str>, Load>,
    /// When `assumed` was last known to be true.
    assumed_at: Option<Instant>,
    deadlines: BTreeMap<HolderId, u64>,
    leases: BTreeMap<HolderId, BTreeMap<LeaseId, Lease>>,
}

impl PoolTable {
    fn load(&self, address: &str) -> Load {
        let of = |loads: &BTreeMap<Arc<str>, Load>| loads.get(address).copied().unwrap_or_default();
        let mut load = of(&self.loads);
        load += of(&self.assumed);
        load
    }

    fn insert(&mut self, holder: &HolderId, lease: Lease) {
        *self.loads.entry(Arc::clone(&lease.endpoint)).or_default() +=
            Load { in_flight: 1, unread: lease.unread };
        let before = self.leases.entry(holder.clone()).or_default().insert(lease.id, lease);
        if let Some(before) = before {
            self.uncount(&before);
        }
    }

    fn remove(&mut self, holder: &HolderId, lease: LeaseId) -> bool {
        let Some(held) = self.leases.get_mut(holder) else { return false };
        let Some(lease) = held.remove(&lease) else { return false };
        if held.is_empty() {
            self.leases.remove(holder);
        }
        self.uncount(&lease);
        true
    }

    /// Lowers the unread tokens of a lease, if the table has the lease.
    fn lower(&mut self, holder: &HolderId, lease: LeaseId, unread: u64) {
        let Some(lease) = self.leases.get_mut(holder).and_then(|held| held.get_mut(&lease)) else { return };
        let read = lease.unread.saturating_sub(unread);
        lease.unread -= read;
        if let Some(load) = self.loads.get_mut(&lease.endpoint) {
            load.unread -= read;
        }
    }

    fn adopt(&mut self, holder: &HolderId, held: &Held, now_ms: u64, deadline_ms: u64) -> Repairs {
        self.deadlines.insert(holder.clone(), deadline_ms);
        let mut repairs = Repairs::default();
        let listed: BTreeMap<LeaseId, &HeldLease> =
            held.leases.iter().map(|lease| (lease.id, lease)).collect();
        let known: Vec<Lease> =
            self.leases.get(holder).map(|l| l.values().cloned().collect()).unwrap_or_default();
        for lease in &known {
            match listed.get(&lease.id) {
                None if lease.id.get() <= held.issued_through => {
                    self.remove(holder, lease.id);
                    repairs.dropped += 1;
                }
                Some(HeldLease { endpoint: Some(endpoint), unread, .. }) => {
                    self.lower(holder, lease.id, *unread);
                    if *endpoint != lease.endpoint {
                        let unread = lease.unread.min(*unread);
                        let moved = Lease { endpoint: Arc::clone(endpoint), unread, ..lease.clone() };
                        self.insert(holder, moved);
                        repairs.moved += 1;
                    }
                }
                // A holder that does not know the endpoint knows nothing of the prompt either.
                _ => {}
            }
        }
        let known: BTreeSet<LeaseId> = known.iter().map(|lease| lease.id).collect();
        for (&id, HeldLease { endpoint, unread, .. }) in &listed {
            let Some(endpoint) = endpoint else { continue };
            if !known.contains(&id) {
                let count = self.loads.get(&**endpoint).map_or(0, |load| load.in_flight);
                let is_full = held.bounds.counts_max.get(&**endpoint).is_some_and(|most| count >= *most);
                if is_full || repairs.restored >= held.bounds.leases_max {
                    repairs.refused += 1;
                    continue;
                }
                let endpoint = Arc::clone(endpoint);
                self.insert(holder, Lease { id, endpoint, since_ms: now_ms, unread: *unread });
                repairs.restored += 1;
            }
        }
        repairs
    }

    fn uncount(&mut self, lease: &Lease) {
        if let Some(load) = self.loads.get_mut(&lease.endpoint) {
            load.in_flight -= 1;
            load.unread -= lease.unread;
            if load.in_flight == 0 {
                self.loads.remove(&lease.endpoint);
            }
        }
    }
}

impl MemoryStore {
    /// Creates an empty store. A holder is dead after `holder_ttl` without a KeepAlive.
    #[must_use]
    pub fn new(holder_ttl: Duration) -> Self {
        Self { holder_ttl, started: Instant::now(), started_unix_ms: unix_ms(), state: Mutex::default() }
    }

    /// Attributes to other sidecars the load in a shared table that exceeds the leases in this store. [`Store::admit`]
    /// includes this load when it picks an endpoint, although this store has no leases for it. Replaces the previous load.
    pub fn assume_rest_of(&self, pool: &PoolId, loads: &BTreeMap<Arc<str>, Load>) {
        let mut state = self.state.lock();
        let table = state.pools.entry(pool.clone()).or_default();
        let rest = loads.iter().map(|(endpoint, load)| {
            let own = table.loads.get(endpoint).copied().unwrap_or_default();
            let in_flight = load.in_flight.saturating_sub(own.in_flight);
            (Arc::clone(endpoint), Load { in_flight, unread: load.unread.saturating_sub(own.unread) })
        });
        table.assumed = rest.filter(|(_, load)| *load != Load::default()).collect();
        table.assumed_at = Some(Instant::now());
    }

    /// Drops the load of other sidecars in pools whose shared table nobody has read for this time.
    pub fn forget_assumed(&self, older_than: Duration) {
        let is_old = |at: Instant| at.elapsed() > older_than;
        for table in self.state.lock().pools.values_mut() {
            if table.assumed_at.is_some_and(is_old) {
                (table.assumed, table.assumed_at) = Default::default();
            }
        }
    }

    /// Removes all holders that are past their deadline, with their leases.
    pub fn forget_silent_holders(&self) {
        let now_ms = self.now_ms();
        for table in self.state.lock().pools.values_mut() {
            let silent =
                |(holder, deadline): (&HolderId, &u64)| (*deadline <= now_ms).then(|| holder.clone());
            let silent: Vec<HolderId> = table.deadlines.iter().filter_map(silent).collect();
            for holder in silent {
                table.deadlines.remove(&holder);
                for lease in table.leases.remove(&holder).unwrap_or_default().into_values() {
                    table.uncount(&lease);
                }
            }
        }
    }

    /// Returns the load of other sidecars that [`Self::assume_rest_of`] found.
    #[must_use]
    pub fn assumed(&self, pool: &Pool) -> BTreeMap<Arc<str>, Load> {
        self.with(pool, |table| table.assumed.clone())
    }

    /// Picks an endpoint and takes a lease on it. Returns the endpoint, and the tokens that it must read. Returns `None` if
    /// every endpoint is at its cap.
    pub(crate) fn pick(&self, admit: &Admit) -> Option<(Arc<str>, u64)> {
        let _span = StoreSpan::memory("evenkeel.store commit");
        let (now, deadline) = (self.now_ms(), self.deadline_ms());
        self.with(&admit.pool, |table| {
            table.deadlines.insert(admit.holder.clone(), deadline);
            if let Some(lease) = table.leases.get(&admit.holder).and_then(|l| l.get(&admit.lease)) {
                return Some((Arc::clone(&lease.endpoint), lease.unread));
            }
            let load = |address: &str| table.load(address);
            let choice = choose(&admit.roster, admit.tie, admit.prompt.as_ref(), load)?;
            let (endpoint, unread) = (Arc::clone(&choice.endpoint.address), choice.unread);
            let lease = Lease { id: admit.lease, endpoint: Arc::clone(&endpoint), since_ms: now, unread };
            table.insert(&admit.holder, lease);
            Some((endpoint, unread))
        })
    }

    /// Records the first token of a lease, if the lease is known.
    pub(crate) fn read(&self, pool: &Pool, holder: &HolderId, lease: LeaseId) {
        self.with(pool, |table| table.lower(holder, lease, 0));
    }

    /// Removes a lease. Returns false if the lease is unknown.
    pub(crate) fn remove(&self, pool: &Pool, holder: &HolderId, lease: LeaseId) -> bool {
        self.with(pool, |table| table.remove(holder, lease))
    }

    /// Makes a holder's leases equal to its list, as [`Store::keep_alive`] does.
    pub fn adopt(&self, pool: &Pool, holder: &HolderId, held: &Held) -> Repairs {
        let (now, deadline) = (self.now_ms(), self.deadline_ms());
        self.with(pool, |table| table.adopt(holder, held, now, deadline))
    }

    /// Moves a holder's deadline into the past. For tests.
    pub fn expire(&self, pool: &Pool, holder: &HolderId) {
        if let Some(deadline) =
            self.state.lock().pools.get_mut(&pool.id).and_then(|p| p.deadlines.get_mut(holder))
        {
            *deadline = 0;
        }
    }

    fn now_ms(&self) -> u64 {
        self.started_unix_ms + self.started.elapsed().as_millis() as u64
    }

    fn deadline_ms(&self) -> u64 {
        self.now_ms() + self.holder_ttl.as_millis() as u64
    }

    fn with<T>(&self, pool: &Pool, f: impl FnOnce(&mut PoolTable) -> T) -> T {
        let mut state = self.state.lock();
        if let Some(table) = state.pools.get_mut(&pool.id) {
            return f(table);
        }
        f(state.pools.entry(pool.id.clone()).or_default())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn admit(&self, admit: Admit) -> Result<Verdict, StoreError> {
        Ok(verdict(self.pick(&admit), Basis::Shared))
    }

    async fn settle(&self, pool: &Arc<Pool>, holder: &HolderId, lease: LeaseId) -> Result<bool, StoreError> {
        let _span = StoreSpan::memory("evenkeel.store commit");
        Ok(self.remove(pool, holder, lease))
    }

    async fn first_token(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        lease: LeaseId,
    ) -> Result<(), StoreError> {
        self.read(pool, holder, lease);
        Ok(())
    }

    async fn keep_alive(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        held: &Held,
    ) -> Result<Repairs, StoreError> {
        Ok(self.adopt(pool, holder, held))
    }

    async fn reap(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Reaped, StoreError> {
        let now = self.now_ms();
        Ok(self.with(pool, |table| {
            if table.deadlines.get(holder).is_none_or(|deadline| *deadline > now) {
                return Reaped::default();
            }
            let ids: Vec<LeaseId> = table
                .leases
                .get(holder)
                .map(|l| l.keys().take(REAP_MAX).copied().collect())
                .unwrap_or_default();
            for id in &ids {
                table.remove(holder, *id);
            }
            let more = table.leases.contains_key(holder);
            if !more {
                table.deadlines.remove(holder);
            }
            Reaped { leases: ids.len() as u64, more }
        }))
    }

    async fn table(&self, pool: &Arc<Pool>) -> Result<Table, StoreError> {
        let now_ms = self.now_ms();
        Ok(self.with(pool, |table| Table {
            current: true,
            now_ms,
            loads: table.loads.clone(),
            holders: table.deadlines.clone(),
        }))
    }

    async fn recount(&self, _pool: &Arc<Pool>) -> Result<u64, StoreError> {
        Ok(0) // Only the operations above change these tables, so the loads cannot be wrong.
    }

    async fn leases(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Vec<Lease>, StoreError> {
        Ok(self.with(pool, |table| {
            table.leases.get(holder).map(|l| l.values().cloned().collect()).unwrap_or_default()
        }))
    }

    async fn register(&self, pool: &Arc<Pool>) -> Result<(), StoreError> {
        self.state.lock().registered.insert(pool.id.clone());
        Ok(())
    }

    async fn pools(&self) -> Result<Vec<PoolId>, StoreError> {
        Ok(self.state.lock().registered.iter().cloned().collect())
    }

    async fn announce(&self, _instance: &str, _ttl: Duration) -> Result<usize, StoreError> {
        Ok(1)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
