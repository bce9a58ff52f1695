//! Lists every lease of this holder to the sidecar at a fixed interval, and applies the sidecar's settings.

use evenkeel_proto::v1::{KeepAliveRequest, KeepAliveResponse, Pool, Settings};
use prost::Message as _;

use super::{Worker, message::Message};
use crate::{
    config::is_header_name, host::Host, lease_table::PoolKey, metrics::Counter, request_body::PrefixSettings,
};

/// Bounds of the interval that the sidecar may set.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=60_000;

/// Maximum number of lists without an answer. One must not delay the next: the sidecar considers a worker without lists
/// dead.
const PENDING_MAX: u32 = 2;

/// Maximum number of headers that the sidecar may request.
pub(super) const WANTED_MAX: usize = 64;

/// When the next list is due.
#[derive(Debug)]
pub(super) struct ListSchedule {
    interval_ms: u64,
    sent_ms: u64,
    due_ms: u64,
    /// Number of lists that the sidecar has not answered.
    pending: u32,
}

impl ListSchedule {
    pub(super) fn new(interval_ms: u64) -> ListSchedule {
        ListSchedule { interval_ms, sent_ms: 0, due_ms: 0, pending: 0 }
    }

    pub(super) fn interval_ms(&self) -> u64 {
        self.interval_ms
    }

    #[cfg(test)]
    pub(super) fn due_now(&mut self) {
        self.due_ms = 0;
        self.pending = 0;
    }

    pub(super) fn on_cut(&mut self) {
        self.pending = 0;
    }

    /// Returns the time of the next list.
    pub(super) fn due_ms(&self) -> u64 {
        if self.pending >= PENDING_MAX { self.sent_ms + 2 * self.interval_ms } else { self.due_ms }
    }

    fn set_interval(&mut self, interval_ms: u32) {
        if interval_ms > 0 {
            self.interval_ms = u64::from(interval_ms).clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end());
            self.due_ms = self.sent_ms + self.interval_ms;
        }
    }
}

impl Worker {
    /// Appends a list of all leases to a message.
    pub(super) fn append_list(&mut self, message: &mut Message, now_ms: u64) {
        self.list.sent_ms = now_ms;
        self.list.due_ms = now_ms + self.list.interval_ms;
        self.list.pending += 1;
        self.outbox.on_list_sent();
        let list = KeepAliveRequest {
            holder: String::new(),
            issued_through: self.lease_table.issued_through(),
            pools: self.lease_table.held_pools(),
            unanswered: self.passed.list(&self.connection, now_ms),
        };
        message.leases(&list.encode_to_vec());
    }

    pub(super) fn on_list_applied(&mut self, host: &dyn Host, response: KeepAliveResponse) {
        host.count(Counter::ListsApplied, 1);
        host.count(Counter::LeasesRestored, response.restored.into());
        host.count(Counter::LeasesDropped, response.dropped.into());
        host.count(Counter::LeasesMoved, response.moved.into());
        self.list.pending = self.list.pending.saturating_sub(1);
        if self.list.pending == 0 {
            self.outbox.on_last_list_applied();
            self.passed.on_last_list_applied();
        }
        let key = |pool: Pool| PoolKey { route: pool.route, cluster: pool.cluster };
        self.lease_table.forget_refused(&response.refused_pools.into_iter().map(key).collect());
        self.list.set_interval(response.interval_ms);
    }

    pub(super) fn apply_settings(&mut self, host: &dyn Host, settings: Settings) {
        self.list.set_interval(settings.interval_ms);
        self.update_wanted_headers(host, settings.wanted_headers);
        self.wanted.source_ip = settings.wants_source_ip;
        self.wanted.prefixes = PrefixSettings::new(settings.prefix_block_bytes, settings.prefix_hashes_max);
    }

    /// Stores the names of the headers that the sidecar requests. Skips names that are already configured or invalid.
    fn update_wanted_headers(&mut self, host: &dyn Host, names: Vec<String>) {
        let mut wanted: Vec<String> = Vec::new();
        let mut rejected = 0;
        for name in names.into_iter().map(|name| name.to_ascii_lowercase()) {
            if self.config.pass_headers.contains(&name) || wanted.contains(&name) {
                continue;
            }
            if is_header_name(&name) && wanted.len() < WANTED_MAX {
                wanted.push(name);
            } else {
                rejected += 1;
            }
        }
        host.count(Counter::WantedHeadersRejected, rejected);
        self.wanted.headers = wanted;
    }
}
