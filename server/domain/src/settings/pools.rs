//! What the configuration says about pools.

use std::{net::SocketAddr, time::Duration};

use super::{OnStoreFailure, ServiceRule};
use crate::Endpoint;

/// What applies to the pools of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolRule {
    /// Cluster it applies to; `None` for any.
    pub cluster: Option<String>,
    /// Route it applies to; `None` for any.
    pub route: Option<String>,
    /// Each route has a table of its own.
    pub per_route: bool,
    /// Where the endpoints come from.
    pub source: Source,
    /// Weight of endpoints that name none.
    pub weight: f64,
    /// Cap of endpoints that name none; 0 when unlimited.
    pub cap: u32,
    /// What to do while the store is unavailable.
    pub on_store_failure: OnStoreFailure,
    /// Retry-After when every endpoint is at its cap.
    pub full_retry_after: Duration,
    /// Share Higress's own table.
    pub higress_table: bool,
}

/// Where a pool's endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// With each request.
    Request,
    /// From the file.
    Static(Vec<Endpoint>),
    /// From DNS: every address of a name, asked again when its time to live has passed.
    Dns {
        /// The name, such as a headless service's.
        name: String,
        /// Port of every address.
        port: u16,
        /// Longest time between two look-ups.
        refresh: Duration,
        /// The server to ask; `None` for the system's.
        nameserver: Option<SocketAddr>,
    },
    /// From a service's EndpointSlices.
    Kubernetes(ServiceRule),
}
