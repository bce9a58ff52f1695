//! A lab: real Redis, sidecars and Envoys in front of mock hosts, all owned by one value.
//!
//! ```no_run
//! # async fn example() -> Result<(), evenkeel_loadtest::lab::LabError> {
//! use evenkeel_loadtest::lab::{Lab, Policy};
//!
//! let mut lab = Lab::builder().hosts(4).envoys(2).sidecars(2).redis().start().await?;
//! let url = lab.envoy(0).url(Policy::EvenkeelLeastRequest);
//! // … send requests to `url` …
//! lab.envoy(1).kill9()?;
//! lab.redis().flushall().await?;
//! lab.wait_idle(std::time::Duration::from_secs(5)).await?;
//! # Ok(()) }
//! ```
//!
//! Dropping the lab kills every process by its own process id. The lab never waits for a fixed time: it polls until a
//! process is ready or a deadline has passed.

pub mod bootstrap;
mod builder;
mod certificates;
mod custom_envoy;
mod envoy;
mod envoy_config;
mod error;
pub mod paths;
mod policy;
pub mod ports;
pub mod probe;
mod process;
mod prometheus;
mod redis;
mod sidecar;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

pub use builder::LabBuilder;
pub use certificates::write_certificates;
pub use custom_envoy::CustomEnvoy;
pub use envoy::Envoy;
pub use envoy_config::OVERRIDE_HOST_HEADER;
pub use error::LabError;
pub use policy::Policy;
pub use process::Process;
pub use prometheus::{Prometheus, Series};
pub use redis::Redis;
pub(crate) use redis::connect as connect_redis;
pub use sidecar::{Ready, Sidecar};

use crate::{
    mock::{Fleet, HostStats},
    wait::{self, WaitError},
};

/// Name of the upstream cluster, and of the sidecars' pool.
pub const CLUSTER: &str = "llm";
/// Name of the upstream cluster of [`Policy::EvenkeelLeastWork`], and of its pool.
pub const WORK_CLUSTER: &str = "llm-work";

/// The running processes and mock hosts. The fields are dropped in their order: gateways first, hosts last.
#[derive(Debug)]
pub struct Lab {
    envoys: Vec<Envoy>,
    sidecars: Vec<Sidecar>,
    redis: Option<Redis>,
    fleet: Fleet,
    dir: PathBuf,
    replays: AtomicU32,
    /// Directory of the sockets and, unless the caller set a directory, of logs and configurations. Removed on drop.
    _temp: tempfile::TempDir,
}

impl Lab {
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// Returns the number of replays so far, and counts one more.
    pub fn count_replay(&self) -> u32 {
        self.replays.fetch_add(1, Ordering::Relaxed)
    }

    /// # Panics
    /// If there is no such gateway.
    pub fn envoy(&mut self, index: usize) -> &mut Envoy {
        &mut self.envoys[index]
    }

    pub fn envoys(&self) -> &[Envoy] {
        &self.envoys
    }

    /// Returns a sidecar. Gateway `i` calls sidecar `i % sidecars`.
    ///
    /// # Panics
    /// If there is no such sidecar.
    pub fn sidecar(&mut self, index: usize) -> &mut Sidecar {
        &mut self.sidecars[index]
    }

    pub fn sidecars(&self) -> &[Sidecar] {
        &self.sidecars
    }

    /// # Panics
    /// If the lab was built without [`LabBuilder::redis`].
    #[allow(clippy::expect_used)]
    pub fn redis(&mut self) -> &mut Redis {
        self.redis.as_mut().expect("the lab was built without Redis")
    }

    pub fn has_redis(&self) -> bool {
        self.redis.is_some()
    }

    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Returns the addresses of the mock hosts.
    pub fn hosts(&self) -> Vec<SocketAddr> {
        self.fleet.addresses()
    }

    /// Returns the number of requests in flight on each host, as the hosts count them.
    pub fn mock_in_flight(&self) -> Vec<u64> {
        self.fleet.in_flight()
    }

    pub fn mock_stats(&self) -> Vec<HostStats> {
        self.fleet.stats()
    }

    /// Returns the base URLs of all gateways' listeners for `policy`.
    pub fn urls(&self, policy: Policy) -> Vec<String> {
        self.envoys.iter().map(|envoy| envoy.url(policy)).collect()
    }

    /// Returns the directory of logs and generated configurations.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the process ids with the kind of each process, for CPU accounting.
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        let envoys = self.envoys.iter().filter_map(|e| e.process().pid()).map(|pid| ("envoy", pid));
        let sidecars = self.sidecars.iter().filter_map(|s| s.process().pid()).map(|pid| ("sidecar", pid));
        let redis = self.redis.iter().filter_map(|r| r.process().pid()).map(|pid| ("redis", pid));
        envoys.chain(sidecars).chain(redis).collect()
    }

    /// Waits until no host has a request in flight.
    pub async fn wait_idle(&self, within: Duration) -> Result<(), WaitError> {
        let is_idle = async || self.mock_in_flight().iter().all(|n| *n == 0);
        wait::until("the hosts to have no request in flight", within, is_idle).await
    }
}
