//! Settlements whose tickets this sidecar cannot verify yet, because the store was not available since it started.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::settle::EndedRequest;

/// Maximum number of settlements that wait. Beyond it, the oldest is dropped and counted as lost. One takes about 500
/// bytes.
const WAITING_MAX: usize = 65_536;

#[derive(Default)]
pub struct Unverified {
    waiting: Mutex<VecDeque<(EndedRequest, bool)>>,
}

impl Unverified {
    /// Adds a settlement, and whether it released its lease. Returns whether another was dropped for it.
    pub(super) fn push(&self, ended: EndedRequest, was_released: bool) -> bool {
        let mut waiting = self.waiting.lock();
        let is_full = waiting.len() >= WAITING_MAX;
        if is_full {
            waiting.pop_front();
        }
        waiting.push_back((ended, was_released));
        is_full
    }

    pub(super) fn take(&self) -> VecDeque<(EndedRequest, bool)> {
        std::mem::take(&mut self.waiting.lock())
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
