//! Sends KeepAlive on the tick, with every lease of this holder.

use evenkeel_proto::v1::{KeepAliveRequest, KeepAliveResponse, Pool};
use prost::Message as _;

use super::Worker;
use crate::{
    config::is_header_name,
    host::{Host, Method},
    lease_table::PoolKey,
    metrics::Counter,
};

/// Bounds of the interval that the sidecar may set.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=60_000;

/// Longest deadline of a KeepAlive call.
const TIMEOUT_MS_MAX: u64 = 5000;

/// Maximum number of Settles recorded while a KeepAlive is pending. The pending KeepAlive may restore leases whose
/// Settles exceed this number; the next KeepAlive drops those leases.
pub(super) const SETTLED_MAX: usize = 4096;

/// Maximum number of headers that the sidecar may request.
pub(super) const WANTED_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct KeepAlive {
    interval_ms: u64,
    sent_ms: u64,
    due_ms: u64,
    /// Token of the pending KeepAlive.
    token: Option<u32>,
    /// Largest lease number that the pending KeepAlive can list.
    listed_through: u64,
    /// Settles sent since the pending KeepAlive, for leases that it may list. If the sidecar applies such a Settle
    /// before the KeepAlive, the KeepAlive restores the lease.
    settled: Vec<Vec<u8>>,
    /// True if the tick is faster than usual because the next KeepAlive is due early.
    retrying_early: bool,
}

impl KeepAlive {
    /// Creates the state. The first KeepAlive is due at once.
    pub(super) fn new(interval_ms: u64) -> KeepAlive {
        KeepAlive {
            interval_ms,
            sent_ms: 0,
            due_ms: 0,
            token: None,
            listed_through: 0,
            settled: Vec::new(),
            retrying_early: true,
        }
    }

    /// Returns whether `token` belongs to the pending KeepAlive.
    pub(super) fn is_pending(&self, token: u32) -> bool {
        self.token == Some(token)
    }

    /// Records the Settle of a lease that the pending KeepAlive may list.
    pub(super) fn record_settle(&mut self, lease: u64, settle: Vec<u8>) {
        if self.token.is_some() && lease <= self.listed_through && self.settled.len() < SETTLED_MAX {
            self.settled.push(settle);
        }
    }

    /// Removes and returns the recorded Settles.
    pub(super) fn take_settled(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.settled)
    }

    /// Returns the deadline of a KeepAlive. It is half the interval, so that the plugin can repeat a lost KeepAlive
    /// before the sidecar considers the holder dead.
    fn timeout_ms(&self) -> u64 {
        (self.interval_ms / 2).min(TIMEOUT_MS_MAX)
    }

    /// Returns the delay after which a failed KeepAlive is repeated.
    fn retry_ms(&self) -> u64 {
        self.interval_ms / 4
    }

    /// Returns whether a KeepAlive is due. Allows for slightly early ticks.
    fn due(&self, now_ms: u64) -> bool {
        let lost = now_ms > self.sent_ms + 2 * self.timeout_ms();
        (self.token.is_none() || lost) && now_ms + self.retry_ms() / 2 >= self.due_ms
    }
}

impl Worker {
    /// Sends a KeepAlive if one is due and none is pending.
    pub(super) fn send_keep_alive_if_due(&mut self, host: &dyn Host, now_ms: u64) {
        if !self.keep_alive.due(now_ms) {
            return;
        }
        if self.keep_alive.retrying_early {
            self.keep_alive.retrying_early = false;
            host.set_tick_ms(self.tick_ms());
        }
        self.keep_alive.sent_ms = now_ms;
        self.keep_alive.due_ms = now_ms + self.keep_alive.interval_ms;
        // This list omits leases settled during an earlier KeepAlive, so the sidecar drops such leases if the
        // earlier KeepAlive restored them.
        self.keep_alive.settled.clear();
        self.keep_alive.listed_through = self.lease_table.issued_through();
        let request = KeepAliveRequest {
            holder: self.holder.clone(),
            issued_through: self.keep_alive.listed_through,
            pools: self.lease_table.held_pools(),
        };
        let cluster = &self.config.sidecar_cluster;
        self.keep_alive.token =
            host.call(cluster, Method::KeepAlive, &request.encode_to_vec(), self.keep_alive.timeout_ms());
        if self.keep_alive.token.is_none() {
            self.keep_alive_failed(host, || "the gateway could not send KeepAlive".into());
        }
    }

    pub(super) fn on_keep_alive_answer(&mut self, host: &dyn Host, status: u32, body: &[u8]) {
        self.keep_alive.token = None;
        self.repeat_settles(host);
        let response = match KeepAliveResponse::decode(body) {
            Ok(response) if status == 0 => response,
            _ => return self.keep_alive_failed(host, || format!("KeepAlive: gRPC status {status}")),
        };
        host.count(Counter::KeepAlivesOk, 1);
        host.count(Counter::LeasesRestored, response.restored.into());
        host.count(Counter::LeasesDropped, response.dropped.into());
        host.count(Counter::LeasesMoved, response.moved.into());
        self.connectivity.on_answer(host, &self.config);
        let key = |pool: Pool| PoolKey { route: pool.route, cluster: pool.cluster };
        self.lease_table.forget_refused(&response.refused_pools.into_iter().map(key).collect());
        self.update_wanted_headers(host, response.wanted_headers);
        let interval_ms = u64::from(response.interval_ms).clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end());
        if response.interval_ms != 0 && interval_ms != self.keep_alive.interval_ms {
            self.keep_alive.interval_ms = interval_ms;
            self.keep_alive.due_ms = self.keep_alive.sent_ms + interval_ms;
            host.set_tick_ms(self.tick_ms());
        }
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
        self.wanted_headers = wanted;
    }

    /// Schedules the next KeepAlive early.
    fn keep_alive_failed(&mut self, host: &dyn Host, reason: impl FnOnce() -> String) {
        host.count(Counter::KeepAlivesFailed, 1);
        self.connectivity.on_failure(host, &self.config, reason);
        self.keep_alive.due_ms = host.now_ms() + self.keep_alive.retry_ms();
        self.keep_alive.retrying_early = true;
        host.set_tick_ms(self.tick_ms().min(self.keep_alive.retry_ms()));
    }

    /// Returns the tick period: the interval or, if bodies are buffered, an integer fraction of the interval.
    /// KeepAlives are sent only on ticks. With a period that does not divide the interval, KeepAlives could be so late
    /// that the sidecar considers the holder dead.
    fn tick_ms(&self) -> u64 {
        let interval_ms = self.keep_alive.interval_ms;
        if self.buffers_bodies() {
            interval_ms / interval_ms.div_ceil(self.config.body_wait_ms)
        } else {
            interval_ms
        }
    }
}
