//! Where metrics are registered, and the list of what was: docs/metrics.md is held against it.

use parking_lot::Mutex;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounterVec, Opts, Registry,
    core::Collector,
    proto::{MetricFamily, MetricType},
};

/// One metric as it was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// Its help text.
    pub help: String,
}

/// A registry that can tell what it holds, children or not.
#[derive(Default)]
pub(super) struct Catalogue {
    registry: Registry,
    declared: Mutex<Vec<Declared>>,
}

impl Catalogue {
    /// Every metric registered, by name.
    #[must_use]
    pub(super) fn declared(&self) -> Vec<Declared> {
        let mut all = self.declared.lock().clone();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// All metrics that have a value.
    #[must_use]
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// Registers a collector of one or more metrics.
    ///
    /// # Errors
    /// Where a metric of that name is there already.
    pub(super) fn add(&self, collector: Box<dyn Collector>) -> prometheus::Result<()> {
        let families = collector.collect();
        let kind = |name: &str| match families.iter().find(|family| family.name() == name) {
            Some(family) => match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::HISTOGRAM => "histogram",
                _ => "gauge",
            },
            None => "gauge",
        };
        let declared: Vec<Declared> = (collector.desc().iter())
            .map(|desc| Declared {
                name: desc.fq_name.clone(),
                kind: kind(&desc.fq_name),
                labels: desc.variable_labels.clone(),
                help: desc.help.clone(),
            })
            .collect();
        self.registry.register(collector)?;
        self.declared.lock().extend(declared);
        Ok(())
    }
}

pub(super) fn register<C: Collector + Clone + 'static>(r: &Catalogue, collector: C) -> prometheus::Result<C> {
    r.add(Box::new(collector.clone()))?;
    Ok(collector)
}

pub(super) fn counters(
    r: &Catalogue,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    register(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn gauges(r: &Catalogue, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
    register(r, GaugeVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn histogram(
    r: &Catalogue,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> prometheus::Result<Histogram> {
    register(r, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
}
