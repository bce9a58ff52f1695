//! The latency of answers on `/metrics`: each request counts once over all sidecars, under the names of its pool, model and
//! endpoint.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_proto::v1 as pb;
use futures::{StreamExt as _, future::join_all};

use crate::support::{
    eventually,
    redis::Redis,
    requests::{admit_for, candidate, settle_success},
    sidecar::Sidecar,
    worker::{Link, Worker, hello},
};

const POOL: &str = "
keep_alive_interval: 60s
pools: [{cluster: llm, endpoints: [{address: 'a:1'}]}]
models: [{model: named, output_tokens: 20}]
prices: [{model: priced, input: 1, output: 1}, {model: 'invented-*', input: 1, output: 1}]
";
const KINDS: [&str; 3] = ["time_to_first_token", "time_per_output_token", "request_duration"];

/// Returns the settlement of a streamed answer: the first of 41 tokens after 100 ms, the last after 2.1 s.
fn streamed(lease: u64, ticket: Vec<u8>) -> pb::SettleRequest {
    pb::SettleRequest {
        first_token_ms: 100,
        total_ms: 2100,
        streamed: true,
        ..settle_success(lease, ticket, 30, 41)
    }
}

/// Returns a metric of all histograms of one kind, by model or by endpoint, such as `count`.
async fn by_name(s: &Sidecar, by: &str, kind: &str, what: &str) -> BTreeMap<String, f64> {
    let prefix = if by == "endpoint" { "endpoint_" } else { "" };
    let (_, text) = s.get("/metrics").await;
    let series = |line: &str| {
        let line = line.strip_prefix(&format!("evenkeel_{prefix}{kind}_seconds_{what}{{"))?;
        let (labels, value) = line.split_once("} ")?;
        let name = labels.split_once(&format!("{by}=\""))?.1.split_once('"')?.0;
        Some((name.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(series).collect()
}

async fn counts(s: &Sidecar, by: &str) -> Vec<BTreeMap<String, f64>> {
    join_all(KINDS.map(|kind| by_name(s, by, kind, "count"))).await
}

fn names<const N: usize>(counts: [(&str, u32); N]) -> BTreeMap<String, f64> {
    counts.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect()
}

async fn ticket(s: &Sidecar, model: &str, lease: u64) -> Vec<u8> {
    s.admitted(admit_for("alice", model, lease)).await.ticket
}

#[tokio::test]
async fn latencies_have_the_names_of_the_model_and_the_endpoint() {
    let s = Sidecar::start(POOL).await;
    assert!(s.end(streamed(1, ticket(&s, "m", 1).await)).await);
    // A unary answer has a duration alone.
    let whole = pb::SettleRequest { streamed: false, ..streamed(2, ticket(&s, "m", 2).await) };
    s.end(whole).await;
    // The model is unknown until the response names it, or stays unknown.
    let named = pb::SettleRequest { model: "n".into(), ..streamed(3, ticket(&s, "(unknown)", 3).await) };
    s.end(named).await;
    s.end(streamed(4, ticket(&s, "", 4).await)).await;
    for (kind, of_m) in KINDS.into_iter().zip([1, 1, 2]) {
        let models = by_name(&s, "model", kind, "count").await;
        assert_eq!(models, names([("m", of_m), ("n", 1), ("(unknown)", 1)]), "{kind}");
        assert_eq!(by_name(&s, "endpoint", kind, "count").await, names([("a:1", of_m + 2)]), "{kind}");
    }
    for (kind, expected) in KINDS.into_iter().zip([0.1, 0.05, 4.2]) {
        assert_eq!(by_name(&s, "model", kind, "sum").await["m"], expected, "{kind}");
    }
}

#[tokio::test]
async fn only_answers_that_were_generated_count() {
    let s = Sidecar::start(POOL).await;
    let mut lease = 0;
    let mut next = async |admit: fn(pb::AdmitRequest) -> pb::AdmitRequest| {
        lease += 1;
        streamed(lease, s.admitted(admit(admit_for("alice", "m", lease))).await.ticket)
    };
    for outcome in 0..8 {
        let settle = pb::SettleRequest { outcome, ..next(|admit| admit).await };
        if settle.outcome() != pb::Outcome::Success {
            s.end(settle).await;
        }
    }
    let upgraded = pb::SettleRequest { upgraded: true, ..next(|admit| admit).await };
    s.end(upgraded).await;
    let background = |admit| pb::AdmitRequest { generation: pb::Generation::Background.into(), ..admit };
    let settle = next(background).await;
    s.end(settle).await;
    let nothing = |admit| pb::AdmitRequest { generation: pb::Generation::None.into(), ..admit };
    let settle = next(nothing).await;
    s.end(settle).await;
    assert_eq!(counts(&s, "model").await, [names([]), names([]), names([])]);
    // Two answers at the same time, an estimate, and no body.
    s.end(next(|admit| pb::AdmitRequest { choices: 2, ..admit }).await).await;
    let estimated = pb::SettleRequest { tokens: None, tokens_final: false, ..next(|admit| admit).await };
    s.end(estimated).await;
    let empty = pb::SettleRequest { first_token_ms: 0, ..next(|admit| admit).await };
    s.end(empty).await;
    assert_eq!(counts(&s, "model").await, [names([("m", 2)]), names([]), names([("m", 3)])]);
}

/// A gateway sends a settlement again if its sidecar hangs, to the same sidecar or to another, on its stream or in a call.
/// The other one did not admit the request.
#[tokio::test]
async fn a_repeated_settlement_counts_once_over_all_sidecars() {
    const ORDERS: [&[usize]; 6] = [&[0], &[1], &[0, 0], &[0, 1], &[1, 0], &[1, 0, 1, 0]];
    for limits in ["", "limits: [{name: tokens, counts: tokens, amount: 1G, per: 1d, key: [consumer]}]\n"] {
        let redis = Redis::start();
        let yaml = redis.store(", timeout: 5s") + POOL + limits;
        let sidecars = [Sidecar::start(&yaml).await, Sidecar::start(&yaml).await];
        for (lease, order) in (1..).zip(ORDERS) {
            let settle = streamed(lease, ticket(&sidecars[0], "m", lease).await);
            for sidecar in order {
                sidecars[*sidecar].end(settle.clone()).await;
            }
        }
        eventually(Duration::from_secs(20), "every request counts", async || {
            let counts = join_all(sidecars.iter().map(|s| counts(s, "endpoint"))).await;
            let sum =
                |kind: usize| counts.iter().map(|counts| counts[kind].values().sum::<f64>()).sum::<f64>();
            let expected = ORDERS.len() as f64;
            let is_named = counts.iter().flatten().all(|names| names.keys().all(|name| name == "a:1"));
            let sums = [sum(0), sum(1), sum(2)];
            if sums == [expected; 3] && is_named { Ok(()) } else { Err(format!("{limits:?}: {counts:?}")) }
        })
        .await;
        // What was settled at the second sidecar first counts there.
        assert!(counts(&sidecars[1], "model").await[0]["m"] >= 1.0);
    }
}

#[tokio::test]
async fn settlements_on_a_stream_count_once() {
    let s = Sidecar::start("keep_alive_interval: 60s\n").await;
    let mut worker = Worker::start(&s.url(), "w", "llm").await;
    let lease = worker.admit().await;
    let (endpoint, ticket) = worker.live[&lease].clone();
    worker.settle(&[lease]).await;
    worker.quiet().await.unwrap();
    // A worker that has lost the acknowledgement repeats the settlement on its next stream, here with its times.
    let again = pb::FromWorker {
        settlements: vec![pb::SettleRequest { holder: String::new(), ..streamed(lease, ticket) }],
        first_settlement: 1,
        ..hello("w", &worker.secret)
    };
    worker.link = Some(Link::open(&s.url(), again).await.unwrap());
    let lease = worker.admit().await;
    worker.settle(&[lease]).await;
    worker.quiet().await.unwrap();
    let durations = by_name(&s, "endpoint", "request_duration", "count").await;
    assert!(durations.contains_key(&endpoint), "{durations:?}");
    assert_eq!(durations.values().sum::<f64>(), 2.0);
    assert_eq!(by_name(&s, "model", "time_to_first_token", "count").await, names([]));
}

/// Without the store, the gateway chooses the endpoint.
#[tokio::test]
async fn an_endpoint_that_no_sidecar_chose_is_unknown() {
    let redis = Redis::start();
    let yaml = redis.store(", timeout: 200ms")
        + &POOL.replace("cluster: llm", "cluster: llm, on_store_failure: open");
    let s = Sidecar::start(&yaml).await;
    redis.signal("STOP");
    let open = s.admitted(admit_for("alice", "m", 1)).await;
    redis.signal("CONT");
    assert_eq!(open.endpoint, "");
    s.end(streamed(1, open.ticket)).await;
    eventually(Duration::from_secs(20), "the settlement is in the store", async || {
        let counts = counts(&s, "endpoint").await;
        if counts[2] == names([("(unknown)", 1)]) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}

/// A client chooses the names of models, and a gateway those of endpoints.
#[tokio::test]
async fn invented_models_have_no_series() {
    const REQUESTS: u64 = 10_000;
    let s = Sidecar::start(POOL).await;
    let request = async |lease: u64| {
        let model = match REQUESTS - lease {
            0 => "named".to_owned(),
            1 => "priced".to_owned(),
            _ => format!("invented-{lease}"),
        };
        let candidates = vec![candidate(&format!("{lease}:1"), 1.0, 0)];
        let admit = pb::AdmitRequest { candidates, ..admit_for("alice", &model, lease) };
        let ticket = s.admitted(admit).await.ticket;
        s.end(streamed(lease, ticket)).await;
    };
    futures::stream::iter(1..=REQUESTS).for_each_concurrent(64, request).await;
    for (by, expected) in [("model", 32 + 2 + 1), ("endpoint", 512 + 1)] {
        for counts in counts(&s, by).await {
            assert_eq!(counts.len(), expected, "{by}");
            assert_eq!(counts.values().sum::<f64>(), REQUESTS as f64, "each counts, some as the rest");
        }
    }
    let models = by_name(&s, "model", "request_duration", "count").await;
    assert_eq!((models["named"], models["priced"]), (1.0, 1.0));
}
