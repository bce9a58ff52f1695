//! The series of latencies, as a scrape shows them.

use std::{collections::HashMap, sync::Arc, time::Instant};

use evenkeel_domain::PoolId;
use parking_lot::Mutex;
use prometheus::{
    IntGauge,
    core::{Collector, Desc},
    proto::{self, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{
    PoolLatencies,
    histogram::{FIRST_TOKEN_US, PER_TOKEN_US, TOTAL_US},
    timings::{ByName, Timings},
};
use crate::catalogue::{Catalogue, int_gauge};

/// Maximum number of pools with latencies. A pool has up to 45 series for each of its models and endpoints, plus 8 for the
/// sums and counts.
const POOLS_MAX: usize = 128;

/// Number of histograms of each model and endpoint.
const KINDS: usize = 3;

pub struct LatencyMetrics {
    shown: Shown,
    without: IntGauge,
}

impl LatencyMetrics {
    pub(crate) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let shown = Shown {
            by_model: descriptions("model", "")?,
            by_endpoint: descriptions("endpoint", "endpoint_")?,
            pools: Arc::default(),
        };
        r.add(Box::new(shown.clone()))?;
        let without = int_gauge(
            r,
            "evenkeel_pools_without_latencies",
            "Pools that have no histograms of latencies, because there are too many.",
        )?;
        Ok(Self { shown, without })
    }

    /// Sets the pools that this scrape shows: the first [`POOLS_MAX`]. Removes what has been idle and has left its pool, or
    /// takes the room of others. `is_listed` returns whether an endpoint is in its pool.
    pub fn set_pools<'a, L: Fn(&str) -> bool>(
        &self,
        pools: impl Iterator<Item = (&'a PoolId, &'a Arc<PoolLatencies>, L)>,
    ) {
        let (now, mut shown, mut without) = (Instant::now(), Vec::new(), 0);
        for (id, latencies, is_listed) in pools {
            if shown.len() < POOLS_MAX {
                latencies.tidy(now, is_listed);
                shown.push((id.clone(), Arc::clone(latencies)));
            } else {
                latencies.hide();
                without += 1;
            }
        }
        *self.shown.pools.lock() = shown;
        self.without.set(without);
    }
}

type Pools = Vec<(PoolId, Arc<PoolLatencies>)>;

/// The pools of one scrape.
#[derive(Clone)]
struct Shown {
    by_model: Arc<[Desc; KINDS]>,
    by_endpoint: Arc<[Desc; KINDS]>,
    pools: Arc<Mutex<Pools>>,
}

/// Describes the histograms by the label `by`.
fn descriptions(by: &str, prefix: &str) -> prometheus::Result<Arc<[Desc; KINDS]>> {
    let labels = ["route", "cluster", by].map(str::to_owned);
    let describe = |name: &str, help: String| {
        Desc::new(format!("evenkeel_{prefix}{name}_seconds"), help, labels.to_vec(), HashMap::new())
    };
    Ok(Arc::new([
        describe(
            "time_to_first_token",
            format!("Time from admission to the first byte of a streamed answer, by pool and {by}."),
        )?,
        describe(
            "time_per_output_token",
            format!("Time per output token after the first, of a streamed answer, by pool and {by}."),
        )?,
        describe(
            "request_duration",
            format!("Time from admission to the end of a successful answer, by pool and {by}."),
        )?,
    ]))
}

impl Collector for Shown {
    fn desc(&self) -> Vec<&Desc> {
        self.by_model.iter().chain(&*self.by_endpoint).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Taken, so that a pool that is evicted before the next scrape gives its memory back.
        let pools = std::mem::take(&mut *self.pools.lock());
        let of = |descs: &[Desc; KINDS], by, names: fn(&PoolLatencies) -> &ByName| {
            let mut metrics: [Vec<Metric>; KINDS] = Default::default();
            for (id, latencies) in &pools {
                names(latencies).each(|name, timings| {
                    for (metrics, histogram) in metrics.iter_mut().zip(histograms(timings)) {
                        metrics.extend(histogram.map(|histogram| metric(id, by, name, histogram)));
                    }
                });
            }
            descs.iter().zip(metrics).map(|(desc, metrics)| family(desc, metrics)).collect::<Vec<_>>()
        };
        let mut families = of(&self.by_model, "model", |pool| &pool.models);
        families.extend(of(&self.by_endpoint, "endpoint", |pool| &pool.endpoints));
        families
    }
}

fn histograms(timings: &Timings) -> [Option<proto::Histogram>; KINDS] {
    [
        timings.first_token.read(&FIRST_TOKEN_US),
        timings.per_token.read(&PER_TOKEN_US),
        timings.total.read(&TOTAL_US),
    ]
}

fn family(desc: &Desc, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(desc.fq_name.clone());
    family.set_help(desc.help.clone());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(metrics);
    family
}

fn metric(id: &PoolId, by: &str, name: &str, histogram: proto::Histogram) -> Metric {
    let label = |(name, value): (&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    // Sorted by name, as those of all other metrics.
    let labels = [("cluster", id.cluster()), (by, name), ("route", id.route())];
    let mut metric = Metric::from_label(labels.into_iter().map(label).collect());
    metric.set_histogram(histogram);
    metric
}
