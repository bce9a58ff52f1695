//! A laboratory: real Redis, sidecars and Envoys in front of mock hosts, all owned by whoever started it.
//!
//! ```no_run
//! # async fn example() -> Result<(), evenkeel_loadtest::lab::LabError> {
//! use evenkeel_loadtest::lab::{Lab, Policy};
//!
//! let mut lab = Lab::builder().hosts(4).envoys(2).sidecars(2).redis().start().await?;
//! let url = lab.envoy(0).url(Policy::Evenkeel);
//! // … send requests to `url` …
//! lab.envoy(1).kill9()?;
//! lab.redis().flushall().await?;
//! lab.wait_drained(std::time::Duration::from_secs(5)).await?;
//! # Ok(()) }
//! ```
//!
//! Every process is killed by its own process id when the lab is dropped. Nothing waits for a fixed time:
//! readiness is asked for until a deadline.

mod builder;
mod envoy;
mod envoy_config;
mod error;
pub mod paths;
pub mod ports;
mod process;
mod prometheus;
mod redis;
mod sidecar;
pub mod wait;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::mock::{Fleet, HostStats};

pub use builder::LabBuilder;
pub use envoy::Envoy;
pub use envoy_config::PICK_HEADER;
pub use error::LabError;
pub use process::Process;
pub use prometheus::{Prometheus, Sample};
pub use redis::Redis;
pub(crate) use redis::connect as connect_redis;
pub use sidecar::{Ready, Sidecar};

/// Name of the upstream cluster, and of the sidecars' pool.
pub const CLUSTER: &str = "llm";

/// How the host of a request is chosen. Each Envoy has one listener per policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Envoy's `ROUND_ROBIN`.
    EnvoyRoundRobin,
    /// Envoy's `RANDOM`.
    EnvoyRandom,
    /// Envoy's `LEAST_REQUEST` over its own requests: two random hosts, the one with fewer.
    EnvoyLeastRequest,
    /// The plugin asks its sidecar.
    Evenkeel,
    /// The client knows every request in flight and names the host itself.
    Ideal,
}

impl Policy {
    /// All, in the order in which reports list them.
    pub const ALL: [Self; 5] =
        [Self::EnvoyRoundRobin, Self::EnvoyRandom, Self::EnvoyLeastRequest, Self::Evenkeel, Self::Ideal];

    /// Name in reports, listeners and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::EnvoyLeastRequest => "envoy_least_request",
            Self::EnvoyRoundRobin => "envoy_round_robin",
            Self::EnvoyRandom => "envoy_random",
            Self::Evenkeel => "evenkeel",
            Self::Ideal => "ideal",
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Policy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| format!("no policy {name:?}; there are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Everything that runs. Fields drop in this order: gateways first, the store last.
#[derive(Debug)]
pub struct Lab {
    envoys: Vec<Envoy>,
    sidecars: Vec<Sidecar>,
    redis: Option<Redis>,
    fleet: Fleet,
    dir: PathBuf,
    /// Sockets and, unless the caller named a directory, logs. Removed on drop.
    _temp: tempfile::TempDir,
}

impl Lab {
    /// Describes a lab.
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// One gateway.
    ///
    /// # Panics
    /// When there is no such gateway.
    pub fn envoy(&mut self, index: usize) -> &mut Envoy {
        &mut self.envoys[index]
    }

    /// All gateways.
    pub fn envoys(&self) -> &[Envoy] {
        &self.envoys
    }

    /// One sidecar. Gateway `i` asks sidecar `i % sidecars`.
    ///
    /// # Panics
    /// When there is no such sidecar.
    pub fn sidecar(&mut self, index: usize) -> &mut Sidecar {
        &mut self.sidecars[index]
    }

    /// All sidecars.
    pub fn sidecars(&self) -> &[Sidecar] {
        &self.sidecars
    }

    /// The store.
    ///
    /// # Panics
    /// When the lab was built without [`LabBuilder::redis`].
    #[allow(clippy::expect_used)]
    pub fn redis(&mut self) -> &mut Redis {
        self.redis.as_mut().expect("the lab was built without Redis")
    }

    /// Whether there is a store.
    pub fn has_redis(&self) -> bool {
        self.redis.is_some()
    }

    /// The mock hosts.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Where the mock hosts listen.
    pub fn hosts(&self) -> Vec<SocketAddr> {
        self.fleet.addresses()
    }

    /// Requests in flight per host, by the hosts' own count.
    pub fn mock_in_flight(&self) -> Vec<u64> {
        self.fleet.in_flight()
    }

    /// Counts of each host.
    pub fn mock_stats(&self) -> Vec<HostStats> {
        self.fleet.stats()
    }

    /// Base URL of every gateway's listener for `policy`.
    pub fn urls(&self, policy: Policy) -> Vec<String> {
        self.envoys.iter().map(|envoy| envoy.url(policy)).collect()
    }

    /// Directory of logs and generated configurations.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Process ids by kind, for accounting of CPU time.
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        let envoys = self.envoys.iter().filter_map(|e| e.process().pid()).map(|pid| ("envoy", pid));
        let sidecars = self.sidecars.iter().filter_map(|s| s.process().pid()).map(|pid| ("sidecar", pid));
        let redis = self.redis.iter().filter_map(|r| r.process().pid()).map(|pid| ("redis", pid));
        envoys.chain(sidecars).chain(redis).collect()
    }

    /// Waits until no host has a request in flight.
    pub async fn wait_drained(&self, within: Duration) -> Result<(), LabError> {
        wait::until("the hosts to drain", within, async || self.mock_in_flight().iter().all(|n| *n == 0))
            .await
    }
}
