//! The change log: the last changes that administrators made. [`super::memory`] and [`super::redis`] give the same
//! answers.

use async_trait::async_trait;
use evenkeel_domain::StoreError;

/// Maximum number of stored changes. The store drops older changes.
pub const CHANGES_MAX: usize = 1000;

/// One change that an administrator made. Its texts contain no control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminChange {
    /// Time of the change by the store's clock, in ms since the Unix epoch.
    pub at_ms: u64,
    /// Name of the admin token, or `gateway:<consumer>`.
    pub who: String,
    /// `quota.set`, `override.delete`, `endpoint.drain` and so on.
    pub what: String,
    /// The quota and consumer, limit and key, or endpoint and pool.
    pub target: String,
    /// The value before the change, as text for people.
    pub before: String,
    pub after: String,
    /// The administrator's note. May be empty.
    pub note: String,
}

#[async_trait]
pub trait ChangeStore: Send + Sync + 'static {
    /// Appends a change. The store sets `at_ms`. Does nothing if one of the last few changes has the same `id`, so that
    /// the caller may repeat the call.
    async fn add_change(&self, id: &str, change: &AdminChange) -> Result<(), StoreError>;

    /// Returns at most `most` of the last changes, newest first.
    async fn changes(&self, most: usize) -> Result<Vec<AdminChange>, StoreError>;
}
