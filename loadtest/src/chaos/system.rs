//! The system under test: sidecars with their store, and model gateways.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_proto::v1::{
    GetQuotaRequest, QueryUsageRequest, SetQuotaRequest, UsageDimension, admin_client::AdminClient,
};
use tonic::{
    Request, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use super::{
    CONSUMERS,
    accounts::Charged,
    gateway::{Calls, Gateway, MODEL, OUTPUT_TOKENS_MAX, consumer_name},
    proxy::Proxy,
    record::Record,
    store::{Store, Topology},
    table::Leases,
    truth::Doubt,
};
use crate::lab::{CLUSTER, LabError, Sidecar};

pub(super) const SIDECARS: usize = 2;
/// Gateway `i` prefers sidecar `i % SIDECARS`.
const GATEWAYS: [Calls; 3] = [Calls::Stream, Calls::Stream, Calls::Unary];
const ENDPOINTS: usize = 6;
/// Number of servers that sentinels watch: a primary and a replica.
const SERVERS_WATCHED: usize = 2;
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Longer than the default, so that a busy machine causes few decisions without the store.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_millis(100);
/// Longest time that a list waits for the store. Shorter than the default, because a list that waits delays the next.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// Balance that each consumer starts with.
const GRANTED: u64 = 1_000_000_000_000;
const TOKEN: &str = "chaos-administrators-token";

type Admin = AdminClient<InterceptedService<Channel, Authorize>>;
type Authorize = fn(Request<()>) -> Result<Request<()>, Status>;

#[derive(Debug)]
pub(super) struct System {
    pub(super) gateways: Vec<Gateway>,
    pub(super) sidecars: Vec<Sidecar>,
    /// One for each sidecar; with sentinels, one for each server; none in a cluster.
    pub(super) proxies: Vec<Proxy>,
    pub(super) store: Store,
    pub(super) record: Arc<Record>,
    pub(super) dir: PathBuf,
    /// First day of the run, for the ledger.
    day: String,
    /// Number of gateways that were started so far.
    pub(super) holders: u64,
    /// Number of sidecar processes that were started so far.
    pub(super) instances: u64,
    /// Start of the last outage of the store, and the time of the recovery.
    pub(super) last_outage: Option<(Instant, Instant)>,
    /// Time before which the replica had everything. Only with sentinels.
    pub(super) safe: Instant,
    /// What failovers of the sentinels may have lost. A connection that is dead without notice, or a machine that stalls,
    /// may cause one after a fault has ended.
    pub(super) failovers: Vec<Doubt>,
    /// Number of times that the table was checked under load.
    pub(super) samples: u64,
    /// What these checks have found.
    pub(super) contradictions: Vec<String>,
    seed: u64,
    _sockets: tempfile::TempDir,
}

impl System {
    pub(super) async fn start(topology: Topology, seed: u64, dir: &Path) -> Result<Self, LabError> {
        let sockets = tempfile::Builder::new().prefix("evenkeel-chaos-").tempdir();
        let sockets = sockets.map_err(LabError::io("creating a temporary directory"))?;
        let (mut proxies, mut sidecars) = (Vec::new(), Vec::new());
        if topology == Topology::Sentinel {
            for _ in 0..SERVERS_WATCHED {
                // The servers have no ports yet.
                proxies.push(Proxy::start(0).await.map_err(LabError::io("starting a proxy"))?);
            }
        }
        let store = Store::start(topology, dir, &proxies).await?;
        for index in 0..SIDECARS {
            let section = match (&store.sentinels, topology) {
                (Some(sentinels), _) => sentinels.section(),
                (None, Topology::Cluster) => {
                    let urls: Vec<String> =
                        store.nodes.iter().map(|node| format!("'{}'", node.url())).collect();
                    format!("type: redis, cluster: true, urls: [{}]", urls.join(", "))
                }
                (None, _) => {
                    let proxy = Proxy::start(store.nodes[store.primary].port()).await;
                    proxies.push(proxy.map_err(LabError::io("starting a proxy"))?);
                    format!("type: redis, url: 'redis://127.0.0.1:{}'", proxies[index].port())
                }
            };
            let config = |listen: &str| configuration(listen, &section);
            sidecars.push(Sidecar::start(index, dir, sockets.path(), config).await?);
        }
        let day = jiff::Timestamp::now().to_string()[..10].to_owned();
        let mut system = Self {
            gateways: Vec::new(),
            sidecars,
            proxies,
            store,
            record: Arc::new(Record::new(CONSUMERS)),
            dir: dir.to_owned(),
            day,
            holders: 0,
            instances: SIDECARS as u64,
            last_outage: None,
            safe: Instant::now(),
            failovers: Vec::new(),
            samples: 0,
            contradictions: Vec::new(),
            seed,
            _sockets: sockets,
        };
        for consumer in 0..CONSUMERS {
            system.grant(consumer).await?;
        }
        for index in 0..GATEWAYS.len() {
            let gateway = system.new_gateway(index)?;
            system.gateways.push(gateway);
        }
        system.clean_up(None).await?;
        Ok(system)
    }

    /// Starts a gateway under a new name at this place.
    pub(super) fn new_gateway(&mut self, index: usize) -> Result<Gateway, LabError> {
        self.holders += 1;
        let holder = format!("gateway-{index}-{}", self.holders);
        let urls = self.sidecars.iter().filter_map(Sidecar::grpc_url).collect();
        let seed = self.seed.wrapping_mul(1000).wrapping_add(self.holders);
        Gateway::start(holder, GATEWAYS[index], urls, index % SIDECARS, seed, Arc::clone(&self.record))
    }

    /// Returns the leases of all gateways.
    pub(super) fn live(&self) -> Leases {
        let of = |gateway: &Gateway| {
            let holder = gateway.holder.clone();
            let leases = gateway.leases().into_iter();
            leases.map(move |(lease, live)| ((holder.clone(), lease), live.endpoint)).collect::<Vec<_>>()
        };
        self.gateways.iter().flat_map(of).collect()
    }

    /// Returns what is not as it should be without a fault: sidecars without the store, gateways without a sidecar.
    pub(super) async fn out_of_order(&self) -> Option<String> {
        for sidecar in &self.sidecars {
            let metrics = sidecar.metrics().await.unwrap_or_default();
            let mut up = metrics.lines().filter(|line| line.starts_with("evenkeel_store_up")).peekable();
            if up.peek().is_none() || up.any(|line| !line.ends_with(" 1")) {
                return Some(format!("{} does not use the store", sidecar.process().name()));
            }
        }
        let lost = self.gateways.iter().find(|gateway| gateway.state().connected.is_none());
        if let Some(gateway) = lost {
            return Some(format!("{} has no sidecar", gateway.holder));
        }
        self.left_behind().await
    }

    /// Returns the value of a metric without labels.
    pub(super) async fn metric(&self, sidecar: usize, name: &str) -> Option<f64> {
        let metrics = self.sidecars[sidecar].metrics().await.ok()?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok())
    }

    async fn grant(&self, consumer: usize) -> Result<(), LabError> {
        let amount = Some(GRANTED);
        let request = SetQuotaRequest { consumer: consumer_name(consumer), amount, ..Default::default() };
        self.admin().await?.set_quota(request).await.map_err(|s| answer("SetQuota", &s))?;
        Ok(())
    }

    /// Returns what a consumer was charged.
    pub(super) async fn charged(&self, consumer: usize) -> Result<Charged, LabError> {
        let mut admin = self.admin().await?;
        let name = consumer_name(consumer);
        let request = GetQuotaRequest { consumer: name.clone(), ..GetQuotaRequest::default() };
        let quota = admin.get_quota(request).await.map_err(|s| answer("GetQuota", &s))?.into_inner();
        let request = QueryUsageRequest {
            from: self.day.clone(),
            by: vec![UsageDimension::Consumer.into()],
            consumer: name,
            ..QueryUsageRequest::default()
        };
        let usage = admin.query_usage(request).await.map_err(|s| answer("QueryUsage", &s))?.into_inner();
        Ok(Charged {
            spent: GRANTED.saturating_sub(quota.balance),
            used: quota.used,
            reserved: quota.reserved,
            entries: usage.total.map_or(0, |total| total.requests),
        })
    }

    async fn admin(&self) -> Result<Admin, LabError> {
        let failed = |what: String| LabError::Response { what };
        let url = self.sidecars[0].grpc_url().ok_or_else(|| failed("no gRPC over TCP".into()))?;
        let endpoint = Endpoint::from_shared(url).map_err(|error| failed(error.to_string()))?;
        let channel = endpoint.connect().await.map_err(|error| failed(error.to_string()))?;
        Ok(AdminClient::with_interceptor(channel, authorize as Authorize))
    }

    /// Returns the resident memory of each sidecar in bytes.
    pub(super) fn resident(&self) -> Vec<u64> {
        let of = |sidecar: &Sidecar| {
            let pid = sidecar.process().pid()?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            kib.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        self.sidecars.iter().map(|sidecar| of(sidecar).unwrap_or(0)).collect()
    }

    /// Kills a sidecar. Returns when.
    pub(super) fn kill_sidecar(&mut self, index: usize) -> Result<Instant, LabError> {
        self.sidecars[index].kill9()?;
        Ok(Instant::now())
    }

    pub(super) async fn restart_sidecar(&mut self, index: usize) -> Result<(), LabError> {
        self.instances += 1;
        self.sidecars[index].restart().await
    }
}

fn answer(call: &str, status: &Status) -> LabError {
    LabError::Response { what: format!("{call}: {status}") }
}

#[allow(clippy::unnecessary_wraps, clippy::result_large_err)]
fn authorize(mut request: Request<()>) -> Result<Request<()>, Status> {
    let value = format!("Bearer {TOKEN}").parse().map_err(|_| Status::internal("the token is invalid"))?;
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

/// Returns the configuration of a sidecar. No limit refuses anything, so that every request is counted and charged.
fn configuration(listen: &str, store: &str) -> String {
    let endpoints: Vec<String> = (1..=ENDPOINTS).map(|i| format!("{{address: '10.0.0.{i}:8000'}}")).collect();
    format!(
        "{listen}
keep_alive_interval: {}ms
store: {{{store}, timeout: {}ms, connect_timeout: {}ms}}
admin: {{tokens: [{{name: chaos, token: {TOKEN}}}]}}
limits:
- {{name: at-once, counts: requests, amount: 1000000, algorithm: concurrency, key: [consumer]}}
- {{name: tokens, counts: tokens, amount: {GRANTED}, per: 1h, key: [consumer]}}
quotas:
- {{name: credit, counts: tokens, kind: prepaid, reserve_margin: 1}}
models:
- {{model: {MODEL}, output_tokens: {OUTPUT_TOKENS_MAX}, bytes_per_token: 4}}
pools:
- {{cluster: {CLUSTER}, policy: least_work, prefix_cache: {{}}, endpoints: [{}]}}
",
        INTERVAL.as_millis(),
        STORE_TIMEOUT.as_millis(),
        CONNECT_TIMEOUT.as_millis(),
        endpoints.join(", ")
    )
}
