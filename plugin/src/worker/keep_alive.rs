//! The sign of life: on the tick, with everything this holder has.

use super::Worker;
use crate::{
    book::PoolKey,
    config::header_name,
    host::{Host, Method},
    metrics::Counter,
};
use evenkeel_proto::v1::{KeepAliveRequest, KeepAliveResponse, Pool};
use prost::Message as _;

/// Bounds of the interval the sidecar may ask for.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=60_000;

/// Longest time one KeepAlive may take.
const TIMEOUT_MS_MAX: u64 = 5000;

/// Most leases remembered that were settled while one KeepAlive was under way. Any beyond that may be put back,
/// and the next KeepAlive gives them back.
pub(super) const SETTLED_MAX: usize = 4096;

/// Most headers the sidecar may ask for.
pub(super) const WANTED_MAX: usize = 64;

/// State of the sign of life.
#[derive(Debug)]
pub(super) struct KeepAlive {
    interval_ms: u64,
    /// When the last one was sent.
    sent_ms: u64,
    /// When the next one is due.
    due_ms: u64,
    /// Token of the one under way.
    token: Option<u32>,
    /// Largest lease number it can list.
    listed_through: u64,
    /// Settles sent since, for leases it may list: should they overtake it, it puts those leases back.
    settled: Vec<Vec<u8>>,
    /// The tick is faster than usual, for the next one is due early.
    hurried: bool,
}

impl KeepAlive {
    /// The first one is due at once.
    pub(super) fn new(interval_ms: u64) -> KeepAlive {
        KeepAlive {
            interval_ms,
            sent_ms: 0,
            due_ms: 0,
            token: None,
            listed_through: 0,
            settled: Vec::new(),
            hurried: true,
        }
    }

    /// Whether a token is that of the one under way.
    pub(super) fn is(&self, token: u32) -> bool {
        self.token == Some(token)
    }

    /// Remembers the Settle of a lease that the one under way may list.
    pub(super) fn note_settled(&mut self, lease: u64, settle: Vec<u8>) {
        if self.token.is_some() && lease <= self.listed_through && self.settled.len() < SETTLED_MAX {
            self.settled.push(settle);
        }
    }

    /// What was remembered, and forgets it.
    pub(super) fn take_settled(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.settled)
    }

    /// Half the interval: one that is lost can be repeated before the holder is taken for dead.
    fn timeout_ms(&self) -> u64 {
        (self.interval_ms / 2).min(TIMEOUT_MS_MAX)
    }

    /// Time after which one that failed is repeated.
    fn retry_ms(&self) -> u64 {
        self.interval_ms / 4
    }

    /// Whether it is time. A tick may be early by a little.
    fn due(&self, now_ms: u64) -> bool {
        let lost = now_ms > self.sent_ms + 2 * self.timeout_ms();
        (self.token.is_none() || lost) && now_ms + self.retry_ms() / 2 >= self.due_ms
    }
}

impl Worker {
    /// Sends it when it is time; one at a time.
    pub(super) fn tick_keep_alive(&mut self, host: &dyn Host, now_ms: u64) {
        if !self.keep_alive.due(now_ms) {
            return;
        }
        if self.keep_alive.hurried {
            self.keep_alive.hurried = false;
            host.set_tick_ms(self.tick_ms());
        }
        self.keep_alive.sent_ms = now_ms;
        self.keep_alive.due_ms = now_ms + self.keep_alive.interval_ms;
        // What was settled while another was under way is not listed in this one, which mends it.
        self.keep_alive.settled.clear();
        self.keep_alive.listed_through = self.book.issued_through();
        let request = KeepAliveRequest {
            holder: self.holder.clone(),
            issued_through: self.keep_alive.listed_through,
            pools: self.book.held(),
        };
        let cluster = &self.config.sidecar_cluster;
        self.keep_alive.token =
            host.call(cluster, Method::KeepAlive, &request.encode_to_vec(), self.keep_alive.timeout_ms());
        if self.keep_alive.token.is_none() {
            self.keep_alive_failed(host, || "KeepAlive could not be sent".into());
        }
    }

    /// Its answer.
    pub(super) fn on_kept_alive(&mut self, host: &dyn Host, status: u32, body: &[u8]) {
        self.keep_alive.token = None;
        self.settle_again(host);
        let response = match KeepAliveResponse::decode(body) {
            Ok(response) if status == 0 => response,
            _ => return self.keep_alive_failed(host, || format!("KeepAlive: gRPC status {status}")),
        };
        host.count(Counter::KeepAlivesOk, 1);
        host.count(Counter::LeasesRestored, response.restored.into());
        host.count(Counter::LeasesDropped, response.dropped.into());
        host.count(Counter::LeasesMoved, response.moved.into());
        self.reach.up(host, &self.config);
        let key = |pool: Pool| PoolKey { route: pool.route, cluster: pool.cluster };
        self.book.refuse(&response.refused_pools.into_iter().map(key).collect());
        self.want(host, response.wanted_headers);
        let interval_ms = u64::from(response.interval_ms).clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end());
        if response.interval_ms != 0 && interval_ms != self.keep_alive.interval_ms {
            self.keep_alive.interval_ms = interval_ms;
            self.keep_alive.due_ms = self.keep_alive.sent_ms + interval_ms;
            host.set_tick_ms(self.tick_ms());
        }
    }

    /// Headers the sidecar wants to see from now on.
    fn want(&mut self, host: &dyn Host, names: Vec<String>) {
        let mut wanted: Vec<String> = Vec::new();
        let mut refused = 0;
        for name in names.into_iter().map(|name| name.to_ascii_lowercase()) {
            if self.config.pass_headers.contains(&name) || wanted.contains(&name) {
                continue;
            }
            if header_name(&name) && wanted.len() < WANTED_MAX {
                wanted.push(name);
            } else {
                refused += 1;
            }
        }
        host.count(Counter::WantedRefused, refused);
        self.wanted_headers = wanted;
    }

    /// It failed: the next one comes early.
    fn keep_alive_failed(&mut self, host: &dyn Host, why: impl FnOnce() -> String) {
        host.count(Counter::KeepAlivesFailed, 1);
        self.reach.down(host, &self.config, why);
        self.keep_alive.due_ms = host.now_ms() + self.keep_alive.retry_ms();
        self.keep_alive.hurried = true;
        host.set_tick_ms(self.tick_ms().min(self.keep_alive.retry_ms()));
    }

    /// The tick's period: the interval, or a whole part of it where bodies are waited for. KeepAlives leave only
    /// on ticks: a period that did not divide the interval would stretch it, beyond what a holder may be silent.
    fn tick_ms(&self) -> u64 {
        let interval_ms = self.keep_alive.interval_ms;
        if self.gathers() {
            interval_ms / interval_ms.div_ceil(self.config.body_wait_ms)
        } else {
            interval_ms
        }
    }
}
