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
    /// The prefix caches of the endpoints. `None` if the choice does not consider them.
    pub prefix_cache: Option<PrefixCache>,
    /// Whether the requests of a session stay together.
    pub session_affinity: Option<SessionAffinity>,
    pub on_store_failure: OnStoreFailure,
    /// `Retry-After` of the response when every endpoint is at its cap.
    pub full_retry_after: Duration,
    /// Whether to share the table of Higress's `ai-load-balancer`.
    pub higress_table: bool,
}

impl PoolRule {
    /// Returns whether the choice of an endpoint considers what was placed before.
    #[must_use]
    pub fn considers_placements(&self) -> bool {
        self.prefix_cache.is_some() || self.session_affinity.is_some()
    }
}

/// The prefix caches of a pool's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixCache {
    /// Tokens that the cache of an endpoint holds, as far as the configuration knows.
    pub tokens: u64,
    /// Whether only requests of the same consumer share prefixes.
    pub per_consumer: bool,
    /// Maximum number of prefixes that the sidecar remembers.
    pub entries_max: usize,
}

impl Default for PrefixCache {
    fn default() -> Self {
        Self { tokens: 1_000_000, per_consumer: false, entries_max: 262_144 }
    }
}

/// How the requests of a session stay together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAffinity {
    /// The endpoint of the session's latest request counts as having this many tokens of the prompt in its cache.
    Soft { tokens: u64 },
    /// The request goes to this endpoint while it gets requests and is below its cap.
    Hard,
}

/// How gateways divide prompts, to find common prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptBlocks {
    /// Size of a block of a prompt in bytes.
    pub bytes: u32,
    /// Maximum number of hashes that a gateway sends for a prompt.
    pub hashes_max: u32,
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
