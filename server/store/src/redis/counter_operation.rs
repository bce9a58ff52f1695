//! Operations on counters. They wait in a lane until the lane sends them to Redis in a batch.

use std::sync::Arc;

use evenkeel_domain::{StoreError, limit::Meter};
use evenkeel_telemetry::traces::StoreSpan;
use tokio::sync::oneshot;

use super::{Shared, keys::Keys};
use crate::counters::{Entry, RecordRef, ReservationId, SettleResult, Settler, Verdict};

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// The span of an operation, if its trace is sampled.
type Traced = Option<Box<StoreSpan>>;

/// An operation that waits for its batch.
pub(super) enum Op {
    Reserve {
        id: Option<ReservationId>,
        meters: Vec<Meter>,
        how: How,
        answer: Answer<Verdict>,
        span: Traced,
    },
    Settle {
        id: ReservationId,
        record: Option<RecordRef>,
        entries: Vec<Entry>,
        by: Settler,
        answer: Answer<SettleResult>,
        span: Traced,
    },
}

/// What the script does with a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Reserves.
    Make = 0,
    /// Takes nothing, and returns what reserving would return.
    Look = 1,
    /// Gives back what the reservation took, according to its record.
    GiveBack = 2,
}

impl Op {
    pub(super) fn counters(&self) -> usize {
        match self {
            Self::Reserve { meters, .. } => meters.len(),
            Self::Settle { entries, .. } => entries.len(),
        }
    }

    /// Returns the reservation to make or settle and, for a settlement, where its record is.
    pub(super) fn recorded(&self) -> Option<(&ReservationId, Option<&RecordRef>)> {
        match self {
            Self::Reserve { id, .. } => id.as_ref().map(|id| (id, None)),
            Self::Settle { id, record, .. } => record.as_ref().map(|record| (id, Some(record))),
        }
    }

    /// Marks the span as sent, in a call with this number of operations.
    pub(super) fn sent(&mut self, operations: usize) {
        let counters = self.counters();
        let (Self::Reserve { span, .. } | Self::Settle { span, .. }) = self;
        if let Some(span) = span {
            span.sent(operations);
            span.set_number("evenkeel.store.counters", counters);
        }
    }

    pub(super) fn fail(self, error: &StoreError) {
        match self {
            Self::Reserve { answer, span, .. } => {
                StoreSpan::ended(span, Some(error));
                drop(answer.send(Err(error.clone())));
            }
            Self::Settle { answer, span, .. } => {
                StoreSpan::ended(span, Some(error));
                drop(answer.send(Err(error.clone())));
            }
        }
    }
}

/// Where a lane's counters are: their keys, and the connection to Redis.
pub(super) struct Place {
    /// The tag of the keys that hold records of reservations.
    pub(super) tag: Arc<str>,
    pub(super) keys: Keys,
    pub(super) shared: Arc<Shared>,
}

/// Returns the id of a reservation in the scripts.
pub(super) fn id_text(id: &ReservationId) -> String {
    format!("{}/{}", id.holder, id.lease)
}
