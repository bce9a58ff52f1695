//! Latency of answers, for the metrics of pools.
//!
//! A settlement is the only source. It has both times, the tokens and the outcome, and the store knows which settlement of a
//! request is the first, so that each request counts once over all sidecars. A report of a first token
//! (`FromWorker.first_tokens`) would come earlier, but only in pools that choose by work. It may also be lost or repeated,
//! and nobody knows then how the request will end.

use std::sync::Arc;

use evenkeel_domain::{limit::Generation, usage::Outcome};
use evenkeel_telemetry::{Answer, PoolLatencies};

use super::Admission;
use crate::limiter::Settling;

impl Admission {
    /// Returns the latencies of the pool that a gateway's names resolve to; `None` if the pool is invalid.
    pub(super) fn latencies(&self, route: &str, cluster: &str) -> Option<Arc<PoolLatencies>> {
        let entry = self.balancer.directory.resolve(route, cluster).ok()?;
        Some(Arc::clone(&entry.latencies))
    }
}

/// Observes the latency of a request that has ended, if it has an answer that the server generated meanwhile.
/// `first_token_ms` is 0 if the answer is empty, and `None` if it was not streamed.
pub(super) fn observe(
    latencies: &PoolLatencies,
    settling: &Settling,
    first_token_ms: Option<u64>,
    total_ms: u64,
) {
    let Settling { ticket, charge, report, .. } = settling;
    // An error is fast, an interrupted answer is short, and a WebSocket stays open while nobody asks anything.
    if report.outcome != Outcome::Success || report.upgraded || ticket.generation != Generation::Immediate {
        return;
    }
    // The servers generate several answers at the same time. An estimate is no measurement.
    let is_known = ticket.choices <= 1 && !charge.estimated;
    let answer = Answer {
        model: &ticket.model,
        endpoint: &ticket.endpoint,
        total_ms,
        first_token_ms: first_token_ms.filter(|&ms| ms > 0),
        output_tokens: is_known.then_some(charge.tokens.output),
    };
    latencies.observe(&answer, || settling.names_model());
}
