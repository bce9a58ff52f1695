//! Configures and starts a lab.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::AtomicU32,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Envoy, Lab, LabError, OVERRIDE_HOST_HEADER, Policy, Redis, Sidecar,
    envoy_config::{EnvoyConfig, Plugin},
    paths,
};
use crate::{
    engine::EngineParams,
    mock::{Fleet, FleetConfig},
};

/// Configuration of a lab. The doc of each setter has the default in parentheses.
#[derive(Clone, Debug)]
#[must_use]
pub struct LabBuilder {
    hosts: usize,
    endpoints: Option<Vec<SocketAddr>>,
    envoys: usize,
    sidecars: usize,
    redis: bool,
    plugin: bool,
    policies: Vec<Policy>,
    engine: EngineParams,
    time_scale: f64,
    token_batch: u32,
    concurrency: usize,
    keep_alive_ms: u64,
    store_timeout_ms: Option<u64>,
    pool_yaml: String,
    sidecar_yaml: String,
    listen_yaml: String,
    plugin_config: Value,
    dir: Option<PathBuf>,
}

impl Default for LabBuilder {
    fn default() -> Self {
        Self {
            hosts: 2,
            endpoints: None,
            envoys: 1,
            sidecars: 0,
            redis: false,
            plugin: true,
            policies: Policy::BY_REQUESTS.to_vec(),
            engine: EngineParams::default(),
            time_scale: 1.0,
            token_batch: 1,
            concurrency: 1,
            keep_alive_ms: 1000,
            store_timeout_ms: None,
            pool_yaml: String::new(),
            sidecar_yaml: String::new(),
            listen_yaml: String::new(),
            plugin_config: json!({
                "sidecar": {"cluster": "evenkeel"},
                "deadline_ms": 50,
                "on_error": "open",
                "apply": {"mode": "override_host", "header": OVERRIDE_HOST_HEADER},
            }),
            dir: None,
        }
    }
}

impl LabBuilder {
    /// Sets the number of mock hosts (2).
    pub fn hosts(mut self, hosts: usize) -> Self {
        self.hosts = hosts;
        self
    }

    /// Sets the endpoints of the sidecars' pool (the mock hosts).
    pub fn endpoints(mut self, endpoints: Vec<SocketAddr>) -> Self {
        self.endpoints = Some(endpoints);
        self
    }

    /// Sets the number of gateways (1).
    pub fn envoys(mut self, envoys: usize) -> Self {
        self.envoys = envoys;
        self
    }

    /// Sets the number of sidecars (0). Gateway `i` calls sidecar `i % sidecars`. Without sidecars there is no listener
    /// for Evenkeel's policies.
    pub fn sidecars(mut self, sidecars: usize) -> Self {
        self.sidecars = sidecars;
        self
    }

    /// Starts a Redis as the sidecars' store. Otherwise each sidecar has a separate store in memory.
    pub fn redis(mut self) -> Self {
        self.redis = true;
        self
    }

    /// Sets the policies that each gateway has a listener for ([`Policy::BY_REQUESTS`]). The sidecars have the pool
    /// [`CLUSTER`](super::CLUSTER), and a pool for each other policy of Evenkeel ([`Policy::pool_yaml`]).
    pub fn policies(mut self, policies: impl IntoIterator<Item = Policy>) -> Self {
        self.policies = policies.into_iter().collect();
        self
    }

    /// Starts the gateways without the plugin, for tests that call the sidecars themselves.
    pub fn without_plugin(mut self) -> Self {
        self.plugin = false;
        self
    }

    /// Sets the engine of every mock host.
    pub fn engine(mut self, engine: EngineParams) -> Self {
        self.engine = engine;
        self
    }

    /// Sets the number of virtual seconds of the mock hosts per wall second (1).
    pub fn time_scale(mut self, time_scale: f64) -> Self {
        self.time_scale = time_scale;
        self
    }

    /// Sets the number of tokens per SSE event (1).
    pub fn token_batch(mut self, token_batch: u32) -> Self {
        self.token_batch = token_batch;
        self
    }

    /// Sets the number of worker threads of each Envoy (1).
    pub fn envoy_concurrency(mut self, workers: usize) -> Self {
        self.concurrency = workers;
        self
    }

    /// Sets the sidecars' `keep_alive_interval` (1 s).
    pub fn keep_alive_interval(mut self, interval: Duration) -> Self {
        self.keep_alive_ms = interval.as_millis() as u64;
        self
    }

    /// Sets the sidecars' `store.timeout` (the sidecar's default). It applies only with [`Self::redis`].
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.store_timeout_ms = Some(timeout.as_millis() as u64);
        self
    }

    /// Adds `key: value` lines to the sidecars' pools.
    pub fn pool_yaml(mut self, yaml: &str) -> Self {
        self.pool_yaml = yaml.into();
        self
    }

    /// Adds top-level lines to the sidecars' configuration.
    pub fn sidecar_yaml(mut self, yaml: &str) -> Self {
        self.sidecar_yaml = yaml.into();
        self
    }

    /// Adds `key: value` pairs to the sidecars' section `listen`.
    pub fn listen_yaml(mut self, yaml: &str) -> Self {
        self.listen_yaml = format!(", {yaml}");
        self
    }

    /// Changes the plugin's configuration.
    pub fn plugin_config(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.plugin_config);
        self
    }

    /// Writes logs and configurations to `dir` instead of a temporary directory.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Starts all processes and waits until they serve.
    pub async fn start(self) -> Result<Lab, LabError> {
        if self.hosts == 0 {
            return Err(LabError::Invalid("a lab needs at least one host"));
        }
        let temp = tempfile::Builder::new()
            .prefix("evenkeel-lab-")
            .tempdir()
            .map_err(LabError::io("creating a temporary directory"))?;
        let dir = self.dir.clone().unwrap_or_else(|| temp.path().to_owned());
        fs::create_dir_all(&dir).map_err(LabError::io(format!("creating {}", dir.display())))?;
        let dir = dir.canonicalize().map_err(LabError::io(format!("finding {}", dir.display())))?;

        let fleet = FleetConfig::local(self.hosts, self.engine.clone(), self.time_scale, self.token_batch);
        let fleet = Fleet::start(&fleet).map_err(LabError::io("starting the mock hosts"))?;
        let hosts = fleet.addresses();
        let redis = if self.redis { Some(Redis::start(&dir).await?) } else { None };
        let endpoints = self.endpoints.as_ref().unwrap_or(&hosts);
        let mut sidecars = Vec::new();
        for index in 0..self.sidecars {
            let config = |listen: &str| self.sidecar_config(listen, endpoints, redis.as_ref());
            sidecars.push(Sidecar::start(index, &dir, temp.path(), config).await?);
        }
        let envoys = self.start_envoys(&dir, &hosts, &sidecars).await?;
        Ok(Lab { envoys, sidecars, redis, fleet, dir, replays: AtomicU32::new(0), _temp: temp })
    }

    async fn start_envoys(
        &self,
        dir: &Path,
        hosts: &[SocketAddr],
        sidecars: &[Sidecar],
    ) -> Result<Vec<Envoy>, LabError> {
        let with_plugin = self.plugin && !sidecars.is_empty() && self.envoys > 0;
        let module = if with_plugin { Some(paths::plugin()?) } else { None };
        let policies: Vec<Policy> =
            self.policies.iter().copied().filter(|policy| with_plugin || !policy.is_evenkeel()).collect();
        let mut envoys = Vec::new();
        for index in 0..self.envoys {
            let plugin = module.clone().map(|module| Plugin {
                module,
                config: self.plugin_config.clone(),
                sidecar: sidecars[index % sidecars.len()].socket().to_owned(),
            });
            let describe = |admin_port, listeners: &_| EnvoyConfig {
                admin_port,
                listeners: Clone::clone(listeners),
                hosts: hosts.to_vec(),
                plugin,
            };
            envoys.push(Envoy::start(index, dir, self.concurrency, &policies, describe).await?);
        }
        // The Envoys start in parallel; only the waits are sequential.
        for envoy in &mut envoys {
            envoy.wait_ready().await?;
        }
        Ok(envoys)
    }

    fn sidecar_config(&self, listen: &str, endpoints: &[SocketAddr], redis: Option<&Redis>) -> String {
        let timeout = self.store_timeout_ms.map(|ms| format!(", timeout: {ms}ms")).unwrap_or_default();
        let store = redis.map_or("{type: memory}".to_owned(), |redis| {
            format!("{{type: redis, url: \"{}\"{timeout}}}", redis.url())
        });
        let listen = format!("{}{}}}", listen.trim_end_matches('}'), self.listen_yaml);
        let mut yaml = format!("{listen}\nkeep_alive_interval: {}ms\nstore: {store}\n", self.keep_alive_ms);
        if !self.sidecar_yaml.is_empty() {
            yaml.push_str(self.sidecar_yaml.trim_end());
            yaml.push('\n');
        }
        yaml.push_str("pools:\n");
        let pools: BTreeSet<Policy> =
            self.policies.iter().copied().chain([Policy::EvenkeelLeastRequest]).collect();
        for policy in pools {
            if let Some(lines) = policy.pool_yaml() {
                yaml.push_str(&self.pool(policy.cluster(), lines, endpoints));
            }
        }
        yaml
    }

    /// Returns an item of the list of pools with these lines and those of all pools, which replace them.
    fn pool(&self, cluster: &str, lines: &str, endpoints: &[SocketAddr]) -> String {
        let key = |line: &str| line.split(':').next().map(str::to_owned);
        let is_replaced = |line: &&str| self.pool_yaml.lines().any(|other| key(other) == key(line));
        let mut yaml = format!("  - cluster: {cluster}\n");
        for line in lines.lines().filter(|line| !is_replaced(line)).chain(self.pool_yaml.lines()) {
            yaml.push_str(&format!("    {line}\n"));
        }
        yaml.push_str("    endpoints:\n");
        for endpoint in endpoints {
            yaml.push_str(&format!("      - {{address: \"{endpoint}\"}}\n"));
        }
        yaml
    }
}
