//! The sidecar's metrics. Labels come from enums or from configured names; docs/metrics.md lists all of them.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, TextEncoder};

use super::{
    bounds::BoundMetrics,
    catalogue::{
        Catalogue, LATENCY_BUCKETS, counter, counters, gauge, gauges, histogram, histograms, int_gauge,
    },
    discovery::DiscoveryMetrics,
    gateways::GatewayMetrics,
    latency::LatencyMetrics,
    ledger::LedgerMetrics,
    limits::{Charged, LimitMetrics, LimitSettles, TicketsRejected},
    pools::PoolMetrics,
    prefixes::PrefixMetrics,
    requests::{Admits, FirstTokens, KeepAlives, Repairs, Settles},
    rls::RlsMetrics,
    streams::StreamMetrics,
    tls::TlsMetrics,
    traces::TraceMetrics,
};

const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The sidecar's metrics and their registry.
pub struct Metrics {
    catalogue: Catalogue,
    /// Allows one scrape at a time. A second scrape would reset the gauges that the first is about to read.
    scrape: Mutex<()>,
    pub admits: Admits,
    pub admit_duration: Histogram,
    pub limits: LimitMetrics,
    /// Refusals that were not recorded, so that nobody can look them up.
    pub refusals_unrecorded: IntCounter,
    pub limit_refusals_cached: IntCounter,
    pub limit_settles: LimitSettles,
    pub tickets_rejected: TicketsRejected,
    pub settlements_lost: IntCounter,
    pub settlements_waiting: IntGauge,
    pub charged: Charged,
    pub settles: Settles,
    pub first_tokens: FirstTokens,
    pub keep_alives: KeepAlives,
    /// Duration of calls in seconds. Label: `operation`.
    pub store_duration: HistogramVec,
    /// Failed calls. Labels: `operation`, `kind`.
    pub store_errors: IntCounterVec,
    /// Number of operations in one commit.
    pub store_batch: Histogram,
    pub store_up: IntGauge,
    pub store_nodes_lost: IntGauge,
    pub store_losses: IntCounter,
    pub sidecars: IntGauge,
    pub leases_reaped: IntCounter,
    pub repairs: Repairs,
    pub ledger: LedgerMetrics,
    /// Calls that change something. Label: `result`.
    pub admin_calls: IntCounterVec,
    /// Calls that were rejected because the caller lacks the role. Labels: `role`, `reason`.
    pub calls_rejected: IntCounterVec,
    pub tls: TlsMetrics,
    pub change_log_failures: IntCounter,
    pub overrides: IntGauge,
    pub discovery: DiscoveryMetrics,
    pub pools: PoolMetrics,
    pub latency: LatencyMetrics,
    /// Time since the last sweep, in seconds.
    pub table_age: Gauge,
    pub config_valid: IntGauge,
    /// Unix time of the last successful load, in seconds.
    pub config_last_success: Gauge,
    pub rls: RlsMetrics,
    pub streams: StreamMetrics,
    pub gateways: GatewayMetrics,
    pub prefixes: PrefixMetrics,
    pub bounds: BoundMetrics,
    pub traces: TraceMetrics,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// Fails if two metrics have the same name. A test makes sure that this cannot happen.
    pub fn new() -> prometheus::Result<Arc<Self>> {
        let r = Catalogue::default();
        let metrics = Self {
            admits: Admits::new(&r)?,
            admit_duration: histogram(
                &r,
                "evenkeel_admit_duration_seconds",
                "Time to answer an Admit call, excluding transport.",
                LATENCY_BUCKETS,
            )?,
            limits: LimitMetrics::new(&r)?,
            refusals_unrecorded: counter(
                &r,
                "evenkeel_refusals_unrecorded_total",
                "Refusals not recorded for look-up by request ID, because there were too many.",
            )?,
            limit_refusals_cached: counter(
                &r,
                "evenkeel_limit_refusals_cached_total",
                "Requests refused from memory, without a call to the store.",
            )?,
            limit_settles: LimitSettles::new(&r)?,
            tickets_rejected: TicketsRejected::new(&r)?,
            settlements_lost: counter(
                &r,
                "evenkeel_limit_settlements_lost_total",
                "Settlements that the sidecar gave up; the reserved amounts stay charged.",
            )?,
            settlements_waiting: int_gauge(
                &r,
                "evenkeel_limit_settlements_waiting",
                "Settlements that are waiting for the store.",
            )?,
            charged: Charged::new(&r)?,
            settles: Settles::new(&r)?,
            first_tokens: FirstTokens::new(&r)?,
            keep_alives: KeepAlives::new(&r)?,
            store_duration: histograms(
                &r,
                "evenkeel_store_call_duration_seconds",
                "Duration of a call to the store, by operation.",
                &["operation"],
                LATENCY_BUCKETS,
            )?,
            store_errors: counters(
                &r,
                "evenkeel_store_errors_total",
                "Failed calls to the store, by operation and kind.",
                &["operation", "kind"],
            )?,
            store_batch: histogram(
                &r,
                "evenkeel_store_batch_operations",
                "Admissions and settlements sent to the store in one call.",
                BATCH_BUCKETS,
            )?,
            store_up: int_gauge(
                &r,
                "evenkeel_store_up",
                "1 while the sidecar uses the whole store, 0 while local policies apply.",
            )?,
            store_nodes_lost: int_gauge(
                &r,
                "evenkeel_store_nodes_lost",
                "Servers of the store that the sidecar has lost.",
            )?,
            store_losses: counter(
                &r,
                "evenkeel_store_losses_total",
                "Times the sidecar lost the store and began to apply local policies.",
            )?,
            sidecars: int_gauge(
                &r,
                "evenkeel_sidecars",
                "Live sidecars that share the store, as last seen by this sidecar.",
            )?,
            leases_reaped: counter(
                &r,
                "evenkeel_leases_reaped_total",
                "Leases released because their holders stopped sending KeepAlives.",
            )?,
            repairs: Repairs::new(&r)?,
            ledger: LedgerMetrics::new(&r)?,
            admin_calls: counters(
                &r,
                "evenkeel_admin_calls_total",
                "Calls that need the role admin, by the result of the check.",
                &["result"],
            )?,
            calls_rejected: counters(
                &r,
                "evenkeel_calls_rejected_total",
                "Calls rejected because the caller lacks the role that the call needs.",
                &["role", "reason"],
            )?,
            tls: TlsMetrics::new(&r)?,
            change_log_failures: counter(
                &r,
                "evenkeel_change_log_failures_total",
                "Administrators' changes that took effect but are missing from the change log.",
            )?,
            overrides: int_gauge(&r, "evenkeel_overrides", "Limit overrides that this sidecar knows.")?,
            discovery: DiscoveryMetrics::new(&r)?,
            pools: PoolMetrics::new(&r)?,
            latency: LatencyMetrics::new(&r)?,
            table_age: gauge(
                &r,
                "evenkeel_table_age_seconds",
                "Seconds since this sidecar last read the pools' tables.",
            )?,
            config_valid: int_gauge(
                &r,
                "evenkeel_config_valid",
                "1 if the last reload of the configuration was applied, 0 if it was rejected.",
            )?,
            config_last_success: gauge(
                &r,
                "evenkeel_config_last_success_timestamp_seconds",
                "Unix time at which the configuration was last applied, in seconds.",
            )?,
            rls: RlsMetrics::new(&r)?,
            streams: StreamMetrics::new(&r)?,
            gateways: GatewayMetrics::new(&r)?,
            prefixes: PrefixMetrics::new(&r)?,
            bounds: BoundMetrics::new(&r)?,
            traces: TraceMetrics::new(&r)?,
            catalogue: r,
            scrape: Mutex::new(()),
        };
        let build = gauges(&metrics.catalogue, "evenkeel_build_info", "Always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        #[cfg(target_os = "linux")]
        metrics.catalogue.add(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Arc::new(metrics))
    }

    #[cfg(test)]
    pub(super) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Returns all metrics in Prometheus's text format. Before that, `set_gauges` sets the gauges that only a scrape
    /// sets.
    ///
    /// # Errors
    /// Fails if the encoder fails.
    pub fn encode(&self, set_gauges: impl FnOnce(&Self)) -> prometheus::Result<String> {
        let _scrape = self.scrape.lock();
        set_gauges(self);
        TextEncoder::new().encode_to_string(&self.catalogue.gather())
    }
}
