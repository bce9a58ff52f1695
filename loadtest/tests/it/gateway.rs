//! The whole chain as tests look at it: requests through a gateway, the shared table by any sidecar, and the
//! mock hosts' own count beside it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use evenkeel_loadtest::{
    engine::EngineParams,
    lab::{CLUSTER, Lab, Policy},
    mock::HOST,
};
use evenkeel_proto::v1::{self as pb, inspect_client::InspectClient};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};

use crate::support;

/// More tokens than any test waits for.
pub(crate) const ENDLESS: u32 = 1_000_000;

/// An engine without queues, for tests that count and do not time.
pub(crate) fn roomy() -> EngineParams {
    EngineParams {
        slots: 4096,
        base_ms: 10.0,
        per_seq_ms: 0.0,
        per_prefill_token_ms: 0.0,
        ..EngineParams::default()
    }
}

/// A response that is still streaming.
pub(crate) struct Stream {
    pub(crate) host: String,
    _response: http::Response<Incoming>,
}

/// Opens a stream through a gateway's listener and waits for its headers.
pub(crate) async fn open(client: &Client<HttpConnector, Full<Bytes>>, url: &str, output: u32) -> Stream {
    let request = support::chat(url, 10, output).body(support::streaming()).unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    Stream { host: response.headers()[HOST].to_str().unwrap().to_owned(), _response: response }
}

/// Opens `count` endless streams through one gateway.
pub(crate) async fn open_many(lab: &Lab, gateway: usize, count: usize) -> Vec<Stream> {
    let (client, url) = (support::client(), lab.envoys()[gateway].url(Policy::Evenkeel));
    futures::future::join_all((0..count).map(|_| open(&client, &url, ENDLESS))).await
}

/// Requests in flight per host by the hosts' own count.
pub(crate) fn by_hosts(lab: &Lab) -> BTreeMap<String, u64> {
    lab.hosts().iter().map(ToString::to_string).zip(lab.mock_in_flight()).collect()
}

/// Requests in flight per host by the table, asked of one sidecar.
pub(crate) async fn by_table(lab: &Lab, sidecar: usize) -> Result<BTreeMap<String, u64>, String> {
    let mut inspect = connect(lab, sidecar).await?;
    let request = pb::GetPoolRequest { pool: Some(pool()) };
    let state = inspect.get_pool(request).await.map_err(|e| e.to_string())?.into_inner();
    if !state.current {
        return Err("the table is not the shared one".into());
    }
    Ok(state.endpoints.into_iter().map(|e| (e.address, e.in_flight)).collect())
}

/// Leases by holder, asked of one sidecar.
pub(crate) async fn holders(lab: &Lab, sidecar: usize) -> Result<BTreeMap<String, u64>, String> {
    let mut inspect = connect(lab, sidecar).await?;
    let request = pb::ListHoldersRequest { pool: Some(pool()) };
    let holders = inspect.list_holders(request).await.map_err(|e| e.to_string())?.into_inner().holders;
    Ok(holders.into_iter().map(|h| (h.holder, h.leases)).collect())
}

fn pool() -> pb::Pool {
    pb::Pool { route: String::new(), cluster: CLUSTER.into() }
}

async fn connect(lab: &Lab, sidecar: usize) -> Result<InspectClient<tonic::transport::Channel>, String> {
    let url = lab.sidecars()[sidecar].grpc_url().ok_or("no gRPC over TCP")?;
    let endpoint = tonic::transport::Endpoint::from_shared(url).map_err(|e| e.to_string())?;
    Ok(InspectClient::new(endpoint.connect().await.map_err(|e| e.to_string())?))
}

/// Waits until a condition holds and returns how long that took; panics with what was seen last.
pub(crate) async fn within<F>(limit: Duration, what: &str, mut condition: impl FnMut() -> F) -> Duration
where
    F: Future<Output = Result<(), String>>,
{
    let start = Instant::now();
    loop {
        match condition().await {
            Ok(()) => return start.elapsed(),
            Err(last) if start.elapsed() > limit => panic!("not within {limit:?}: {what}; last seen: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Waits until the table equals the hosts' own count.
pub(crate) async fn exact(lab: &Lab, sidecar: usize, limit: Duration) -> Duration {
    within(limit, "the table equals the hosts' own count", || async {
        let (hosts, table) = (by_hosts(lab), by_table(lab, sidecar).await?);
        if table == hosts { Ok(()) } else { Err(format!("table {table:?}, hosts {hosts:?}")) }
    })
    .await
}

/// A counter of one sidecar's metrics.
pub(crate) async fn metric(lab: &Lab, sidecar: usize, name: &str) -> f64 {
    let text = lab.sidecars()[sidecar].metrics().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
    line.unwrap_or_else(|| panic!("no metric {name} in\n{text}")).parse().unwrap()
}

/// Short requests through all gateways, without pause, until stopped.
pub(crate) struct Churn {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    workers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Churn {
    /// `workers` at a time, spread over these gateways.
    pub(crate) fn start(lab: &Lab, gateways: &[usize], workers: usize) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = support::client();
        let worker = |i: usize| {
            let url = lab.envoys()[gateways[i % gateways.len()]].url(Policy::Evenkeel);
            let (stop, served, client) = (Arc::clone(&stop), Arc::clone(&served), client.clone());
            tokio::spawn(async move {
                let mut faults = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let request = support::chat(&url, 10, 3).body(support::streaming()).unwrap();
                    match client.request(request).await {
                        Ok(response) if response.status() == 200 => match support::text(response).await {
                            Ok(text) if text.contains("[DONE]") => {
                                served.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(text) => faults.push(format!("ended early: {text}")),
                            Err(error) => faults.push(error.to_string()),
                        },
                        Ok(response) => faults.push(response.status().to_string()),
                        Err(error) => faults.push(error.to_string()),
                    }
                }
                faults
            })
        };
        let workers = (0..workers).map(worker).collect();
        Self { stop, served, workers }
    }

    /// Waits until this many more requests were served.
    pub(crate) async fn serves(&self, more: u64) {
        let target = self.served.load(Ordering::Relaxed) + more;
        within(Duration::from_secs(20), "requests are served", || async {
            let served = self.served.load(Ordering::Relaxed);
            if served >= target { Ok(()) } else { Err(format!("{served} of {target}")) }
        })
        .await;
    }

    /// Ends it; every request must have been served.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            let faults = worker.await.unwrap();
            assert!(faults.is_empty(), "{} requests failed, such as {:?}", faults.len(), faults.first());
        }
    }
}

/// Looks at the table in Redis itself, without pause: no count may ever be negative.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(u64, Option<String>)>,
}

impl Watch {
    pub(crate) async fn start(lab: &mut Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (url, stopped) = (lab.redis().url(), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let client = redis::Client::open(url).unwrap();
            let (mut looks, mut connection) = (0, None);
            while !stopped.load(Ordering::Relaxed) {
                // Redis may be away at times.
                if connection.is_none() {
                    connection = client.get_multiplexed_async_connection().await.ok();
                }
                let Some(c) = &mut connection else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                let key = format!("ek2:{{|{CLUSTER}}}:in-flight");
                let counts = redis::cmd("HGETALL").arg(key).query_async::<BTreeMap<String, String>>(c).await;
                match counts {
                    Ok(counts) => {
                        looks += 1;
                        if counts.values().any(|n| n.starts_with('-')) {
                            return (looks, Some(format!("{counts:?}")));
                        }
                    }
                    Err(_) => connection = None,
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (looks, None)
        });
        Self { stop, task }
    }

    pub(crate) async fn never_negative(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (looks, negative) = self.task.await.unwrap();
        assert_eq!(negative, None, "a negative count");
        assert!(looks > 50, "only {looks} looks at the table");
    }
}
