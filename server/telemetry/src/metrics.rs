//! Every metric, declared once. Labels come from enums or from configured names; docs/metrics.md lists them.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, TextEncoder,
};

use super::{
    catalogue::{Catalogue, Declared, counters, gauges, histogram, register},
    discovery::Discovery,
    ledger::LedgerMetrics,
    limits::LimitMetrics,
    pools::PoolMetrics,
    rls::Rls,
    traces::TraceMetrics,
};

/// Latency buckets in seconds, from a loopback round trip to a gateway's patience.
pub(super) const LATENCY_BUCKETS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The sidecar's metrics and their registry.
pub struct Metrics {
    catalogue: Catalogue,
    /// One scrape at a time: another would empty the gauges that this one is about to read.
    scrape: Mutex<()>,
    /// Admissions by `result`.
    pub admits: Admits,
    /// Time to answer an Admit, in seconds.
    pub admit_duration: Histogram,
    /// Limits and quotas by name.
    pub limits: LimitMetrics,
    /// Refusals of which nothing is kept.
    pub refusals_unrecorded: IntCounter,
    /// Refusals that needed no store.
    pub limit_refusals_remembered: IntCounter,
    /// Settlements of reservations by `result`.
    pub limit_settles: LimitSettles,
    /// Settlements dropped.
    pub settlements_lost: IntCounter,
    /// Settlements that wait for the store.
    pub settlements_waiting: IntGauge,
    /// What requests were charged.
    pub charged: Charged,
    /// Settlements by `result`.
    pub settles: Settles,
    /// Lists of KeepAlives by `result`.
    pub keep_alives: KeepAlives,
    /// Store calls by `operation`, in seconds.
    pub store_duration: HistogramVec,
    /// Failed store calls by `operation` and `kind`.
    pub store_errors: IntCounterVec,
    /// Operations in one commit.
    pub store_batch: Histogram,
    /// 1 while the store answers.
    pub store_up: IntGauge,
    /// Times the store was given up.
    pub store_losses: IntCounter,
    /// Sidecars that share the store.
    pub sidecars: IntGauge,
    /// Leases given back for dead holders.
    pub leases_reaped: IntCounter,
    /// What was mended, by `kind`.
    pub repairs: Repairs,
    /// The usage ledger.
    pub ledger: LedgerMetrics,
    /// Changing calls of administrators by `result`.
    pub admin_calls: IntCounterVec,
    /// Changes by administrators that are missing from the list of changes.
    pub audit_failures: IntCounter,
    /// Overrides of limits known here.
    pub overrides: IntGauge,
    /// Where endpoints come from.
    pub discovery: Discovery,
    /// Of each pool, set at each scrape.
    pub pools: PoolMetrics,
    /// Seconds since the last sweep.
    pub table_age: Gauge,
    /// 1 unless the last reload of the configuration was refused.
    pub config_valid: IntGauge,
    /// When the configuration was last applied, in seconds of the Unix epoch.
    pub config_last_success: Gauge,
    /// Of the rate limit service.
    pub rls: Rls,
    /// Of the exporter of traces.
    pub traces: TraceMetrics,
}

/// Children of `evenkeel_admits_total`.
pub struct Admits {
    /// Admitted from the shared table.
    pub shared: IntCounter,
    /// Admitted from local knowledge while the store was unavailable.
    pub local: IntCounter,
    /// Admitted without a choice while the store was unavailable.
    pub open: IntCounter,
    /// Denied: every endpoint at its cap.
    pub pool_full: IntCounter,
    /// Denied: no endpoints.
    pub no_endpoints: IntCounter,
    /// Denied: store unavailable, policy closed.
    pub store_unavailable: IntCounter,
    /// Denied: a limit is exhausted.
    pub limit: IntCounter,
    /// Denied: a quota is exhausted.
    pub quota: IntCounter,
    /// Answered by the sidecar itself.
    pub direct_response: IntCounter,
    /// Refused: the call itself was wrong.
    pub invalid: IntCounter,
}

/// What requests were charged: children of `evenkeel_tokens_total`.
pub struct Charged {
    /// Input tokens, told by responses and reckoned.
    pub input: [IntCounter; 2],
    /// Output tokens, told and reckoned.
    pub output: [IntCounter; 2],
    /// Cost, in the currency of the price table.
    pub cost: prometheus::Counter,
}

/// Children of `evenkeel_limit_settles_total`.
pub struct LimitSettles {
    /// Charged.
    pub charged: IntCounter,
    /// Settled before.
    pub repeated: IntCounter,
    /// Could not reach the store.
    pub error: IntCounter,
}

/// Children of `evenkeel_settles_total`.
pub struct Settles {
    /// Gave a lease back.
    pub released: IntCounter,
    /// Met no lease.
    pub unknown: IntCounter,
    /// Could not reach the store.
    pub error: IntCounter,
}

/// Children of `evenkeel_keep_alives_total`.
pub struct KeepAlives {
    /// Applied to the table.
    pub ok: IntCounter,
    /// Kept in local knowledge only: the shared store was unavailable.
    pub unapplied: IntCounter,
    /// Applied nowhere.
    pub error: IntCounter,
}

/// Children of `evenkeel_repairs_total`.
pub struct Repairs {
    /// Leases put back from a holder's list.
    pub restored: IntCounter,
    /// Leases a holder no longer had.
    pub dropped: IntCounter,
    /// Leases moved to the endpoint they are really on.
    pub moved: IntCounter,
    /// Settlements that met a count of 0.
    pub clamped: IntCounter,
    /// Counts that were not the sum of their leases.
    pub recounted: IntCounter,
}

impl Metrics {
    /// Declares and registers everything.
    ///
    /// # Errors
    /// Never in practice: only where two metrics share a name.
    pub fn new() -> prometheus::Result<Arc<Self>> {
        let r = Catalogue::default();
        let admits = counters(&r, "evenkeel_admits_total", "Answers to Admit by result.", &["result"])?;
        let settles = counters(&r, "evenkeel_settles_total", "Settlements by result.", &["result"])?;
        let keep_alives = counters(
            &r,
            "evenkeel_keep_alives_total",
            "Lists of KeepAlives, one for each pool, by result.",
            &["result"],
        )?;
        let repairs = counters(
            &r,
            "evenkeel_repairs_total",
            "Leases and counts mended, by kind: how far the table had drifted from the gateways.",
            &["kind"],
        )?;
        let tokens = counters(
            &r,
            "evenkeel_tokens_total",
            "Tokens of requests, by kind, and whether their responses told or they were reckoned.",
            &["kind", "basis"],
        )?;
        let limit_settles = counters(
            &r,
            "evenkeel_limit_settles_total",
            "Settlements of reservations by result.",
            &["result"],
        )?;
        let metrics = Self {
            admits: Admits {
                shared: admits.with_label_values(&["admitted"]),
                local: admits.with_label_values(&["admitted_local"]),
                open: admits.with_label_values(&["admitted_open"]),
                pool_full: admits.with_label_values(&["pool_full"]),
                no_endpoints: admits.with_label_values(&["no_endpoints"]),
                store_unavailable: admits.with_label_values(&["store_unavailable"]),
                limit: admits.with_label_values(&["limit"]),
                quota: admits.with_label_values(&["quota"]),
                direct_response: admits.with_label_values(&["direct_response"]),
                invalid: admits.with_label_values(&["invalid"]),
            },
            limits: LimitMetrics::new(&r)?,
            refusals_unrecorded: register(
                &r,
                IntCounter::new(
                    "evenkeel_refusals_unrecorded_total",
                    "Refusals that cannot be looked up by their request's id, as there were too many.",
                )?,
            )?,
            limit_refusals_remembered: register(
                &r,
                IntCounter::new(
                    "evenkeel_limit_refusals_remembered_total",
                    "Requests refused without asking the store, as nothing could have changed yet.",
                )?,
            )?,
            limit_settles: LimitSettles {
                charged: limit_settles.with_label_values(&["charged"]),
                repeated: limit_settles.with_label_values(&["repeated"]),
                error: limit_settles.with_label_values(&["error"]),
            },
            settlements_lost: register(
                &r,
                IntCounter::new(
                    "evenkeel_limit_settlements_lost_total",
                    "Settlements dropped because too many waited for the store: what they reserved stays charged.",
                )?,
            )?,
            settlements_waiting: register(
                &r,
                IntGauge::new(
                    "evenkeel_limit_settlements_waiting",
                    "Settlements of reservations that wait for the store to be back.",
                )?,
            )?,
            charged: Charged {
                input: ["reported", "reckoned"].map(|basis| tokens.with_label_values(&["input", basis])),
                output: ["reported", "reckoned"].map(|basis| tokens.with_label_values(&["output", basis])),
                cost: register(
                    &r,
                    prometheus::Counter::new(
                        "evenkeel_cost_total",
                        "Cost of requests, in the currency of the price table.",
                    )?,
                )?,
            },
            admit_duration: histogram(
                &r,
                "evenkeel_admit_duration_seconds",
                "Time to answer an Admit, without transport.",
                LATENCY_BUCKETS,
            )?,
            settles: Settles {
                released: settles.with_label_values(&["released"]),
                unknown: settles.with_label_values(&["unknown"]),
                error: settles.with_label_values(&["error"]),
            },
            keep_alives: KeepAlives {
                ok: keep_alives.with_label_values(&["ok"]),
                unapplied: keep_alives.with_label_values(&["unapplied"]),
                error: keep_alives.with_label_values(&["error"]),
            },
            store_duration: register(
                &r,
                HistogramVec::new(
                    HistogramOpts::new(
                        "evenkeel_store_call_duration_seconds",
                        "Time of one call to the store, by operation.",
                    )
                    .buckets(LATENCY_BUCKETS.to_vec()),
                    &["operation"],
                )?,
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
            store_up: register(
                &r,
                IntGauge::new("evenkeel_store_up", "1 while the store answers, 0 while local rules apply.")?,
            )?,
            store_losses: register(
                &r,
                IntCounter::new(
                    "evenkeel_store_losses_total",
                    "Times the store was lost and local rules began to apply.",
                )?,
            )?,
            sidecars: register(
                &r,
                IntGauge::new("evenkeel_sidecars", "Sidecars alive that share the store, as last seen.")?,
            )?,
            leases_reaped: register(
                &r,
                IntCounter::new("evenkeel_leases_reaped_total", "Leases given back for dead holders.")?,
            )?,
            repairs: Repairs {
                restored: repairs.with_label_values(&["restored"]),
                dropped: repairs.with_label_values(&["dropped"]),
                moved: repairs.with_label_values(&["moved"]),
                clamped: repairs.with_label_values(&["clamped"]),
                recounted: repairs.with_label_values(&["recounted"]),
            },
            ledger: LedgerMetrics::new(&r)?,
            admin_calls: counters(
                &r,
                "evenkeel_admin_calls_total",
                "Calls that change something, by what became of their token.",
                &["result"],
            )?,
            audit_failures: register(
                &r,
                IntCounter::new(
                    "evenkeel_audit_failures_total",
                    "Changes by administrators that were made and could not be added to the list of changes.",
                )?,
            )?,
            overrides: register(
                &r,
                IntGauge::new("evenkeel_overrides", "Overrides of limits that this sidecar knows.")?,
            )?,
            discovery: Discovery::new(&r)?,
            pools: PoolMetrics::new(&r)?,
            table_age: register(
                &r,
                Gauge::new(
                    "evenkeel_table_age_seconds",
                    "Seconds since the last sweep, which read the tables behind evenkeel_in_flight.",
                )?,
            )?,
            config_valid: register(
                &r,
                IntGauge::new(
                    "evenkeel_config_valid",
                    "1 unless the last reload of the configuration was refused.",
                )?,
            )?,
            config_last_success: register(
                &r,
                Gauge::new(
                    "evenkeel_config_last_success_timestamp_seconds",
                    "When the configuration was last applied, in seconds of the Unix epoch.",
                )?,
            )?,
            rls: Rls::new(&r)?,
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

    /// Every metric, with or without a value.
    #[must_use]
    pub fn declared(&self) -> Vec<Declared> {
        self.catalogue.declared()
    }

    /// Every metric that has a value.
    #[cfg(test)]
    pub(super) fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.catalogue.gather()
    }

    /// All metrics in Prometheus's text format, once `set_gauges` has set those that are set at each scrape.
    ///
    /// # Errors
    /// Where the encoder fails.
    pub fn encode(&self, set_gauges: impl FnOnce(&Self)) -> prometheus::Result<String> {
        let _scrape = self.scrape.lock();
        set_gauges(self);
        TextEncoder::new().encode_to_string(&self.catalogue.gather())
    }
}
