//! The change log: the last changes that administrators made. [`super::memory`] and [`super::redis`] give the same
//! answers.

use async_trait::async_trait;
use evenkeel_domain::StoreError;

/// Most changes kept. Older ones are dropped.
pub const CHANGES_MAX: usize = 1000;

/// One change an administrator made. Its texts hold no control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminChange {
    /// When, in ms of the Unix epoch, by the store's clock.
    pub at_ms: u64,
    /// Name of the admin token, or `gateway:<consumer>`.
    pub who: String,
    /// `quota.set`, `override.delete`, `endpoint.drain` and so on.
    pub what: String,
    /// The quota and consumer, limit and key, or endpoint and pool.
    pub target: String,
    /// The value before, for people.
    pub before: String,
    pub after: String,
    /// The administrator's note. May be empty.
    pub note: String,
}

#[async_trait]
pub trait ChangeStore: Send + Sync + 'static {
    /// Appends a change. The store sets `at_ms`. Does nothing if one of the last few changes has the same `id`, so that
    /// a call may be repeated.
    async fn add_change(&self, id: &str, change: &AdminChange) -> Result<(), StoreError>;

    /// Returns the last `most` changes, newest first.
    async fn changes(&self, most: usize) -> Result<Vec<AdminChange>, StoreError>;
}
