//! Placements: which prompts the sidecars have placed on which endpoints. From them, every sidecar keeps an index of the
//! prefixes that the endpoints' caches probably have.
//!
//! The store does not look into batches of placements. It may lose them: an index then knows less for a while.

use std::sync::Arc;

use async_trait::async_trait;
use evenkeel_domain::StoreError;

use crate::Pool;

/// Maximum length of a batch, in bytes.
pub const BATCH_BYTES_MAX: usize = 16 * 1024;
/// Maximum number of batches that one [`PlacementStore::exchange`] returns.
pub const BATCHES_READ_MAX: usize = 16;
/// Approximate number of batches that the store keeps of one pool: at most 64 MiB. A sidecar that starts reads them all.
pub const BATCHES_KEPT: usize = 4096;
/// How long the store keeps the batches of a pool after the last one, in ms. A cache has forgotten most by then.
pub const BATCHES_KEPT_MS: u64 = 600_000;

/// A position in the batches of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(pub(crate) String);

impl Default for Position {
    /// Returns the position before all batches.
    fn default() -> Self {
        Self("0-0".to_owned())
    }
}

/// The result of [`PlacementStore::exchange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// The position for the next call.
    pub position: Position,
    /// Batches in the order in which the store got them. They may include the caller's own.
    pub batches: Vec<Vec<u8>>,
}

impl Exchanged {
    /// Returns whether there may be more batches to read.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.batches.len() == BATCHES_READ_MAX
    }
}

#[async_trait]
pub trait PlacementStore: Send + Sync + 'static {
    /// Adds batches to those of a pool, and returns the batches after a position: the oldest [`BATCHES_READ_MAX`].
    async fn exchange(
        &self,
        pool: &Arc<Pool>,
        position: &Position,
        batches: &[Vec<u8>],
    ) -> Result<Exchanged, StoreError>;
}
