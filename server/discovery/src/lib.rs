//! Finds the endpoints of pools whose requests do not carry endpoints: by DNS, or in the EndpointSlices of a Kubernetes
//! service. Each pool has a task that updates its roster. While a source is unavailable, the pool keeps its last
//! endpoints.

use std::{error::Error, fmt, net::SocketAddr, sync::Arc};

use evenkeel_domain::{
    ENDPOINTS_MAX, Endpoint, Roster,
    settings::{KubernetesOptions, PoolRule, Source},
};
use evenkeel_engine::balancer::pool_entry::PoolEntry;
use evenkeel_telemetry::Metrics;
use prometheus::Gauge;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

mod dns;
#[cfg(feature = "kubernetes")]
mod kubernetes;
#[cfg(not(feature = "kubernetes"))]
#[path = "without_kubernetes.rs"]
mod kubernetes;

/// Error: the source of a pool is not compiled into this binary.
#[derive(Debug)]
pub struct Unsupported {
    /// The cluster of the pool's rule, if the rule names one.
    cluster: Option<String>,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cluster {
            Some(cluster) => write!(f, "the pool of cluster {cluster:?}")?,
            None => f.write_str("a pool rule")?,
        }
        f.write_str(
            " gets its endpoints from Kubernetes, but this binary is built without the feature `kubernetes`",
        )
    }
}

impl Error for Unsupported {}

/// Checks that this binary supports the sources of all rules.
///
/// # Errors
/// Fails if a rule has a Kubernetes source and the binary is built without the feature `kubernetes`.
pub fn check_support<'r>(rules: impl IntoIterator<Item = &'r PoolRule>) -> Result<(), Unsupported> {
    let is_unsupported =
        |rule: &&PoolRule| !cfg!(feature = "kubernetes") && matches!(rule.source, Source::Kubernetes(_));
    match rules.into_iter().find(is_unsupported) {
        Some(rule) => Err(Unsupported { cluster: rule.cluster.clone() }),
        None => Ok(()),
    }
}

/// Starts a task for each pool whose source is DNS or Kubernetes. The tasks end at `shutdown`.
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

/// A pool whose roster a task keeps up to date.
struct Target<'e> {
    entry: &'e PoolEntry,
    /// `None` for pools that the configuration does not name, because gateways must not choose label values.
    gauges: Option<Gauges>,
}

struct Gauges {
    up: Gauge,
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
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

    fn set_source_up(&self, up: bool) {
        if let Some(gauges) = &self.gauges {
            gauges.up.set(if up { 1.0 } else { 0.0 });
        }
    }

    /// Reports the number of endpoints that are left out because they lack the port.
    #[cfg(feature = "kubernetes")]
    #[allow(clippy::cast_precision_loss)]
    fn set_without_port(&self, count: usize) {
        if let Some(gauges) = &self.gauges {
            gauges.without_port.set(count as f64);
        }
    }

    /// Replaces the pool's endpoints.
    #[allow(clippy::cast_precision_loss)]
    fn apply(&self, addresses: Vec<SocketAddr>) {
        let (entry, rule) = (self.entry, &self.entry.rule);
        let endpoint = |address: SocketAddr| Endpoint {
            address: address.to_string().into(),
            weight: rule.weight,
            cap: rule.cap,
        };
        // Sort before truncating, so that the order of the answer does not decide which endpoints remain.
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
            warn!(pool = %entry.pool.id, all, used = ENDPOINTS_MAX, "more endpoints found than a pool can have");
        }
        let (from, to) = (known.endpoints().len(), roster.endpoints().len());
        info!(pool = %entry.pool.id, from, to, "endpoints changed");
        entry.set_roster(roster);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use evenkeel_domain::settings::{OnStoreFailure, Policy, ServiceRule};

    use super::*;

    #[test]
    fn kubernetes_sources_need_the_feature() {
        let rule = |source| PoolRule {
            cluster: Some("llm".to_owned()),
            route: None,
            per_route: false,
            source,
            weight: 1.0,
            cap: 0,
            policy: Policy::default(),
            prefix_cache: None,
            session_affinity: None,
            on_store_failure: OnStoreFailure::Local,
            full_retry_after: Duration::from_secs(1),
            higress_table: false,
        };
        check_support(&[rule(Source::Request)]).unwrap();
        let checked = check_support(&[rule(Source::Kubernetes(ServiceRule::default()))]);
        if cfg!(feature = "kubernetes") {
            checked.unwrap();
        } else {
            assert_eq!(
                checked.unwrap_err().to_string(),
                "the pool of cluster \"llm\" gets its endpoints from Kubernetes, but this binary is built without the \
                 feature `kubernetes`"
            );
        }
    }
}
