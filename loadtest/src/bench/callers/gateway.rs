//! Callers of Admit and Settle.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use evenkeel_proto::{
    HolderClient,
    v1::{AdmitRequest, HeldPool, KeepAliveRequest, Outcome, Pool, SettleRequest, admit_response::Answer},
};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::{super::recorder::Recorder, limited_requests};
use crate::lab::CLUSTER;

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(500);

/// Returns the pool that every call uses.
pub(super) fn pool() -> Pool {
    Pool { route: String::new(), cluster: CLUSTER.into() }
}

/// Returns an Admit as a gateway sends it.
pub(crate) fn admit_request(holder: &str, lease: u64) -> AdmitRequest {
    AdmitRequest {
        pool: Some(pool()),
        holder: holder.into(),
        lease,
        model: "mock".into(),
        prompt_bytes: 4000,
        ..AdmitRequest::default()
    }
}

/// Returns the Settle of the same request.
pub(crate) fn settle_request(holder: &str, lease: u64) -> SettleRequest {
    SettleRequest {
        pool: Some(pool()),
        holder: holder.into(),
        lease,
        outcome: Outcome::Success.into(),
        status: 200,
        first_token_ms: 120,
        total_ms: 4000,
        streamed: true,
        model: "mock".into(),
        ..SettleRequest::default()
    }
}

/// Spawns one caller per recorder. The callers share a connection and a holder id, like the requests of one gateway
/// worker.
pub(crate) fn spawn(
    client: &HolderClient<Channel>,
    connection: usize,
    limited: bool,
    recorders: impl Iterator<Item = Rc<Recorder>>,
) -> Vec<JoinHandle<()>> {
    let holder = format!("bench-{}-{connection}-{}", std::process::id(), rand::random::<u32>());
    let last_lease = Rc::new(Cell::new(0u64));
    let mut tasks = Vec::new();
    for recorder in recorders {
        if tasks.is_empty() {
            let keep_alive = keep_alive(client.clone(), holder.clone(), Rc::clone(&recorder));
            tasks.push(tokio::task::spawn_local(keep_alive));
        }
        let caller = call(client.clone(), holder.clone(), Rc::clone(&last_lease), limited, recorder);
        tasks.push(tokio::task::spawn_local(caller));
    }
    tasks
}

async fn call(
    mut client: HolderClient<Channel>,
    holder: String,
    last_lease: Rc<Cell<u64>>,
    limited: bool,
    recorder: Rc<Recorder>,
) {
    while !recorder.is_stopped() {
        let lease = last_lease.get() + 1;
        last_lease.set(lease);
        let (admit, mut settle) = (admit_request(&holder, lease), settle_request(&holder, lease));
        let admit = if limited { limited_requests::with_consumer(admit) } else { admit };
        let start = Instant::now();
        let admitted = match client.admit(admit).await.map(|response| response.into_inner().answer) {
            Ok(Some(Answer::Admitted(admitted))) => {
                settle.ticket = admitted.ticket;
                !admitted.endpoint.is_empty()
            }
            _ => false,
        };
        recorder.record(start, true, admitted);
        let settle = if limited { limited_requests::with_usage(settle) } else { settle };
        let start = Instant::now();
        let settled = client.settle(settle).await;
        recorder.record(start, false, settled.is_ok_and(|response| response.into_inner().released));
    }
}

async fn keep_alive(mut client: HolderClient<Channel>, holder: String, recorder: Rc<Recorder>) {
    while !recorder.is_stopped() {
        // An empty list with `issued_through` 0 changes no lease; it only keeps the holder alive.
        let held = HeldPool { pool: Some(pool()), ..HeldPool::default() };
        let request = KeepAliveRequest {
            holder: holder.clone(),
            issued_through: 0,
            pools: vec![held],
            unanswered: None,
        };
        let _ = client.keep_alive(request).await;
        tokio::time::sleep(KEEP_ALIVE_INTERVAL).await;
    }
}
