//! Operations on a pool's table. They wait in the pool's lane until the lane sends them to Redis in a batch.

use std::sync::Arc;

use evenkeel_domain::{HolderId, LeaseId, Roster, StoreError, choice::Prompt};
use evenkeel_telemetry::traces::StoreSpan;
use tokio::sync::oneshot;

use super::{Shared, keys::PoolKeys, orders::Orders};
use crate::Pool;

/// An admission, first token or settlement that waits for its batch.
pub(super) struct Op {
    pub(super) holder: HolderId,
    pub(super) lease: LeaseId,
    pub(super) kind: Kind,
    /// The trace of the request, if it is sampled.
    pub(super) span: Option<Box<StoreSpan>>,
}

/// The endpoint of an admission, and the tokens that it must read. `None` if every endpoint is at its cap.
pub(super) type Picked = Option<(Arc<str>, u64)>;

/// The kind of an operation, with the channel of its answer.
pub(super) enum Kind {
    Admit {
        roster: Arc<Roster>,
        tie: u32,
        prompt: Option<Prompt>,
        answer: oneshot::Sender<Result<Picked, StoreError>>,
    },
    FirstToken {
        answer: oneshot::Sender<Result<(), StoreError>>,
    },
    Settle {
        answer: oneshot::Sender<Result<bool, StoreError>>,
    },
}

/// What the lane of one pool needs to send its operations.
pub(super) struct PoolWork {
    pub(super) pool: Arc<Pool>,
    pub(super) keys: PoolKeys,
    pub(super) shared: Arc<Shared>,
    pub(super) orders: Orders,
}
