//! The store: the table of requests in flight, in domain words. Two implementations give the same answers:
//! [`memory`] (embedded, and the reference model) and [`redis`] (shared by all sidecars).
//! [`resilient`] puts the one behind the other, for when Redis is slow or gone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use evenkeel_domain::{HolderId, LeaseId, PoolId, Roster, StoreError};

pub mod activity;
pub mod changes;
pub mod counters;
pub mod drains;
pub mod memory;
pub mod records;
pub mod redis;
pub mod resilient;
pub mod usage;

/// A pool as a store sees it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    pub id: PoolId,
    /// Counts live in Higress's own table, which other gateways change too.
    pub higress_table: bool,
}

/// One admission: pick an endpoint and take a lease on it, in one step.
#[derive(Clone, Debug)]
pub struct Admit {
    pub pool: Arc<Pool>,
    /// Endpoints to choose from.
    pub roster: Arc<Roster>,
    /// Who will hold the lease.
    pub holder: HolderId,
    pub lease: LeaseId,
    /// Random number that decides among equals.
    pub tie: u32,
}

/// What a holder says it has in one pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// Largest lease number issued when the list was drawn up.
    pub issued_through: u64,
    /// Each lease with its endpoint, where the holder knows it.
    pub leases: Vec<(LeaseId, Option<Arc<str>>)>,
}

/// What was changed to make the table equal to a holder's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    pub restored: u64,
    pub dropped: u64,
    /// Leases moved to the endpoint they are really on.
    pub moved: u64,
}

impl std::ops::AddAssign for Repairs {
    fn add_assign(&mut self, other: Self) {
        self.restored += other.restored;
        self.dropped += other.dropped;
        self.moved += other.moved;
    }
}

/// The result of reaping a part of a dead holder's leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Leases given back by this call.
    pub leases: u64,
    /// True when the holder still has some, so that the call is to be repeated.
    pub more: bool,
}

/// One pool's table at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Milliseconds of the Unix epoch by the store's clock.
    pub now_ms: u64,
    /// Requests in flight per endpoint; endpoints without any are absent.
    pub in_flight: BTreeMap<Arc<str>, u64>,
    /// Holders with the time they count as dead unless heard of, by the store's clock.
    pub holders: BTreeMap<HolderId, u64>,
}

/// A lease as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub endpoint: Arc<str>,
    /// When it was granted or put back, by the store's clock.
    pub since_ms: u64,
}

/// The table of requests in flight. Every operation is one atomic step on one pool.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Picks an endpoint and takes a lease on it; `None` where every endpoint is at its cap. A repeated call with the same
    /// lease returns the endpoint already leased.
    async fn admit(&self, admit: Admit) -> Result<Option<Arc<str>>, StoreError>;

    /// Gives a lease back; false when it was unknown or already given back.
    async fn settle(&self, pool: &Arc<Pool>, holder: &HolderId, lease: LeaseId) -> Result<bool, StoreError>;

    /// Keeps a holder alive and makes the table equal to its list.
    async fn keep_alive(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        held: &Held,
    ) -> Result<Repairs, StoreError>;

    /// Gives back up to a bounded number of leases of a holder past its deadline; nothing while it is alive.
    async fn reap(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Reaped, StoreError>;

    /// Reads one pool's table.
    async fn table(&self, pool: &Arc<Pool>) -> Result<Table, StoreError>;

    /// Checks that each count equals its live leases and mends those that do not; the number mended.
    async fn audit(&self, pool: &Arc<Pool>) -> Result<u64, StoreError>;

    /// All leases of a holder in a pool, by number.
    async fn leases(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Vec<Lease>, StoreError>;

    /// Makes a pool known to all sidecars. To be repeated now and then while it is in use.
    async fn register(&self, pool: &Arc<Pool>) -> Result<(), StoreError>;

    /// The pools any sidecar has registered within the last day.
    async fn pools(&self) -> Result<Vec<PoolId>, StoreError>;

    /// Tells that a sidecar is alive for `ttl`; how many are.
    async fn announce(&self, instance: &str, ttl: Duration) -> Result<usize, StoreError>;

    /// Checks that the store can be written to, connecting first where needed.
    async fn ping(&self) -> Result<(), StoreError>;
}
