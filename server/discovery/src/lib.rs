//! Where endpoints come from when requests do not bring them: DNS, or the EndpointSlices of a Kubernetes service.
//! Each pool has a task that keeps its roster. What cannot be asked at present changes nothing: the last good
//! endpoints stay.

use std::{net::SocketAddr, sync::Arc};

use evenkeel_domain::{
    ENDPOINTS_MAX, Endpoint, Roster,
    settings::{KubernetesOptions, Source},
};
use evenkeel_engine::balancer::directory::PoolEntry;
use evenkeel_telemetry::Metrics;
use prometheus::Gauge;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

mod access;
mod dns;
mod kubernetes;
mod slices;
mod watch;

/// Starts a task for each pool that needs one, until told to stop.
pub async fn run(
    mut pools: mpsc::UnboundedReceiver<Arc<PoolEntry>>,
    kubernetes: KubernetesOptions,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let hub = kubernetes::Hub::new(kubernetes, Arc::clone(&metrics), tasks.clone(), shutdown.clone());
    loop {
        let entry = tokio::select! {
            entry = pools.recv() => entry,
            () = shutdown.cancelled() => return,
        };
        let Some(entry) = entry else { return };
        let (hub, metrics, shutdown) = (Arc::clone(&hub), Arc::clone(&metrics), shutdown.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = follow(&entry, &hub, &metrics) => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

async fn follow(entry: &PoolEntry, hub: &Arc<kubernetes::Hub>, metrics: &Metrics) {
    match &entry.rule.source {
        Source::Dns { .. } => dns::follow(&Target::new(entry, "dns", metrics), metrics).await,
        Source::Kubernetes(rule) => {
            if let Some(service) = rule.of(entry.pool.id.cluster()) {
                kubernetes::follow(&Target::new(entry, "kubernetes", metrics), &service, hub).await;
            }
        }
        Source::Request | Source::Static(_) => {}
    }
}

/// A pool whose endpoints are followed.
struct Target<'e> {
    entry: &'e PoolEntry,
    /// What the configuration names has gauges; what gateways name has not, as labels are not theirs to choose.
    gauges: Option<Gauges>,
}

struct Gauges {
    up: Gauge,
    without_port: Gauge,
    beyond_limit: Gauge,
}

impl<'e> Target<'e> {
    fn new(entry: &'e PoolEntry, source: &str, metrics: &Metrics) -> Self {
        let id = &entry.pool.id;
        let gauges = entry.is_configured().then(|| {
            let left_out =
                |reason| metrics.discovery.unused.with_label_values(&[id.route(), id.cluster(), reason]);
            Gauges {
                up: metrics.discovery.up.with_label_values(&[source, id.route(), id.cluster()]),
                without_port: left_out("missing_port"),
                beyond_limit: left_out("too_many"),
            }
        });
        Self { entry, gauges }
    }

    /// Whether the source answers.
    fn set_up(&self, up: bool) {
        if let Some(gauges) = &self.gauges {
            gauges.up.set(if up { 1.0 } else { 0.0 });
        }
    }

    /// How many endpoints cannot be used, as they have no such port.
    #[allow(clippy::cast_precision_loss)]
    fn set_without_port(&self, count: usize) {
        if let Some(gauges) = &self.gauges {
            gauges.without_port.set(count as f64);
        }
    }

    /// Makes these the endpoints.
    #[allow(clippy::cast_precision_loss)]
    fn apply(&self, addresses: Vec<SocketAddr>) {
        let (entry, rule) = (self.entry, &self.entry.rule);
        let endpoint = |address: SocketAddr| Endpoint {
            address: address.to_string().into(),
            weight: rule.weight,
            cap: rule.cap,
        };
        // Ordered before it is cut, so that the same ones stay whatever the order of the answer.
        let found = Roster::new(addresses.into_iter().map(endpoint).collect());
        let all = found.endpoints().len();
        if let Some(gauges) = &self.gauges {
            gauges.beyond_limit.set(all.saturating_sub(ENDPOINTS_MAX) as f64);
        }
        let roster = if all > ENDPOINTS_MAX {
            Roster::new(found.endpoints()[..ENDPOINTS_MAX].to_vec())
        } else {
            found
        };
        let known = entry.own_roster();
        if *known == roster {
            return;
        }
        if all > ENDPOINTS_MAX {
            warn!(pool = %entry.pool.id, all, used = ENDPOINTS_MAX, "found more endpoints than one pool can have");
        }
        let (from, to) = (known.endpoints().len(), roster.endpoints().len());
        info!(pool = %entry.pool.id, from, to, "endpoints changed");
        entry.set_roster(roster);
    }
}
