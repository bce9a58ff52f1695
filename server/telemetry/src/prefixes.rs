//! Metrics of the indexes of prefixes.

use prometheus::{GaugeVec, IntCounter, IntCounterVec};

use super::catalogue::{Catalogue, counter, counters, gauges};

pub struct PrefixMetrics {
    /// Each scrape sets the series of pools again.
    entries: GaugeVec,
    tokens: IntCounterVec,
    losses: IntCounterVec,
    pub exchanges_failed: IntCounter,
}

/// The index of one pool at this sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixFigures {
    pub entries: usize,
    pub prompt_tokens: u64,
    pub expected_tokens: u64,
    pub cached_tokens: u64,
    pub losses: u64,
}

impl PrefixMetrics {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        Ok(Self {
            entries: gauges(
                r,
                "evenkeel_prefix_entries",
                "Prefixes and sessions that this sidecar remembers, in pools with prefix_cache or affinity.",
                &["route", "cluster"],
            )?,
            tokens: counters(
                r,
                "evenkeel_prefix_tokens_total",
                "Prompt tokens of responses that state their cached tokens, by kind: all, expected in the cache, and cached.",
                &["route", "cluster", "kind"],
            )?,
            losses: counters(
                r,
                "evenkeel_prefix_cache_losses_total",
                "Endpoints that seem to have restarted, because their caches lacked what was expected.",
                &["route", "cluster"],
            )?,
            exchanges_failed: counter(
                r,
                "evenkeel_prefix_exchanges_failed_total",
                "Failed exchanges of placements with the other sidecars.",
            )?,
        })
    }

    /// Removes all pools, before a scrape sets the pools that still exist.
    pub fn clear(&self) {
        self.entries.reset();
        self.tokens.reset();
        self.losses.reset();
    }

    /// Sets the figures of one pool.
    pub fn set(&self, route: &str, cluster: &str, figures: PrefixFigures) {
        let PrefixFigures { entries, prompt_tokens, expected_tokens, cached_tokens, losses } = figures;
        self.losses.with_label_values(&[route, cluster]).inc_by(losses);
        self.entries.with_label_values(&[route, cluster]).set(entries as f64);
        for (kind, tokens) in
            [("prompt", prompt_tokens), ("expected", expected_tokens), ("cached", cached_tokens)]
        {
            self.tokens.with_label_values(&[route, cluster, kind]).inc_by(tokens);
        }
    }
}
