//! Draining endpoints and the account of changes: the contract of both stores, and real sidecars.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::Method;
use evenkeel::{
    domain::PoolId,
    store::{
        changes::{AdminChange, Changes},
        drains::{Drain, Drains},
        memory::{MemoryChanges, MemoryDrains},
    },
};
use evenkeel_proto::v1::{self as pb, admit_response::Answer};
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    admin::{CONFIG, TOKEN, by, client, http, set, with_admins},
    contract::{redis_options, redis_store},
    support::{
        eventually, proxy,
        redis::{Cluster, Redis},
        sidecar::{Sidecar, pool},
    },
};

const POOLS: &str = "
keep_alive_interval: 500ms
pools:
- {cluster: llm, endpoints: [{address: 'm-0:80'}, {address: 'm-1:80'}, {address: 'm-2:80'}]}
- {cluster: other, endpoints: [{address: 'm-0:80'}, {address: 'o-1:80'}]}
";
const PATIENCE: Duration = Duration::from_secs(20);

/// The stores under test.
struct Subject {
    drains: Arc<dyn Drains>,
    changes: Arc<dyn Changes>,
}

fn a_drain(endpoint: &str, pool: Option<PoolId>) -> Drain {
    Drain { endpoint: endpoint.into(), pool, note: "a|note".into(), who: "ops".into(), at_ms: 0 }
}

async fn drains_are_kept_apart_by_pool(s: &Subject) {
    let first = s.drains.drains_version().await.unwrap();
    assert_eq!(s.drains.drains().await.unwrap().drains, []);
    let pools = [None, PoolId::new("r", "c|1").ok(), PoolId::new("", "c|1").ok()];
    for pool in &pools {
        let put = s.drains.put_drain(&a_drain("m|0:80", pool.clone())).await.unwrap().unwrap();
        assert!(!put.before && put.at_ms > 1_600_000_000_000);
    }
    let again = Drain { note: String::new(), who: "night".into(), ..a_drain("m|0:80", None) };
    let put = s.drains.put_drain(&again).await.unwrap().unwrap();
    assert!(put.before);
    let list = s.drains.drains().await.unwrap();
    assert_eq!(list.version, s.drains.drains_version().await.unwrap());
    assert_ne!(list.version, first);
    let sorted = [pools[0].clone(), pools[2].clone(), pools[1].clone()];
    assert_eq!(list.drains.iter().map(|drain| drain.pool.clone()).collect::<Vec<_>>(), sorted);
    assert_eq!(list.drains[0], Drain { at_ms: put.at_ms, ..again });
    assert_eq!(list.drains[1].note, "a|note");
    for pool in &pools {
        assert!(s.drains.delete_drain("m|0:80", pool.as_ref()).await.unwrap());
        assert!(!s.drains.delete_drain("m|0:80", pool.as_ref()).await.unwrap());
    }
    let empty = s.drains.drains().await.unwrap();
    assert_eq!(empty.drains, []);
    assert_ne!(empty.version, list.version, "taking one away is a change too");
}

async fn drains_are_bounded(s: &Subject) {
    for from in (0..1000).step_by(100) {
        let put = (from..from + 100)
            .map(|i| async move { s.drains.put_drain(&a_drain(&format!("m-{i}:80"), None)).await });
        futures::future::join_all(put).await.into_iter().for_each(|put| assert!(put.unwrap().is_some()));
    }
    assert_eq!(s.drains.put_drain(&a_drain("m-1000:80", None)).await.unwrap(), None);
    assert!(s.drains.put_drain(&a_drain("m-7:80", None)).await.unwrap().unwrap().before);
    assert!(s.drains.delete_drain("m-7:80", None).await.unwrap());
    assert!(s.drains.put_drain(&a_drain("m-1000:80", None)).await.unwrap().is_some());
    assert_eq!(s.drains.drains().await.unwrap().drains.len(), 1000);
}

async fn changes_are_kept_once_newest_first_and_bounded(s: &Subject) {
    let change = |i: usize| AdminChange {
        at_ms: 0,
        who: "ops".into(),
        what: "quota.set".into(),
        target: format!("credit/{i}"),
        before: String::new(),
        after: "7".into(),
        note: "why".into(),
    };
    assert_eq!(s.changes.changes(10).await.unwrap(), []);
    for i in 0..1003 {
        s.changes.add_change(&format!("id-{i}"), &change(i)).await.unwrap();
        if i % 100 == 0 {
            s.changes.add_change(&format!("id-{i}"), &change(i)).await.unwrap();
        }
    }
    let all = s.changes.changes(5000).await.unwrap();
    assert_eq!(all.len(), 1000);
    for (i, kept) in all.iter().enumerate() {
        assert!(kept.at_ms > 1_600_000_000_000);
        assert_eq!(AdminChange { at_ms: 0, ..kept.clone() }, change(1002 - i));
    }
    assert_eq!(s.changes.changes(2).await.unwrap(), all[..2]);
    assert_eq!(s.changes.changes(0).await.unwrap(), []);
}

macro_rules! scenarios {
    ($($scenario:ident),* $(,)?) => {
        mod memory {
            use super::*;
            $(#[tokio::test]
            async fn $scenario() {
                let (drains, changes) = (Arc::<MemoryDrains>::default(), Arc::<MemoryChanges>::default());
                super::$scenario(&Subject { drains, changes }).await;
            })*
        }
        mod redis {
            use super::*;
            $(#[tokio::test]
            async fn $scenario() {
                let redis = Redis::start();
                let store = redis_store(&redis_options(vec![redis.url()], false, "p"), PATIENCE).await;
                super::$scenario(&Subject { drains: store.clone(), changes: store }).await;
            })*
        }
        mod cluster {
            use super::*;
            #[tokio::test]
            async fn every_scenario() {
                let cluster = Cluster::start();
                $({
                    let options = redis_options(cluster.urls(), true, stringify!($scenario));
                    let store = redis_store(&options, PATIENCE).await;
                    super::$scenario(&Subject { drains: store.clone(), changes: store }).await;
                })*
            }
        }
    };
}

/// Guards against an older release that knows of no drain because a newer one has written some in another layout.
#[tokio::test]
async fn a_drain_of_another_layout_hides_no_other() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), PATIENCE).await;
    for endpoint in ["m-0:80", "m-1:80"] {
        store.put_drain(&a_drain(endpoint, None)).await.unwrap().unwrap();
    }
    let key = "ek2:drains";
    let kept: i64 = ::redis::from_redis_value(redis.command(&["HLEN", key])).unwrap();
    assert_eq!(kept, 3, "two and a version");
    for (field, value) in [("||m-2:80", "not lines"), ("m-3:80", "7\nops\n"), ("||m-4:80", "soon\nops\n")] {
        redis.command(&["HSET", key, field, value]);
    }
    let list = store.drains().await.unwrap();
    let endpoints: Vec<_> = list.drains.iter().map(|drain| &*drain.endpoint).collect();
    assert_eq!(endpoints, ["m-0:80", "m-1:80"]);
    assert_eq!(list.version, store.drains_version().await.unwrap());
}

scenarios!(drains_are_kept_apart_by_pool, drains_are_bounded, changes_are_kept_once_newest_first_and_bounded,);

fn drain_of(endpoint: &str, cluster: Option<&str>) -> pb::DrainEndpointRequest {
    pb::DrainEndpointRequest { endpoint: endpoint.into(), pool: cluster.map(pool), note: "a note".into() }
}

fn undrain_of(endpoint: &str, cluster: Option<&str>) -> pb::UndrainEndpointRequest {
    pb::UndrainEndpointRequest { endpoint: endpoint.into(), pool: cluster.map(pool) }
}

fn over_redis(url: &str) -> String {
    with_admins(&format!("store: {{type: redis, url: '{url}', timeout: 400ms}}\n{POOLS}"))
}

/// Whether the last sweep of a sidecar shows an endpoint as drained.
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

/// Requests that never cease: each worker holds one lease at a time, of the sidecar's own pool.
struct Load {
    stop: Arc<AtomicBool>,
    /// Admissions by endpoint.
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

    /// Admissions so far; then counting begins anew.
    fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.seen.lock())
    }

    /// Waits until so many more were admitted, and tells of which endpoints.
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
async fn a_drain_told_to_one_sidecar_is_in_force_at_all_under_load() {
    let redis = Redis::start();
    // Long enough for no holder of this test to count as dead.
    let interval = Duration::from_secs(6);
    let yaml = over_redis(&redis.url()).replace("500ms", "6s");
    let (here, there) = (Arc::new(Sidecar::start(&yaml).await), Arc::new(Sidecar::start(&yaml).await));
    // A request that is under way when its endpoint is drained.
    let mut running = None;
    for lease in 1..=3 {
        if &*there.lease("llm", "long", lease).await == "m-1:80" {
            running = Some(lease);
        }
    }
    let running = running.expect("three requests are on three endpoints");
    let loads = [Load::start(&here, "g-1", 4), Load::start(&there, "g-2", 4)];
    for load in &loads {
        assert!(load.after(100).await.contains_key("m-1:80"));
    }
    let mut admin = client(&here).await;
    let told = std::time::Instant::now();
    let drained =
        admin.drain_endpoint(by(TOKEN, drain_of("m-1:80", Some("llm")))).await.unwrap().into_inner();
    assert_eq!((&*drained.who, &*drained.note, drained.pool), ("ops", "a note", Some(pool("llm"))));
    // Here at once: what is admitted from now on, but for requests that were being admitted.
    loads[0].after(8).await;
    assert!(!loads[0].after(100).await.contains_key("m-1:80"), "at the sidecar that was told");
    until_drained(&there, "llm", "m-1:80", true).await;
    let took = told.elapsed();
    assert!(took < interval, "{took:?}");
    loads[1].after(8).await;
    let seen = loads[1].after(300).await;
    assert!(!seen.contains_key("m-1:80"), "at the other: {seen:?}");
    assert!(seen.contains_key("m-0:80") && seen.contains_key("m-2:80"), "the others carry on: {seen:?}");
    // What is under way stays counted until it ends, and ends as any does.
    let list = [1, 2, 3].map(|lease| (lease, None));
    there.keep_alive("llm", "long", 3, &list).await;
    let state = there.pool("llm").await;
    let on = |endpoint: &str| state.endpoints.iter().find(|e| e.address == endpoint).unwrap().clone();
    assert_eq!((on("m-1:80").in_flight, on("m-1:80").drained, on("m-1:80").listed), (1, true, true));
    assert!(here.settle("llm", "long", running).await);
    eventually(PATIENCE, "it has drained", async || {
        let left = shows_in_flight(&there, "m-1:80").await;
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    // Given back by the other sidecar than the one that drained it.
    client(&there).await.undrain_endpoint(by(TOKEN, undrain_of("m-1:80", Some("llm")))).await.unwrap();
    until_drained(&here, "llm", "m-1:80", false).await;
    for load in &loads {
        assert!(load.after(100).await.contains_key("m-1:80"), "it gets requests again");
    }
    for load in loads {
        load.end().await;
    }
}

async fn shows_in_flight(sidecar: &Sidecar, endpoint: &str) -> u64 {
    let state = sidecar.pool("llm").await;
    state.endpoints.iter().filter(|e| e.address == endpoint).map(|e| e.in_flight).sum()
}

#[tokio::test]
async fn while_the_store_is_away_what_was_drained_stays_so() {
    let redis = Redis::start();
    let proxy = proxy::Proxy::start(redis.port).await;
    let sidecar = Sidecar::start(&over_redis(&proxy.url())).await;
    let mut admin = client(&sidecar).await;
    admin.drain_endpoint(by(TOKEN, drain_of("m-0:80", None))).await.unwrap();
    proxy.set(proxy::Mode::Refuse);
    eventually(PATIENCE, "the store is away", async || {
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
    // A store that lost its data knows of no drain.
    admin.drain_endpoint(by(TOKEN, drain_of("m-0:80", None))).await.unwrap();
    redis.command(&["FLUSHALL"]);
    until_drained(&sidecar, "llm", "m-0:80", false).await;
}

#[tokio::test]
async fn a_pool_whose_endpoints_are_all_drained_says_so() {
    let sidecar = Sidecar::start(&with_admins(POOLS)).await;
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
    assert!(metrics.contains("evenkeel_audit_failures_total 0"), "{metrics}");
}

/// A call that is refused: method, path, body and headers; the status.
type Wrong<'a> = (&'a Method, &'a str, Option<&'a str>, &'a [(&'a str, &'a str)], u16);

#[tokio::test]
async fn drains_by_http() {
    let sidecar = Sidecar::start(&with_admins(POOLS)).await;
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    let drains = "/api/v1/drains";
    let body = Some(r#"{"endpoint": "m-1:80", "route": "any", "cluster": "llm", "note": "hot"}"#);
    let (status, drained) = http(&sidecar, post.clone(), drains, body, &[]).await;
    assert_eq!((status, &drained["pool"]), (200, &json!({"route": "", "cluster": "llm"})));
    assert_eq!((&drained["who"], &drained["note"]), (&json!("ops"), &json!("hot")));
    let everywhere = http(&sidecar, post.clone(), drains, Some(r#"{"endpoint": "m-0:80"}"#), &[]).await;
    assert_eq!((everywhere.0, &everywhere.1["pool"]), (200, &Value::Null));
    let no_token = [("authorization", "")];
    let list = http(&sidecar, get.clone(), drains, None, &no_token).await;
    assert_eq!((list.0, &list.1["drains"]), (200, &json!([everywhere.1, drained])));

    let foreign = [("origin", "http://evil.example")];
    let of_m1 = "/api/v1/drains?endpoint=m-1%3A80&route=&cluster=llm";
    let cases: &[Wrong<'_>] = &[
        (&post, drains, body, &no_token, 401),
        (&post, drains, body, &[("authorization", "Bearer x")], 401),
        (&post, drains, body, &foreign, 403),
        (&post, drains, body, &[("content-type", "text/plain")], 415),
        (&post, drains, Some("{}"), &[], 400),
        (&post, drains, Some(r#"{"endpoint": "m-1:80", "rout": ""}"#), &[], 400),
        (&post, drains, Some(r#"{"endpoint": "m-1:80", "route": "r"}"#), &[], 400),
        (&post, drains, Some(r#"{"endpoint": ""}"#), &[], 400),
        (&post, drains, Some(r#"{"endpoint": "m-7:80"}"#), &[], 404),
        (&post, drains, Some(r#"{"endpoint": "m-0:80", "cluster": "none"}"#), &[], 404),
        (&delete, of_m1, None, &no_token, 401),
        (&delete, of_m1, None, &foreign, 403),
        (&delete, "/api/v1/drains?endpoint=m-1%3A80", None, &[], 404),
        (&delete, "/api/v1/drains?endpiont=m-1%3A80", None, &[], 400),
        (&delete, drains, None, &[], 400),
        (&get, "/api/v1/changes?page_size=1001", None, &[], 400),
    ];
    for (method, path, body, headers, expected) in cases {
        let (status, answer) = http(&sidecar, (*method).clone(), path, *body, headers).await;
        assert_eq!(status, *expected, "{method} {path} {body:?} {headers:?}: {answer}");
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
    assert_eq!(http(&sidecar, delete.clone(), of_m1, None, &[]).await.0, 204);
    assert_eq!(http(&sidecar, delete.clone(), of_m1, None, &[]).await.0, 404);
    let changes = http(&sidecar, get, "/api/v1/changes?page_size=2", None, &no_token).await.1;
    let told: Vec<_> =
        changes["changes"].as_array().unwrap().iter().map(|c| (&c["what"], &c["target"])).collect();
    let (undrain, drain) = (json!("endpoint.undrain"), json!("endpoint.drain"));
    assert_eq!(told, [(&undrain, &json!("m-1:80 in llm")), (&drain, &json!("m-0:80"))]);

    let nobody = Sidecar::start(POOLS).await;
    assert_eq!(http(&nobody, post, drains, body, &[]).await.0, 403);
    let refused =
        client(&nobody).await.drain_endpoint(by(TOKEN, drain_of("m-0:80", None))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// Through whichever door it came, and at whichever sidecar.
#[tokio::test]
async fn each_change_is_on_account_once_and_in_order() {
    let redis = Redis::start();
    let yaml = format!("{}\n{CONFIG}", over_redis(&redis.url()));
    let (here, there) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let (mut one, mut other) = (client(&here).await, client(&there).await);
    let put = |sidecar, body| http(sidecar, Method::PUT, "/api/v1/quotas/credit/al%2Fice", Some(body), &[]);
    let adjust = || {
        let request = pb::AdjustQuotaRequest {
            quota: "credit".into(),
            consumer: "al/ice".into(),
            delta: -3,
            request_id: "once".into(),
            ..pb::AdjustQuotaRequest::default()
        };
        by(TOKEN, request)
    };
    let rpm = |amount| pb::SetOverrideRequest {
        r#override: Some(pb::Override {
            limit: "rpm".into(),
            key: "consumer=a".into(),
            amount,
            ..pb::Override::default()
        }),
    };
    one.set_quota(by(TOKEN, set("credit", "al/ice", 10))).await.unwrap();
    assert_eq!(put(&there, r#"{"amount": 20}"#).await.0, 200);
    one.adjust_quota(adjust()).await.unwrap();
    other.adjust_quota(adjust()).await.unwrap();
    assert_eq!(put(&there, r#"{"amount": 1000000000000001}"#).await.0, 400);
    one.set_override(by(TOKEN, rpm(5))).await.unwrap();
    other.set_override(by(TOKEN, rpm(6))).await.unwrap();
    one.drain_endpoint(by(TOKEN, drain_of("m-0:80", None))).await.unwrap();
    one.drain_endpoint(drain_of("m-1:80", None)).await.unwrap_err();
    let gone = pb::DeleteOverrideRequest { limit: "rpm".into(), key: "consumer=a".into() };
    one.delete_override(by(TOKEN, gone.clone())).await.unwrap();
    other.delete_override(by(TOKEN, gone)).await.unwrap_err();
    other.undrain_endpoint(by(TOKEN, undrain_of("m-0:80", None))).await.unwrap();
    other
        .delete_quota(by(TOKEN, pb::DeleteQuotaRequest { quota: "credit".into(), consumer: "al/ice".into() }))
        .await
        .unwrap();
    let changes = one.list_changes(pb::ListChangesRequest::default()).await.unwrap().into_inner().changes;
    let told: Vec<_> = changes
        .iter()
        .rev()
        .map(|c| [&c.who, &c.what, &c.target, &c.before, &c.after, &c.note].map(String::as_str))
        .collect();
    assert_eq!(
        told,
        [
            ["ops", "quota.set", "credit/al/ice", "0", "10", "a note"],
            ["ops", "quota.set", "credit/al/ice", "10", "20", ""],
            ["ops", "quota.adjust", "credit/al/ice", "20", "17", ""],
            ["ops", "override.set", "rpm/consumer=a", "none", "5", ""],
            ["ops", "override.set", "rpm/consumer=a", "5", "6", ""],
            ["ops", "endpoint.drain", "m-0:80", "in use", "drained", "a note"],
            ["ops", "override.delete", "rpm/consumer=a", "6", "none", ""],
            ["ops", "endpoint.undrain", "m-0:80", "drained", "in use", ""],
            ["ops", "quota.delete", "credit/al/ice", "17", "0 (the default)", ""],
        ]
    );
    assert!(changes.windows(2).all(|pair| pair[0].at_ms >= pair[1].at_ms && pair[1].at_ms > 0));
    let stored: Vec<String> =
        ::redis::from_redis_value(redis.command(&["LRANGE", "ek2:changes", "0", "-1"])).unwrap();
    assert!(stored.iter().all(|entry| !entry.contains(TOKEN)), "no token is written");
}
