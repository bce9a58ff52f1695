//! Settlements whose tickets this sidecar cannot verify yet, because the store was not available since it started.

use std::collections::VecDeque;

use evenkeel_store::Release;
use parking_lot::Mutex;

use super::settle::EndedRequest;

/// Maximum number of settlements that wait. Beyond it, the oldest is dropped and counted as lost. One takes about 500
/// bytes.
const WAITING_MAX: usize = 65_536;

/// A settlement that waits, and what releasing its lease returned.
type Waiting = (EndedRequest, Option<Release>);

#[derive(Default)]
pub struct Unverified {
    waiting: Mutex<VecDeque<Waiting>>,
    /// Held while settlements are settled.
    settling: tokio::sync::Mutex<()>,
}

impl Unverified {
    /// Adds a settlement. Returns whether another was dropped for it.
    pub(super) fn push(&self, ended: EndedRequest, release: Option<Release>) -> bool {
        let mut waiting = self.waiting.lock();
        let is_full = waiting.len() >= WAITING_MAX;
        if is_full {
            waiting.pop_front();
        }
        waiting.push_back((ended, release));
        is_full
    }

    /// Removes the oldest settlement.
    pub(super) fn pop(&self) -> Option<Waiting> {
        self.waiting.lock().pop_front()
    }

    /// Waits until the settlements that another task has taken are settled. Until the result is dropped, no other task
    /// takes settlements.
    pub(super) async fn exclusively(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.settling.lock().await
    }

    /// Returns the number of settlements that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
