//! Registers metrics. In tests, also lists their descriptions, which a test compares with docs/metrics.md.

#[cfg(test)]
use parking_lot::Mutex;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, core::Collector, proto::MetricFamily,
};

/// Latency buckets in seconds, from a round trip on the loopback interface up to the longest that a gateway waits.
pub(super) const LATENCY_BUCKETS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

#[cfg(test)]
#[derive(Clone, Debug)]
pub(super) struct MetricDescription {
    pub(super) name: String,
    /// `counter`, `gauge` or `histogram`.
    pub(super) kind: &'static str,
    pub(super) labels: Vec<String>,
    pub(super) help: String,
}

/// A registry of metrics. In tests, it also lists metrics without a value.
#[derive(Default)]
pub(super) struct Catalogue {
    registry: Registry,
    #[cfg(test)]
    descriptions: Mutex<Vec<MetricDescription>>,
}

impl Catalogue {
    /// Returns all metrics that have a value.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// Registers a collector of one or more metrics.
    ///
    /// # Errors
    /// Fails if a metric of that name is registered already.
    pub(super) fn add(&self, collector: Box<dyn Collector>) -> prometheus::Result<()> {
        #[cfg(test)]
        let descriptions = describe(&*collector);
        self.registry.register(collector)?;
        #[cfg(test)]
        self.descriptions.lock().extend(descriptions);
        Ok(())
    }

    /// Returns every registered metric, with or without a value.
    #[cfg(test)]
    pub(super) fn descriptions(&self) -> Vec<MetricDescription> {
        self.descriptions.lock().clone()
    }
}

#[cfg(test)]
fn describe(collector: &dyn Collector) -> Vec<MetricDescription> {
    use prometheus::proto::MetricType;

    let families = collector.collect();
    let kind = |name: &str| match families.iter().find(|family| family.name() == name) {
        Some(family) => match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            _ => "gauge",
        },
        None => "gauge",
    };
    let describe = |desc: &&prometheus::core::Desc| MetricDescription {
        name: desc.fq_name.clone(),
        kind: kind(&desc.fq_name),
        labels: desc.variable_labels.clone(),
        help: desc.help.clone(),
    };
    collector.desc().iter().map(describe).collect()
}

pub(super) fn register<C: Collector + Clone + 'static>(r: &Catalogue, collector: C) -> prometheus::Result<C> {
    r.add(Box::new(collector.clone()))?;
    Ok(collector)
}

pub(super) fn counter(r: &Catalogue, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    register(r, IntCounter::new(name, help)?)
}

pub(super) fn counters(
    r: &Catalogue,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    register(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn gauge(r: &Catalogue, name: &str, help: &str) -> prometheus::Result<Gauge> {
    register(r, Gauge::new(name, help)?)
}

pub(super) fn int_gauge(r: &Catalogue, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    register(r, IntGauge::new(name, help)?)
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

pub(super) fn histograms(
    r: &Catalogue,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> prometheus::Result<HistogramVec> {
    register(r, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
}
