//! Endpoints that administrators have drained, shared by all sidecars. [`super::memory`] and [`super::redis`] give the
//! same answers.

use async_trait::async_trait;
use evenkeel_domain::{PoolId, StoreError};

pub const DRAINS_MAX: usize = 1000;

/// An endpoint that gets no new requests. The texts hold no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Its address, as in the pool.
    pub endpoint: String,
    /// `None`: in every pool.
    pub pool: Option<PoolId>,
    /// The administrator's note. May be empty.
    pub note: String,
    /// Name of the admin token.
    pub who: String,
    /// When, in ms of the Unix epoch, by the store's clock.
    pub at_ms: u64,
}

/// The result of [`DrainStore::put_drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutDrain {
    /// When, in ms of the Unix epoch, by the store's clock.
    pub at_ms: u64,
    /// Whether a previous drain of the same endpoint and pool was replaced.
    pub before: bool,
}

/// All drains at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainList {
    /// Differs after each change.
    pub version: u64,
    /// Sorted by endpoint, then pool. The drain in every pool comes first.
    pub drains: Vec<Drain>,
}

#[async_trait]
pub trait DrainStore: Send + Sync + 'static {
    /// Drains an endpoint. The store sets `at_ms`. Returns `None` if there are [`DRAINS_MAX`] others.
    async fn put_drain(&self, new: &Drain) -> Result<Option<PutDrain>, StoreError>;

    /// Deletes a drain. Returns false if there is none of exactly this endpoint and pool.
    async fn delete_drain(&self, endpoint: &str, pool: Option<&PoolId>) -> Result<bool, StoreError>;

    async fn drains(&self) -> Result<DrainList, StoreError>;

    /// Returns [`DrainList::version`] alone.
    async fn drains_version(&self) -> Result<u64, StoreError>;
}
