//! What the sidecar must still learn: requests that have ended or whose answer has begun, and admissions that nobody waits
//! for any more.

use std::collections::VecDeque;

use super::message::Message;
use crate::{host::Host, metrics::Counter};

/// Maximum number of settlements, of first tokens and of cancellations in one message.
const BATCH_MAX: usize = 256;

/// Maximum number of settlements and of cancellations that the plugin keeps, until the sidecar states its own.
const KEPT_MAX: usize = 4096;

/// Settlements are kept until the sidecar acknowledges them, and are sent again on the next stream otherwise. A
/// cancellation concerns an admission on its own stream. It is kept until the sidecar has applied a list that the
/// worker sent after it. If the stream ends before that, the plugin sends a settlement instead.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Number of the first settlement in `settlements`.
    first: u64,
    /// Encoded settlements without acknowledgement, the oldest first.
    settlements: VecDeque<Vec<u8>>,
    /// How many of `settlements` were sent on the current stream.
    sent: usize,
    /// Largest number sent on any stream.
    sent_through: u64,
    settlements_max: usize,
    /// Encoded first tokens that are not sent yet. They are not sent again: the next list makes up for those that are lost.
    first_tokens: Vec<Vec<u8>>,
    /// Cancelled leases, each with the settlement that the plugin sends instead if the stream ends first.
    cancelled: VecDeque<(u64, Option<Vec<u8>>)>,
    /// How many of `cancelled` were sent on the current stream.
    cancelled_sent: usize,
    /// How many of `cancelled` were sent before the last list.
    cancelled_before_list: usize,
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox {
            first: 1,
            settlements: VecDeque::new(),
            sent: 0,
            sent_through: 0,
            settlements_max: KEPT_MAX,
            first_tokens: Vec::new(),
            cancelled: VecDeque::new(),
            cancelled_sent: 0,
            cancelled_before_list: 0,
        }
    }
}

impl Outbox {
    /// Adds a settlement. If the outbox is full, drops the oldest settlement that is not on its way: the sidecar counts
    /// those on their way against its bound.
    pub(super) fn settle(&mut self, host: &dyn Host, settlement: Vec<u8>) {
        self.settlements.push_back(settlement);
        self.drop_beyond(host);
    }

    pub(super) fn first_token(&mut self, first_token: Vec<u8>) {
        if self.first_tokens.len() < KEPT_MAX {
            self.first_tokens.push(first_token);
        }
    }

    pub(super) fn cancel(&mut self, lease: u64, settlement: Option<Vec<u8>>) {
        self.cancelled.push_back((lease, settlement));
        if self.cancelled.len() > KEPT_MAX {
            self.cancelled.pop_front();
            self.cancelled_sent = self.cancelled_sent.saturating_sub(1);
            self.cancelled_before_list = self.cancelled_before_list.saturating_sub(1);
        }
    }

    /// Sets the maximum number of settlements without acknowledgement; 0 leaves it unchanged.
    pub(super) fn set_max(&mut self, host: &dyn Host, settlements_max: usize) {
        if settlements_max > 0 {
            self.settlements_max = settlements_max;
            self.drop_beyond(host);
        }
    }

    /// Returns whether something must be sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.settlements.len()
            || self.cancelled_sent < self.cancelled.len()
            || !self.first_tokens.is_empty()
    }

    /// Returns whether a whole batch must be sent.
    pub(super) fn has_batch(&self) -> bool {
        self.settlements.len() - self.sent >= BATCH_MAX
            || self.cancelled.len() - self.cancelled_sent >= BATCH_MAX
            || self.first_tokens.len() >= BATCH_MAX
    }

    /// Returns the number of settlements without acknowledgement.
    #[cfg(test)]
    pub(super) fn unacknowledged(&self) -> usize {
        self.settlements.len()
    }

    /// Appends one batch of what is not sent yet to a message.
    pub(super) fn append_to(&mut self, host: &dyn Host, message: &mut Message) {
        let batch = BATCH_MAX.min(self.settlements.len() - self.sent);
        if batch > 0 {
            let first = self.first + self.sent as u64;
            message.first_settlement(first);
            for settlement in self.settlements.range(self.sent..self.sent + batch) {
                message.settlement(settlement);
            }
            self.sent += batch;
            let through = first + batch as u64 - 1;
            let again = (self.sent_through + 1).saturating_sub(first).min(batch as u64);
            self.sent_through = self.sent_through.max(through);
            host.count(Counter::SettlesSent, batch as u64 - again);
            host.count(Counter::SettlesResent, again);
        }
        for first_token in self.first_tokens.drain(..BATCH_MAX.min(self.first_tokens.len())) {
            message.first_token(&first_token);
        }
        let batch = BATCH_MAX.min(self.cancelled.len() - self.cancelled_sent);
        for (lease, _) in self.cancelled.range(self.cancelled_sent..self.cancelled_sent + batch) {
            message.cancelled(*lease);
        }
        self.cancelled_sent += batch;
    }

    /// Removes the settlements up to a number that the sidecar has acknowledged.
    pub(super) fn acknowledge(&mut self, host: &dyn Host, through: u64) {
        let acknowledged = through.saturating_add(1).saturating_sub(self.first).min(self.sent as u64);
        self.settlements.drain(..acknowledged as usize);
        self.sent -= acknowledged as usize;
        self.first += acknowledged;
        host.count(Counter::SettlesAcknowledged, acknowledged);
    }

    pub(super) fn on_list_sent(&mut self) {
        self.cancelled_before_list = self.cancelled_sent;
    }

    /// Removes the cancellations that precede the last list: the sidecar applies a list after what precedes it.
    pub(super) fn on_last_list_applied(&mut self) {
        self.cancelled.drain(..self.cancelled_before_list);
        self.cancelled_sent -= self.cancelled_before_list;
        self.cancelled_before_list = 0;
    }

    /// Prepares everything to be sent again on another stream.
    pub(super) fn on_cut(&mut self, host: &dyn Host) {
        self.sent = 0;
        self.cancelled_sent = 0;
        self.cancelled_before_list = 0;
        self.first_tokens.clear();
        for (_, settlement) in std::mem::take(&mut self.cancelled) {
            if let Some(settlement) = settlement {
                self.settle(host, settlement);
            }
        }
    }

    /// Drops the settlements that were sent on the current stream, because the sidecar may have rejected one of them.
    pub(super) fn drop_sent(&mut self, host: &dyn Host) {
        self.settlements.drain(..self.sent);
        self.first += self.sent as u64;
        host.count(Counter::SettlesDropped, self.sent as u64);
        self.sent = 0;
    }

    fn drop_beyond(&mut self, host: &dyn Host) {
        while self.settlements.len() > self.settlements_max {
            host.count(Counter::SettlesDropped, 1);
            if self.sent == 0 {
                // The number was perhaps sent on an earlier stream, so another settlement must not get it.
                self.settlements.pop_front();
                self.first += 1;
            } else if self.settlements.remove(self.sent).is_none() {
                self.settlements.pop_front();
                self.first += 1;
                self.sent -= 1;
            }
        }
    }
}
