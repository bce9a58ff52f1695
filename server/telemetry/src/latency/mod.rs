//! Latency of answers: time to first token, time per output token and duration, by pool and model, and by pool and endpoint.
//! Histograms by model and endpoint together would be as many as the product of the two; in most pools, each endpoint serves
//! one model.
//!
//! Clients name models, and gateways may name endpoints. So the number of names with histograms of their own is bounded.
//! What has no room counts as `(other)` of its pool, so that the sum over a pool's models, or endpoints, is always all of
//! its answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use evenkeel_domain::limit::request_body::{UNKNOWN_MODEL, is_unknown};

mod histogram;
mod room;
mod series;
#[cfg(test)]
mod tests;
mod timings;

use room::Kind;
pub use room::LatencyRoom;
pub use series::LatencyMetrics;
use timings::ByName;

/// Maximum number of models of one pool that the configuration does not name, so that one pool does not take all room.
const MODELS_PER_POOL_MAX: usize = 32;
/// The label of answers whose endpoint no sidecar chose.
const UNKNOWN_ENDPOINT: &str = "(unknown)";

/// A complete answer to a successful request.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The model that the request named; empty if nobody knows it.
    pub model: &'a str,
    /// The endpoint that a sidecar chose; empty if the gateway chose one.
    pub endpoint: &'a str,
    /// Time from the request's admission to the end of the answer.
    pub total_ms: u64,
    /// Time from the request's admission to the first byte of the answer. `None` if the answer was not streamed, so that
    /// its first byte comes after its last token.
    pub first_token_ms: Option<u64>,
    /// Number of tokens that the server generated one after the other. `None` if unknown.
    pub output_tokens: Option<u64>,
}

/// The latency of one pool's answers.
#[derive(Debug)]
pub struct PoolLatencies {
    models: ByName,
    endpoints: ByName,
    room: Arc<LatencyRoom>,
    /// Whether the pool has series. A pool without series takes no room from the others.
    has_series: AtomicBool,
}

impl PoolLatencies {
    /// Creates the histograms of one pool, which share the room with those of other pools.
    #[must_use]
    pub fn new(room: &Arc<LatencyRoom>) -> Self {
        Self {
            models: ByName::default(),
            endpoints: ByName::default(),
            room: Arc::clone(room),
            has_series: AtomicBool::new(true),
        }
    }

    /// Observes an answer. `is_named` returns whether the configuration names its model.
    pub fn observe(&self, answer: &Answer<'_>, is_named: impl FnOnce() -> bool) {
        if !self.has_series.load(Relaxed) {
            return;
        }
        let model = if is_unknown(answer.model) { UNKNOWN_MODEL } else { answer.model };
        self.models.observe(model, answer, |models| {
            let named = || (!self.room.is_full(Kind::NamedModel) && is_named()).then_some(Kind::NamedModel);
            let first = || (models < MODELS_PER_POOL_MAX).then_some(Kind::Model);
            named().or_else(first).and_then(|kind| self.room.take(kind))
        });
        let endpoint = if answer.endpoint.is_empty() { UNKNOWN_ENDPOINT } else { answer.endpoint };
        self.endpoints.observe(endpoint, answer, |_| self.room.take(Kind::Endpoint));
    }

    /// Removes what has been idle for ten minutes: endpoints that are not listed, and everything else if there is no room
    /// for others.
    fn tidy(&self, now: Instant, is_listed: impl Fn(&str) -> bool) {
        self.has_series.store(true, Relaxed);
        self.models.remove(Some(now), |_, place| self.room.is_full(place.kind));
        self.endpoints
            .remove(Some(now), |endpoint, place| self.room.is_full(place.kind) || !is_listed(endpoint));
    }

    /// Removes everything, and observes no more.
    fn hide(&self) {
        if self.has_series.swap(false, Relaxed) {
            self.models.remove(None, |_, _| true);
            self.endpoints.remove(None, |_, _| true);
        }
    }
}
