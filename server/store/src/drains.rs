//! Endpoints that administrators have drained, as every sidecar is to know them. [`super::memory`] and
//! [`super::redis`] give the same answers.

use async_trait::async_trait;
use evenkeel_domain::{PoolId, StoreError};

/// Most drains.
pub const DRAINS_MAX: usize = 1000;

/// An endpoint that gets no new requests. None of its texts holds a control character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Its address, as pools name it.
    pub endpoint: String,
    /// Only in this pool; `None`: in every pool.
    pub pool: Option<PoolId>,
    /// Why.
    pub note: String,
    /// Who drained it.
    pub who: String,
    /// When, in ms of the Unix epoch, by the store's clock.
    pub at_ms: u64,
}

/// What became of a drain that was put on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutDrain {
    /// When, in ms of the Unix epoch, by the store's clock.
    pub at_ms: u64,
    /// Whether the endpoint was drained there before: what was on record is replaced.
    pub before: bool,
}

/// All drains at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainList {
    /// Another one where they changed.
    pub version: u64,
    /// By endpoint, then pool; first the drain from every pool.
    pub drains: Vec<Drain>,
}

/// Drains on record.
#[async_trait]
pub trait Drains: Send + Sync + 'static {
    /// Drains an endpoint; the store tells `at_ms`. `None` where there are [`DRAINS_MAX`] others.
    async fn put_drain(&self, new: &Drain) -> Result<Option<PutDrain>, StoreError>;

    /// Takes a drain away; false where there is none of exactly this endpoint and pool.
    async fn delete_drain(&self, endpoint: &str, pool: Option<&PoolId>) -> Result<bool, StoreError>;

    /// All drains.
    async fn drains(&self) -> Result<DrainList, StoreError>;

    /// [`DrainList::version`] alone.
    async fn drains_version(&self) -> Result<u64, StoreError>;
}
