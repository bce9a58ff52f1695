//! The keys with which sidecars sign tickets, if the configuration names no file of keys. All sidecars that share a store
//! share the keys.

use std::fmt;

use async_trait::async_trait;
use evenkeel_domain::StoreError;

/// Length of a key, in bytes: as many as the digest has.
pub const TICKET_KEY_BYTES: usize = 32;
/// Maximum number of keys. A second key appears only if a sidecar starts while the store is unavailable or has just lost
/// its data.
pub const TICKET_KEYS_MAX: usize = 16;
/// Age after which a key is dropped unless it is the oldest, which signs. Tickets that carry it are too old by then.
pub const TICKET_KEY_AGE_MAX_MS: u64 = 2 * 86_400_000;

/// A key. `Debug` prints no bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TicketKey {
    /// When a sidecar made the key, in ms since the Unix epoch. The oldest key signs, so that all sidecars sign with the
    /// same key.
    pub made_ms: u64,
    pub bytes: [u8; TICKET_KEY_BYTES],
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("made_ms", &self.made_ms).finish_non_exhaustive()
    }
}

#[async_trait]
pub trait TicketKeyStore: Send + Sync + 'static {
    /// Returns the keys of all sidecars, in any order. If `in_use`, adds `mine` to them, which restores them in a store
    /// that has lost its data. Otherwise, adds `mine` only if there is no other key.
    async fn merge(&self, mine: &[TicketKey], in_use: bool) -> Result<Vec<TicketKey>, StoreError>;
}
