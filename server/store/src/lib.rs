//! The store: the table of requests in flight, in the types of the domain. Two implementations give the same answers:
//! [`memory`] (embedded, and the reference model) and [`redis`] (shared by all sidecars). [`resilient`] combines them
//! for sidecars that share a store: it answers from memory while Redis is slow or unavailable.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use evenkeel_domain::{
    HolderId, LeaseId, PoolId, Roster, StoreError,
    choice::{Load, Prompt},
    settings::OnStoreFailure,
    verdict::{Basis, Reason, Verdict},
};

pub mod activity;
pub mod changes;
pub mod counters;
pub mod drains;
pub mod holders;
pub mod memory;
mod name_text;
pub mod overrides;
pub mod placements;
pub mod records;
pub mod redis;
pub mod resilient;
pub mod ticket_keys;
pub mod usage;
pub mod versioned;

/// A pool and the table that its counts are in.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    pub id: PoolId,
    /// Whether the counts are in Higress's table, which other gateways also change.
    pub higress_table: bool,
}

/// An admission: atomically picks an endpoint and takes a lease on it.
#[derive(Clone, Debug)]
pub struct Admit {
    pub pool: Arc<Pool>,
    /// The endpoints to choose from.
    pub roster: Arc<Roster>,
    /// The gateway worker that will hold the lease.
    pub holder: HolderId,
    pub lease: LeaseId,
    /// A random number that decides between equally loaded endpoints.
    pub tie: u32,
    /// The request's prompt if the pool chooses by work. `None` if it chooses by requests in flight.
    pub prompt: Option<Prompt>,
    /// Policy of the pool for an admission that the shared table cannot decide.
    pub on_failure: OnStoreFailure,
}

/// Settlements that a shutdown could not send to the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undelivered {
    pub settlements: usize,
    /// Tokens of their requests.
    pub tokens: u64,
}

/// The leases that a holder (one gateway worker) reports for one pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// The largest lease number that the holder had issued when it made the list.
    pub issued_through: u64,
    pub leases: Vec<HeldLease>,
    pub bounds: RestoreBounds,
}

/// A lease in a holder's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLease {
    pub id: LeaseId,
    /// `None` if the holder does not know the endpoint yet.
    pub endpoint: Option<Arc<str>>,
    /// Prompt tokens that the endpoint has not read yet; 0 after the first token. The list can lower what the table
    /// has, but not raise it: a report of a first token may be lost, and a list may be older than a report.
    pub unread: u64,
}

/// How many of a list's leases are restored that the table does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreBounds {
    /// Maximum number of leases to restore.
    pub leases_max: u64,
    /// The count of requests in flight up to which leases are restored, for each endpoint with a cap.
    pub counts_max: HashMap<Arc<str>, u64>,
}

impl Default for RestoreBounds {
    /// Sets no bound: local knowledge and tests restore all leases that a list names.
    fn default() -> Self {
        Self { leases_max: i64::MAX.unsigned_abs(), counts_max: HashMap::new() }
    }
}

/// The repairs that made the table equal to a holder's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    pub restored: u64,
    pub dropped: u64,
    /// Leases moved to the endpoint that the list names.
    pub moved: u64,
    /// Leases that were not restored because of [`RestoreBounds`].
    pub refused: u64,
}

impl std::ops::AddAssign for Repairs {
    fn add_assign(&mut self, other: Self) {
        self.restored += other.restored;
        self.dropped += other.dropped;
        self.moved += other.moved;
        self.refused += other.refused;
    }
}

/// The result of [`Store::reap`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Number of leases that this call gave back.
    pub leases: u64,
    /// Whether the holder has more leases, so that the caller must repeat the call.
    pub more: bool,
}

/// One pool's table at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// False if the table comes from local knowledge, because the shared table is unavailable.
    pub current: bool,
    /// Time by the store's clock, in ms since the Unix epoch.
    pub now_ms: u64,
    /// The load of each endpoint. Endpoints without requests in flight are absent.
    pub loads: BTreeMap<Arc<str>, Load>,
    /// The deadline of each holder by the store's clock. A holder is dead once its deadline has passed.
    pub holders: BTreeMap<HolderId, u64>,
}

/// A lease, as shown to operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub endpoint: Arc<str>,
    /// Time by the store's clock when the lease was granted or restored.
    pub since_ms: u64,
    /// Prompt tokens that the endpoint has not read yet.
    pub unread: u64,
}

/// Returns the verdict for the endpoint that a table picked, with the tokens that it must read. `None` means that every
/// endpoint is at its cap.
fn verdict(picked: Option<(Arc<str>, u64)>, basis: Basis) -> Verdict {
    match picked {
        Some((endpoint, unread)) => Verdict::Admitted { endpoint: Some(endpoint), basis, unread },
        None => Verdict::Refused(Reason::PoolFull),
    }
}

/// The result of [`Store::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// This call gave the lease back.
    Released,
    /// The lease is unknown, or was given back before.
    Unknown,
    /// The store did not answer. `known_locally`: whether local knowledge had the lease.
    Unconfirmed { known_locally: bool },
}

impl Release {
    /// Returns whether this call gave the lease back, as far as this sidecar knows.
    #[must_use]
    pub fn is_released(self) -> bool {
        matches!(self, Self::Released | Self::Unconfirmed { known_locally: true })
    }
}

/// The table of requests in flight. Every operation on a pool is atomic.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Picks an endpoint and takes a lease on it. Refuses if every endpoint is at its cap. A repeated call with the
    /// same lease returns the endpoint that the first call picked.
    async fn admit(&self, admit: Admit) -> Result<Verdict, StoreError>;

    /// Gives a lease back. Returns false if the lease is unknown or was given back before.
    async fn settle(&self, pool: &Arc<Pool>, holder: &HolderId, lease: LeaseId) -> Result<bool, StoreError>;

    /// Gives a lease back as [`Self::settle`] does, and also returns whether the store has confirmed it.
    async fn release(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        lease: LeaseId,
    ) -> Result<Release, StoreError> {
        let released = self.settle(pool, holder, lease).await?;
        Ok(if released { Release::Released } else { Release::Unknown })
    }

    /// Records that the answer to a request has begun, so that its endpoint has read the prompt. Idempotent; changes
    /// nothing if the lease is unknown.
    async fn first_token(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        lease: LeaseId,
    ) -> Result<(), StoreError>;

    /// Renews a holder's deadline and makes the table equal to the holder's list. After an error, local knowledge still
    /// has the list.
    async fn keep_alive(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        held: &Held,
    ) -> Result<Repairs, StoreError>;

    /// Gives back a bounded number of leases of a holder that is past its deadline. Does nothing while the holder is
    /// alive.
    async fn reap(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Reaped, StoreError>;

    /// Reads one pool's table.
    async fn table(&self, pool: &Arc<Pool>) -> Result<Table, StoreError>;

    /// Compares the load of each endpoint with its leases and corrects wrong loads. Returns the number of corrected
    /// endpoints.
    async fn recount(&self, pool: &Arc<Pool>) -> Result<u64, StoreError>;

    /// Returns all leases of a holder in a pool, sorted by lease number.
    async fn leases(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Vec<Lease>, StoreError>;

    /// Registers a pool for all sidecars. The caller repeats the call while the pool is in use.
    async fn register(&self, pool: &Arc<Pool>) -> Result<(), StoreError>;

    /// Returns the pools that any sidecar has registered within the last day.
    async fn pools(&self) -> Result<Vec<PoolId>, StoreError>;

    /// Announces that a sidecar is alive for `ttl`. Returns the number of live sidecars.
    async fn announce(&self, instance: &str, ttl: Duration) -> Result<usize, StoreError>;

    /// Checks that the store accepts writes. Connects first if necessary.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Whether the store can be used. Of a store with several servers, at least one can.
    fn is_up(&self) -> bool {
        true
    }

    /// Returns how often a server of the store was lost.
    fn losses(&self) -> u64 {
        0
    }

    /// Returns a receiver that is notified when a lost server is found again. `None` if no server can be lost.
    fn found_again(&self) -> Option<tokio::sync::watch::Receiver<u64>> {
        None
    }

    /// Returns the number of live sidecars that share the store, as of the last [`Self::announce`].
    fn instances(&self) -> usize {
        1
    }

    /// Returns the number of calls on counters that wait for the store.
    fn settlements_waiting(&self) -> usize {
        0
    }

    /// Sends each waiting call once. The sidecar's housekeeping calls this.
    async fn settle_waiting(&self) {}

    /// Sends the waiting settlements until the store has all of them or `limit` has passed. Returns what the sidecar could
    /// not send.
    async fn drain(&self, _limit: Duration) -> Undelivered {
        Undelivered::default()
    }

    /// Removes dead holders from local knowledge, with their leases. The sidecar's housekeeping calls this.
    fn forget_silent_holders(&self) {}
}
