//! Operations on a pool's table. They wait in the pool's lane until the lane sends them to Redis in a batch.

use std::sync::Arc;

use evenkeel_domain::{HolderId, LeaseId, Roster, StoreError};
use evenkeel_telemetry::traces::StoreSpan;
use tokio::sync::oneshot;

use super::{Shared, keys::PoolKeys};
use crate::Pool;

/// An admission or settlement that waits for its batch.
pub(super) struct Op {
    pub(super) holder: HolderId,
    pub(super) lease: LeaseId,
    pub(super) kind: Kind,
    /// The trace of the request, if it is sampled.
    pub(super) span: Option<Box<StoreSpan>>,
}

/// The kind of an operation, with the channel of its answer.
pub(super) enum Kind {
    Admit { roster: Arc<Roster>, tie: u32, answer: oneshot::Sender<Result<Option<Arc<str>>, StoreError>> },
    Settle { answer: oneshot::Sender<Result<bool, StoreError>> },
}

/// What the lane of one pool needs to send its operations.
pub(super) struct PoolWork {
    pub(super) pool: Arc<Pool>,
    pub(super) keys: PoolKeys,
    pub(super) shared: Arc<Shared>,
}
