//! Pool rules.

use std::{net::SocketAddr, time::Duration};

use super::{OnStoreFailure, ServiceRule};
use crate::Endpoint;

/// Settings of the pools of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolRule {
    /// The cluster; `None` for any.
    pub cluster: Option<String>,
    /// The route; `None` for any.
    pub route: Option<String>,
    /// Whether each route has its own table.
    pub per_route: bool,
    pub source: Source,
    /// Weight of endpoints without one.
    pub weight: f64,
    /// Cap of endpoints without one; 0 is unlimited.
    pub cap: u32,
    pub on_store_failure: OnStoreFailure,
    /// Retry-After when every endpoint is at its cap.
    pub full_retry_after: Duration,
    /// Whether to share the table of Higress.
    pub higress_table: bool,
}

/// Where a pool's endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Each request brings them.
    Request,
    /// The configuration lists them.
    Static(Vec<Endpoint>),
    /// DNS: every address of a name, looked up again when its TTL has passed.
    Dns {
        /// For example that of a headless service.
        name: String,
        /// Port of every endpoint.
        port: u16,
        /// Longest time between two look-ups.
        refresh: Duration,
        /// `None` for the system's.
        nameserver: Option<SocketAddr>,
    },
    /// The EndpointSlices of a service.
    Kubernetes(ServiceRule),
}
