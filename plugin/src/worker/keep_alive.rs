//! The sign of life: on the tick, with everything this holder has.

use super::Worker;
use crate::{
    host::{Host, Method},
    metrics::Counter,
};
use evenkeel_proto::v1::{KeepAliveRequest, KeepAliveResponse};
use prost::Message as _;

/// Bounds of the interval the sidecar may ask for.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=60_000;

/// Longest time one KeepAlive may take.
const TIMEOUT_MS_MAX: u64 = 5000;

/// State of the sign of life.
#[derive(Debug)]
pub(super) struct KeepAlive {
    interval_ms: u64,
    /// When the last one was sent.
    sent_ms: Option<u64>,
    /// Token of the one under way.
    token: Option<u32>,
}

impl KeepAlive {
    pub(super) fn new(interval_ms: u64) -> KeepAlive {
        KeepAlive { interval_ms, sent_ms: None, token: None }
    }

    /// Whether a token is that of the one under way.
    pub(super) fn is(&self, token: u32) -> bool {
        self.token == Some(token)
    }

    fn timeout_ms(&self) -> u64 {
        self.interval_ms.min(TIMEOUT_MS_MAX)
    }

    /// Whether it is time. A tick is never late by much, but may be early by a little.
    fn due(&self, now_ms: u64, tick_ms: u64) -> bool {
        let Some(sent_ms) = self.sent_ms else { return true };
        let late = now_ms > sent_ms + 2 * self.timeout_ms();
        (self.token.is_none() || late) && now_ms + tick_ms / 2 >= sent_ms + self.interval_ms
    }
}

impl Worker {
    /// Sends it when it is time; one at a time.
    pub(super) fn tick_keep_alive(&mut self, host: &dyn Host, now_ms: u64) {
        if !self.keep_alive.due(now_ms, self.tick_ms()) {
            return;
        }
        if self.keep_alive.sent_ms.is_none() {
            host.set_tick_ms(self.tick_ms());
        }
        self.keep_alive.sent_ms = Some(now_ms);
        let request = KeepAliveRequest {
            holder: self.holder.clone(),
            issued_through: self.book.issued_through(),
            pools: self.book.held(),
        };
        let cluster = &self.config.sidecar_cluster;
        self.keep_alive.token =
            host.call(cluster, Method::KeepAlive, &request.encode_to_vec(), self.keep_alive.timeout_ms());
        if self.keep_alive.token.is_none() {
            host.count(Counter::KeepAlivesFailed, 1);
            self.reach.down(host, &self.config, || "KeepAlive could not be sent".into());
        }
    }

    /// Its answer.
    pub(super) fn on_kept_alive(&mut self, host: &dyn Host, status: u32, body: &[u8]) {
        self.keep_alive.token = None;
        let response = match KeepAliveResponse::decode(body) {
            Ok(response) if status == 0 => response,
            _ => {
                host.count(Counter::KeepAlivesFailed, 1);
                return self.reach.down(host, &self.config, || format!("KeepAlive: gRPC status {status}"));
            }
        };
        host.count(Counter::KeepAlivesOk, 1);
        host.count(Counter::LeasesRestored, response.restored.into());
        host.count(Counter::LeasesDropped, response.dropped.into());
        host.count(Counter::LeasesMoved, response.moved.into());
        self.reach.up(host, &self.config);
        let interval_ms = u64::from(response.interval_ms).clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end());
        if response.interval_ms != 0 && interval_ms != self.keep_alive.interval_ms {
            self.keep_alive.interval_ms = interval_ms;
            host.set_tick_ms(self.tick_ms());
        }
    }

    /// The tick's period: the interval, or less where bodies are waited for.
    fn tick_ms(&self) -> u64 {
        let interval_ms = self.keep_alive.interval_ms;
        if self.config.read_body { interval_ms.min(self.config.body_wait_ms) } else { interval_ms }
    }
}
