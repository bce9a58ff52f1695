//! Drains at sidecars that share a Redis, under load and while Redis is down.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_proto::v1::{self as pb, admit_response::Answer};
use serde_json::{Value, json};
use tonic::Code;

use super::{POOLS, drain_of, undrain_of};
use crate::support::{
    admin::{TOKEN, by, client, with_admin},
    eventually, proxy,
    redis::Redis,
    requests::pool,
    sidecar::Sidecar,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Returns whether the last sweep of a sidecar shows an endpoint as drained.
async fn shows_drained(sidecar: &Sidecar, cluster: &str, endpoint: &str) -> bool {
    let state = sidecar.pool(cluster).await;
    state.endpoints.iter().any(|e| e.address == endpoint && e.drained)
}

async fn until_drained(sidecar: &Sidecar, cluster: &str, endpoint: &str, drained: bool) {
    eventually(PATIENCE, "the other sidecar follows", async || {
        let now = shows_drained(sidecar, cluster, endpoint).await;
        if now == drained { Ok(()) } else { Err(format!("drained: {now}")) }
    })
    .await;
}

async fn shows_in_flight(sidecar: &Sidecar, endpoint: &str) -> u64 {
    let state = sidecar.pool("llm").await;
    state.endpoints.iter().filter(|e| e.address == endpoint).map(|e| e.in_flight).sum()
}

/// Continuous requests. Each worker holds one lease at a time.
struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<parking_lot::Mutex<BTreeMap<String, u64>>>,
    workers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(sidecar: &Arc<Sidecar>, holder: &str, workers: usize) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let next = Arc::new(AtomicU64::new(1));
        let workers = (0..workers).map(|_| {
            let (stop, seen, next) = (Arc::clone(&stop), Arc::clone(&seen), Arc::clone(&next));
            let (sidecar, holder) = (Arc::clone(sidecar), holder.to_owned());
            tokio::spawn(async move {
                let seen: Arc<parking_lot::Mutex<BTreeMap<String, u64>>> = seen;
                while !stop.load(Ordering::Relaxed) {
                    let lease = next.fetch_add(1, Ordering::Relaxed);
                    let endpoint = sidecar.lease("llm", &holder, lease).await;
                    *seen.lock().entry(endpoint.to_string()).or_default() += 1;
                    sidecar.settle("llm", &holder, lease).await;
                }
            })
        });
        let workers = workers.collect();
        Self { stop, seen, workers }
    }

    /// Returns the admissions by endpoint since the last call, and resets their counts.
    fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.seen.lock())
    }

    /// Waits for `more` admissions, and returns these by endpoint.
    async fn after(&self, more: u64) -> BTreeMap<String, u64> {
        self.take();
        eventually(PATIENCE, "requests are admitted", async || {
            let sum: u64 = self.seen.lock().values().sum();
            if sum >= more { Ok(()) } else { Err(sum.to_string()) }
        })
        .await;
        self.take()
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_at_one_sidecar_applies_at_all_under_load() {
    let redis = Redis::start();
    // A drain reaches the other sidecar within a quarter of this interval, or on a busy machine within the whole
    // interval.
    let interval = Duration::from_secs(12);
    let yaml = with_admin(&(redis.store(", timeout: 5s") + POOLS)).replace("500ms", "12s");
    let (here, there) = (Arc::new(Sidecar::start(&yaml).await), Arc::new(Sidecar::start(&yaml).await));
    // One of these requests is in flight on the endpoint when the endpoint is drained.
    let mut running = None;
    for lease in 1..=3 {
        if &*there.lease("llm", "long", lease).await == "m-1:80" {
            running = Some(lease);
        }
    }
    let running = running.expect("three requests are on three endpoints");
    let list = [1, 2, 3].map(|lease| (lease, None));
    let alive = there.alive("llm", "long", &list);
    let loads = [Load::start(&here, "g-1", 4), Load::start(&there, "g-2", 4)];
    for load in &loads {
        assert!(load.after(100).await.contains_key("m-1:80"));
    }
    let mut admin = client(&here).await;
    let drained_at = std::time::Instant::now();
    let drained =
        admin.drain_endpoint(by(TOKEN, drain_of("m-1:80", Some("llm")))).await.unwrap().into_inner();
    assert_eq!((&*drained.who, &*drained.note, drained.pool), ("ops", "a note", Some(pool("llm"))));
    // At this sidecar the drain takes effect at once, except for requests that are already being admitted.
    let applies_here = async {
        loads[0].after(8).await;
        assert!(!loads[0].after(100).await.contains_key("m-1:80"), "at the sidecar that drained it");
    };
    let reaches_there = async {
        until_drained(&there, "llm", "m-1:80", true).await;
        drained_at.elapsed()
    };
    let ((), took) = futures::future::join(applies_here, reaches_there).await;
    assert!(took < interval, "{took:?}");
    loads[1].after(8).await;
    let seen = loads[1].after(300).await;
    assert!(!seen.contains_key("m-1:80"), "at the other: {seen:?}");
    assert!(seen.contains_key("m-0:80") && seen.contains_key("m-2:80"), "the others carry on: {seen:?}");
    // A request in flight is counted until it ends, and settles as usual.
    there.keep_alive("llm", "long", 3, &list).await;
    let state = there.pool("llm").await;
    let on = |endpoint: &str| state.endpoints.iter().find(|e| e.address == endpoint).unwrap().clone();
    assert_eq!((on("m-1:80").in_flight, on("m-1:80").drained, on("m-1:80").listed), (1, true, true));
    drop(alive);
    assert!(here.settle("llm", "long", running).await);
    eventually(PATIENCE, "it has drained", async || {
        let left = shows_in_flight(&there, "m-1:80").await;
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    // The other sidecar ends the drain.
    client(&there).await.undrain_endpoint(by(TOKEN, undrain_of("m-1:80", Some("llm")))).await.unwrap();
    until_drained(&here, "llm", "m-1:80", false).await;
    for load in &loads {
        assert!(load.after(100).await.contains_key("m-1:80"), "it gets requests again");
    }
    for load in loads {
        load.end().await;
    }
}

#[tokio::test]
async fn a_drain_holds_while_the_store_is_down() {
    let redis = Redis::start();
    let proxy = proxy::Proxy::start(redis.port).await;
    let sidecar = Sidecar::start(&with_admin(&(proxy.store(", timeout: 400ms") + POOLS))).await;
    let mut admin = client(&sidecar).await;
    admin.drain_endpoint(by(TOKEN, drain_of("m-0:80", None))).await.unwrap();
    proxy.set(proxy::Mode::Refuse);
    eventually(PATIENCE, "the store is down", async || {
        let up = sidecar.get("/readyz").await.1;
        if up.contains(r#""store_up":false"#) {
            Ok(())
        } else {
            drop(sidecar.admit("llm", "x", 1).await);
            Err(up)
        }
    })
    .await;
    let refused = admin.drain_endpoint(by(TOKEN, drain_of("m-1:80", None))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().starts_with("draining an endpoint: store"), "{refused}");
    let refused = admin.undrain_endpoint(by(TOKEN, undrain_of("m-0:80", None))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    for lease in 10..40 {
        match sidecar.admit("llm", "h", lease).await {
            Answer::Admitted(admitted) => {
                assert_eq!(admitted.basis(), pb::Basis::Local);
                assert_ne!(admitted.endpoint, "m-0:80");
            }
            other => panic!("not admitted: {other:?}"),
        }
    }
    proxy.set(proxy::Mode::Pass);
    eventually(PATIENCE, "the store is back", async || {
        let undrained = admin.clone().undrain_endpoint(by(TOKEN, undrain_of("m-0:80", None))).await;
        undrained.map(drop).map_err(|e| e.to_string())
    })
    .await;
    until_drained(&sidecar, "llm", "m-0:80", false).await;
    // A store that has lost its data has no drains.
    admin.drain_endpoint(by(TOKEN, drain_of("m-0:80", None))).await.unwrap();
    redis.command(&["FLUSHALL"]);
    until_drained(&sidecar, "llm", "m-0:80", false).await;
}

#[tokio::test]
async fn a_denial_says_that_all_endpoints_are_drained() {
    let sidecar = Sidecar::start(&with_admin(POOLS)).await;
    let mut admin = client(&sidecar).await;
    for endpoint in ["m-0:80", "m-1:80", "m-2:80"] {
        admin.drain_endpoint(by(TOKEN, drain_of(endpoint, None))).await.unwrap();
    }
    let Answer::Denied(denied) = sidecar.admit("llm", "h", 1).await else { panic!("admitted") };
    assert_eq!((denied.status, denied.reason()), (503, pb::Reason::NoEndpoints));
    let body: Value = serde_json::from_slice(&denied.body).unwrap();
    assert_eq!(body["error"]["code"], json!("no_endpoints"));
    assert!(body["error"]["message"].as_str().unwrap().contains("all endpoints of the pool are drained"));
    assert_eq!(&*sidecar.lease("other", "h", 2).await, "o-1:80", "m-0 is drained in every pool");
    let all = admin.list_drains(pb::ListDrainsRequest {}).await.unwrap().into_inner().drains;
    assert_eq!(all.iter().map(|d| &*d.endpoint).collect::<Vec<_>>(), ["m-0:80", "m-1:80", "m-2:80"]);
    admin.undrain_endpoint(by(TOKEN, undrain_of("m-2:80", None))).await.unwrap();
    assert_eq!(&*sidecar.lease("llm", "h", 3).await, "m-2:80");
    let metrics = sidecar.get("/metrics").await.1;
    assert!(metrics.contains("evenkeel_change_log_failures_total 0"), "{metrics}");
}
