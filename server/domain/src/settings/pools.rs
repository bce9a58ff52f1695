//! Pool rules: the settings of pools.

use std::{net::SocketAddr, time::Duration};

use super::{OnStoreFailure, Policy, ServiceRule};
use crate::Endpoint;

/// Settings of the pools of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolRule {
    /// The cluster; `None` for any cluster.
    pub cluster: Option<String>,
    /// The route; `None` for any route.
    pub route: Option<String>,
    /// Whether each route has its own table of requests in flight.
    pub per_route: bool,
    pub source: Source,
    /// Weight of endpoints that set no weight.
    pub weight: f64,
    /// Cap of endpoints that set no cap; 0 means unlimited.
    pub cap: u32,
    /// How endpoints are chosen.
    pub policy: Policy,
    pub on_store_failure: OnStoreFailure,
    /// `Retry-After` of the response when every endpoint is at its cap.
    pub full_retry_after: Duration,
    /// Whether to share the table of Higress's `ai-load-balancer`.
    pub higress_table: bool,
}

/// Where a pool's endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Each request brings the endpoints.
    Request,
    /// The configuration lists the endpoints.
    Static(Vec<Endpoint>),
    /// Every address of a DNS name is an endpoint. The sidecar looks the name up again when its TTL has passed.
    Dns {
        /// For example the name of a headless service.
        name: String,
        /// Port of every endpoint.
        port: u16,
        /// Maximum time between two look-ups.
        refresh: Duration,
        /// `None` for the system's DNS server.
        nameserver: Option<SocketAddr>,
    },
    /// The EndpointSlices of a service.
    Kubernetes(ServiceRule),
}
