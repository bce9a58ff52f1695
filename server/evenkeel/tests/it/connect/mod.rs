//! Streams of gateway workers.

mod bounds;
mod cuts;
mod frozen;
mod identity;
mod order;
mod properties;
mod shutdown;
mod store_away;
mod unary;

use evenkeel_proto::v1 as pb;

use crate::support::{
    admin,
    requests::admit_for,
    sidecar::Sidecar,
    worker::{TOKENS, Worker},
};

/// A limit that counts the tokens of each worker.
const CONFIG: &str = "
keep_alive_interval: 60s
limits:
  - {name: tokens, counts: tokens, amount: 1G, per: 1d, key: [consumer]}
";

/// Returns the leases of a holder in the table, with their endpoints.
async fn leases(sidecar: &Sidecar, cluster: &str, holder: &str) -> Vec<(u64, String)> {
    let request = pb::ListLeasesRequest {
        cluster: cluster.into(),
        holder: holder.into(),
        page_size: 1000,
        ..pb::ListLeasesRequest::default()
    };
    let leases = sidecar.inspect.clone().list_leases(request).await.unwrap().into_inner().leases;
    leases.into_iter().map(|lease| (lease.lease, lease.endpoint)).collect()
}

/// Returns the tokens that the limit counts for a worker: used, and reserved.
async fn tokens(sidecar: &Sidecar, worker: &str) -> (u64, u64) {
    let request = pb::ExplainRequest { request: Some(admit_for(worker, "", 0)) };
    let explained = admin::client(sidecar).await.explain(request).await.unwrap().into_inner();
    (explained.limits[0].used, explained.limits[0].reserved)
}

/// Asserts that the table equals what the worker has in flight, and that each request was charged once.
async fn assert_exact(sidecar: &Sidecar, cluster: &str, worker: &Worker) {
    let live: Vec<_> = worker.live.iter().map(|(lease, (endpoint, _))| (*lease, endpoint.clone())).collect();
    assert_eq!(leases(sidecar, cluster, &worker.holder).await, live);
    assert_eq!(sidecar.pool(cluster).await.in_flight, live.len() as u64);
    let (used, reserved) = tokens(sidecar, &worker.holder).await;
    assert_eq!(used - reserved, worker.ended * TOKENS, "tokens of requests that have ended");
}
