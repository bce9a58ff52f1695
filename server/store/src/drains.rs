//! Endpoints that administrators have drained, shared by all sidecars. [`super::memory`] and [`super::redis`] give the
//! same answers.

use async_trait::async_trait;
use evenkeel_domain::{PoolId, StoreError};

pub const DRAINS_MAX: usize = 1000;

/// An endpoint that gets no new requests. The texts contain no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The address of the endpoint, as in the pool.
    pub endpoint: String,
    /// The pool in which the endpoint is drained. `None`: every pool.
    pub pool: Option<PoolId>,
    /// The administrator's note. May be empty.
    pub note: String,
    /// Name of the admin token.
    pub who: String,
    /// Time of the drain by the store's clock, in ms since the Unix epoch.
    pub at_ms: u64,
}

/// The result of [`DrainStore::put_drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutDrain {
    /// Time of the drain by the store's clock, in ms since the Unix epoch.
    pub at_ms: u64,
    /// Whether this drain replaced a previous drain of the same endpoint and pool.
    pub before: bool,
}

/// All drains at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainList {
    /// A number that differs after each change.
    pub version: u64,
    /// Sorted by endpoint, then by pool. The drain in every pool comes first.
    pub drains: Vec<Drain>,
}

#[async_trait]
pub trait DrainStore: Send + Sync + 'static {
    /// Drains an endpoint. The store sets `at_ms`. Returns `None` if there are already [`DRAINS_MAX`] other drains.
    async fn put_drain(&self, new: &Drain) -> Result<Option<PutDrain>, StoreError>;

    /// Deletes a drain. Returns false if there is no drain with exactly this endpoint and pool.
    async fn delete_drain(&self, endpoint: &str, pool: Option<&PoolId>) -> Result<bool, StoreError>;

    async fn drains(&self) -> Result<DrainList, StoreError>;

    /// Returns only [`DrainList::version`].
    async fn drains_version(&self) -> Result<u64, StoreError>;
}
