//! What administrators have changed, the last of it. [`super::memory`] and [`super::redis`] give the same answers.

use async_trait::async_trait;
use evenkeel_domain::StoreError;

/// Most changes kept; older ones go.
pub const CHANGES_MAX: usize = 1000;

/// One change an administrator made. None of its texts holds a control character.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminChange {
    /// When, in ms of the Unix epoch, by the store's clock.
    pub at_ms: u64,
    /// Who: name of the admin token, or `gateway:<consumer>`.
    pub who: String,
    /// What: `quota.set`, `override.delete`, `endpoint.drain` and so on.
    pub what: String,
    /// To what.
    pub target: String,
    /// As it was, in words.
    pub before: String,
    /// As it is now.
    pub after: String,
    /// Why, as given.
    pub note: String,
}

/// The list of changes.
#[async_trait]
pub trait Changes: Send + Sync + 'static {
    /// Appends a change; the store tells `at_ms`. Nothing happens where one of the last few had the same `id`, so that
    /// a call may be sent again.
    async fn add_change(&self, id: &str, change: &AdminChange) -> Result<(), StoreError>;

    /// The last changes, at most so many, newest first.
    async fn changes(&self, most: usize) -> Result<Vec<AdminChange>, StoreError>;
}
