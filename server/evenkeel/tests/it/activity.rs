//! Any sidecar reports the activity of all sidecars: counts over time, refusals, limits and quotas, repairs, and the
//! sidecars.

use std::{sync::Arc, time::Duration};

use evenkeel_domain::activity::{
    ADMIT_RESULTS, AdmitResult, FullestKey, PoolSteps, QuotaCharges, Refused, Repair, RepairKind, Resolution,
    SidecarStatus,
};
use evenkeel_proto::v1::{self as pb, admit_response::Answer};
use evenkeel_store::{
    activity::{ActivityStore, REFUSALS_MAX, REPAIRS_MAX, Report},
    memory::MemoryActivity,
    redis::{Background, RedisActivity, RedisClient},
};
use evenkeel_telemetry::Metrics;
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::support::{
    admin::with_admin,
    eventually, http,
    redis::{Cluster, Redis},
    requests::{admit_for, settle_success},
    sidecar::Sidecar,
    store::redis_options,
};

const SOON: Duration = Duration::from_secs(15);
const CONFIG: &str = "
keep_alive_interval: 1s
pools:
- {cluster: llm, cap: 2, endpoints: [{address: '10.0.0.1:80'}, {address: '10.0.0.2:80'}]}
limits:
- {name: rpm, counts: requests, amount: 4, per: 1h, algorithm: sliding_window, key: [consumer]}
quotas:
- {name: credit, counts: tokens, kind: prepaid, default: 100000}
- {name: calls, counts: requests, kind: prepaid, default: 1000}
";

async fn two_sidecars(redis: &Redis) -> (Sidecar, Sidecar) {
    let yaml = with_admin(&(redis.store(", timeout: 200ms") + CONFIG));
    (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await)
}

async fn admit(sidecar: &Sidecar, consumer: &str, lease: u64) -> Answer {
    sidecar.send(admit_for(consumer, "m", lease)).await
}

async fn json(sidecar: &Sidecar, path: &str) -> Value {
    let (status, body) = sidecar.get(path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Reads a path until the response is as expected, and returns the response.
async fn becomes(sidecar: &Sidecar, path: &str, expected: impl Fn(&Value) -> bool) -> Value {
    eventually(SOON, path, || async {
        let (status, body) = sidecar.get(path).await;
        let answer = serde_json::from_str(&body).unwrap();
        if status == 200 && expected(&answer) { Ok(answer) } else { Err(body) }
    })
    .await
}

fn sum(series: &Value, fate: &str) -> u64 {
    series["steps"].as_array().unwrap().iter().map(|step| step[fate].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn any_sidecar_reports_the_activity_of_all() {
    let redis = Redis::start();
    let (a, b) = two_sidecars(&redis).await;
    // Each sidecar admits two requests. The fifth request of the same consumer is refused, and the reason is recorded.
    for (lease, sidecar) in [(1, &a), (2, &b), (3, &a), (4, &b)] {
        assert!(matches!(admit(sidecar, "alice", lease).await, Answer::Admitted(_)));
    }
    let Answer::Denied(denied) = admit(&a, "alice", 5).await else { panic!("not denied") };
    assert!(denied.headers.iter().any(|h| h.name == "x-request-id" && h.value == "req-5"), "{denied:?}");
    // For another consumer, every endpoint is at its cap.
    assert!(matches!(admit(&a, "bob", 6).await, Answer::Denied(_)));

    let activity = becomes(&b, "/api/v1/activity?span_ms=900000", |v| {
        ["shared", "limit", "pool_full"].map(|fate| sum(v, fate)) == [4, 1, 1]
    })
    .await;
    assert_eq!(
        (activity["step_ms"].as_u64(), activity["steps"].as_array().unwrap().len()),
        (Some(10_000), 90)
    );
    // Sidecars write their counts of long steps after those of short steps.
    let of_pool =
        becomes(&b, "/api/v1/activity?span_ms=172800000&cluster=llm", |v| sum(v, "shared") == 4).await;
    assert_eq!(of_pool["step_ms"], 300_000);
    // The last minute is as of the last report of each sidecar, the pools are as of the last sweep of this sidecar.
    let overview = becomes(&b, "/api/v1/overview", |v| {
        let (minute, totals) = (&v["last_minute"], &v["totals"]);
        [&minute["admitted"], &minute["refused"], &totals["sidecars"]] == [4, 2, 2]
            && [&totals["in_flight"], &totals["capacity"], &v["pools"][0]["full"]] == [4, 4, 2]
    })
    .await;
    assert_eq!(overview["quotas"][0]["kind"], "prepaid");

    let refusal = refusal_of(&b, "req-5").await;
    assert_eq!(
        (&refusal["reason"], &refusal["limit"], &refusal["consumer"]),
        (&"limit".into(), &"rpm".into(), &"alice".into())
    );
    assert_eq!((&refusal["amount"], &refusal["used"], &refusal["cost"]), (&4.into(), &4.into(), &1.into()));
    assert_eq!((&refusal["status"], &refusal["pool"]["cluster"]), (&429.into(), &"llm".into()));
    assert!(refusal["why"].as_str().unwrap().contains("\"rpm\" of 4 requests"), "{refusal}");
    let full = refusal_of(&b, "req-6").await;
    assert_eq!(
        (&full["reason"], &full["consumer"], &full["model"]),
        (&"pool_full".into(), &"bob".into(), &"m".into())
    );
    let (status, body) = b.get("/api/v1/refusals/req-1").await;
    assert!(status == 404 && body.contains("req-1"), "{body}");
    let list = json(&b, "/api/v1/refusals?consumer=alice").await;
    assert_eq!(list["refusals"].as_array().unwrap().len(), 1);
    let first = json(&b, "/api/v1/refusals?page_size=1").await;
    let token = first["next_page_token"].as_str().unwrap();
    let second = json(&b, &format!("/api/v1/refusals?page_size=1&page_token={token}")).await;
    assert_eq!(
        [&first, &second].map(|page| page["refusals"][0]["consumer"].as_str().unwrap()),
        ["bob", "alice"]
    );
    assert_eq!(second["next_page_token"], "");
    let message = b.inspect.clone().get_refusal(pb::GetRefusalRequest { request_id: "req-5".into() }).await;
    let message = message.unwrap().into_inner();
    assert_eq!((message.reason(), &*message.key), (pb::Reason::Limit, "consumer=alice"));
}

async fn refusal_of(sidecar: &Sidecar, id: &str) -> Value {
    let path = format!("/api/v1/refusals/{id}");
    eventually(SOON, &path, || async {
        let (status, body) = sidecar.get(&path).await;
        if status == 200 { Ok(serde_json::from_str(&body).unwrap()) } else { Err(body) }
    })
    .await
}

#[tokio::test]
async fn limits_report_current_use_and_quotas_their_burn_rate() {
    let redis = Redis::start();
    let (a, b) = two_sidecars(&redis).await;
    for (lease, consumer) in [(1, "alice"), (2, "alice"), (3, "alice"), (4, "bob")] {
        admit(&a, consumer, lease).await;
    }
    let fullest = becomes(&b, "/api/v1/limits/fullest", |v| v["total"] == 2).await;
    let first = &fullest["keys"][0];
    assert_eq!(
        (&first["key"], &first["used"], &first["share"]),
        (&"consumer=alice".into(), &3.into(), &0.75.into())
    );
    assert_eq!(first["counts"], "requests");
    let found = json(&b, "/api/v1/limits/fullest?search=bob&limit=rpm").await;
    assert_eq!((&found["total"], &found["keys"][0]["used"]), (&1.into(), &1.into()));

    a.end(settle_success(1, Vec::new(), 400, 600)).await;
    let rates = becomes(&b, "/api/v1/quotas/burn-rates?quota=credit", |v| {
        v["burn_rates"].as_array().unwrap().iter().any(|one| one["burn_per_hour"].as_f64() > Some(0.0))
    })
    .await;
    let alice =
        rates["burn_rates"].as_array().unwrap().iter().find(|one| one["consumer"] == "alice").unwrap();
    // The rate is the average since the start of the 5-minute step with the first charge, but over at least five
    // minutes.
    let rate = alice["burn_per_hour"].as_f64().unwrap();
    assert!((6_000.0..=12_000.0).contains(&rate), "{alice}");
    assert!(alice["runs_out_at_ms"].as_u64() > Some(0) && alice["counts"] == "tokens", "{alice}");
}

#[tokio::test]
async fn only_admitted_requests_count_in_a_burn_rate() {
    let sidecar = Sidecar::start(&CONFIG.replace("amount: 4", "amount: 400")).await;
    // The pool admits four of these requests.
    for lease in 1..=20 {
        admit(&sidecar, "alice", lease).await;
    }
    becomes(&sidecar, "/api/v1/activity", |v| sum(v, "shared") == 4 && sum(v, "pool_full") == 16).await;
    // Sidecars report charges less often than counts.
    let rate = |v: &Value| v["burn_rates"][0]["burn_per_hour"].as_f64().unwrap_or(0.0);
    let burn_rates = becomes(&sidecar, "/api/v1/quotas/burn-rates?quota=calls", |v| rate(v) >= 24.0).await;
    assert!(rate(&burn_rates) <= 48.0, "4 in five to ten minutes: {burn_rates}");
}

#[tokio::test]
async fn sidecars_and_repairs_are_reported() {
    let redis = Redis::start();
    let (a, b) = two_sidecars(&redis).await;
    a.lease("llm", "g", 1).await;
    // The gateway no longer has the lease.
    a.keep_alive("llm", "g", 1, &[]).await;
    let repairs = becomes(&b, "/api/v1/repairs", |v| !v["repairs"].as_array().unwrap().is_empty()).await;
    let repair = &repairs["repairs"][0];
    assert_eq!(
        (&repair["kind"], &repair["holder"], &repair["count"]),
        (&"dropped".into(), &"g".into(), &1.into())
    );
    assert_eq!(repair["pool"]["cluster"], "llm");
    a.lease("llm", "g", 2).await;
    a.keep_alive("llm", "g", 2, &[]).await;
    let first = becomes(&b, "/api/v1/repairs?page_size=1", |v| v["next_page_token"] != "").await;
    let token = first["next_page_token"].as_str().unwrap();
    let second = json(&b, &format!("/api/v1/repairs?page_size=1&page_token={token}")).await;
    assert_eq!(second["repairs"], repairs["repairs"]);

    let alive = |v: &Value| {
        v["sidecars"].as_array().unwrap().iter().filter(|sidecar| sidecar["alive"] == true).count()
    };
    let has_holder =
        |v: &Value| v["sidecars"].as_array().unwrap().iter().any(|sidecar| sidecar["holders"] == 1);
    // A sidecar counts a holder only as long as the holder sends KeepAlives.
    let sidecars = eventually(SOON, "/api/v1/sidecars", || async {
        a.keep_alive("llm", "g", 2, &[]).await;
        let all = json(&b, "/api/v1/sidecars").await;
        if alive(&all) == 2 && has_holder(&all) { Ok(all) } else { Err(all.to_string()) }
    })
    .await;
    let all = sidecars["sidecars"].as_array().unwrap();
    assert_eq!(all[0]["limits_revision"], all[1]["limits_revision"]);
    assert!(all.iter().all(|sidecar| sidecar["store"] == "redis" && sidecar["store_up"] == true));
    let names = |v: &Value| v["sidecars"].as_array().unwrap().len();
    a.shutdown.cancel();
    a.task.await.unwrap().unwrap();
    let left = becomes(&b, "/api/v1/sidecars", |v| alive(v) == 1).await;
    assert_eq!(names(&left), 2, "a stopped sidecar stays listed for a while: {left}");
}

#[tokio::test]
async fn pools_are_reported_while_the_store_is_down() {
    let mut redis = Redis::start();
    let (a, _b) = two_sidecars(&redis).await;
    a.lease("llm", "g", 1).await;
    becomes(&a, "/api/v1/overview", |v| v["totals"]["in_flight"] == 1).await;
    redis.kill();
    let overview = becomes(&a, "/api/v1/overview", |v| v["store"]["up"] == false).await;
    assert_eq!(overview["totals"]["in_flight"], 1);
    let (status, body) = a.get("/api/v1/sidecars").await;
    assert!(status == 503 && body.contains("unavailable"), "{status} {body}");
    assert!(matches!(a.admit("llm", "g", 2).await, Answer::Admitted(_)));
    redis.restart();
    // The sidecar reports what happened during the outage.
    becomes(&a, "/api/v1/activity", |v| sum(v, "local") == 1 && sum(v, "shared") == 1).await;
    becomes(&a, "/api/v1/sidecars", |v| {
        let sidecars = v["sidecars"].as_array().unwrap();
        sidecars.iter().any(|sidecar| sidecar["store_losses"].as_u64() > Some(0))
    })
    .await;
}

#[tokio::test]
async fn lists_are_sorted_paged_and_searched_and_errors_name_the_field() {
    let endpoints: Vec<String> =
        (0..500).map(|i| format!("{{address: '10.0.{}.{}:80'}}", i / 250, i % 250)).collect();
    let yaml = format!("pools:\n- {{cluster: llm, cap: 4, endpoints: [{}]}}\n", endpoints.join(", "));
    let sidecar = Sidecar::start(&yaml).await;
    let busy = sidecar.lease("llm", "g", 1).await;
    let page = becomes(&sidecar, "/api/v1/endpoints?cluster=llm", |v| v["pool"]["in_flight"] == 1).await;
    let rows = page["endpoints"].as_array().unwrap();
    assert_eq!((rows.len(), &page["total"], &page["pool"]["endpoints"]), (50, &500.into(), &500.into()));
    assert_eq!((&rows[0]["address"], &rows[0]["in_flight"]), (&(&*busy).into(), &1.into()));
    let mut seen = std::collections::BTreeSet::new();
    let mut token = String::new();
    loop {
        let path = format!("/api/v1/endpoints?cluster=llm&sort=address&page_size=200&page_token={token}");
        let page = json(&sidecar, &path).await;
        seen.extend(page["endpoints"].as_array().unwrap().iter().map(|row| row["address"].to_string()));
        token = page["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 500);
    let found = json(&sidecar, "/api/v1/endpoints?cluster=llm&search=10.0.1.24").await;
    assert_eq!(found["total"], 11);
    for (path, status, words) in [
        ("/api/v1/endpoints", 400, "cluster: must be the name of a pool's cluster"),
        ("/api/v1/endpoints?cluster=nobody", 404, "nobody"),
        ("/api/v1/endpoints?cluster=llm&sort=x", 400, "sort: must be one of load, in_flight, address, room"),
        ("/api/v1/overview?page_size=9999", 400, "page_size: must be at most 1000"),
        ("/api/v1/overview?page_token=x", 400, "page_token: must be one from the previous page"),
        ("/api/v1/activity?span_ms=1y", 400, "span_ms: must be a whole number"),
        ("/api/v1/watch?cluster=nobody", 404, "nobody"),
        ("/api/v1/repairs?page_token=7", 400, "page_token: must be one from the previous page"),
        ("/api/v1/changes?page_token=x", 400, "page_token: must be one from the previous page"),
        ("/api/v1/repairs?size=1", 400, "size: unknown field, must be one of page_size"),
    ] {
        let (got, body) = sidecar.get(path).await;
        assert!(got == status && body.contains(words), "{path}: {got} {body}");
    }
}

#[tokio::test]
async fn a_watch_sends_a_snapshot_then_changes_until_the_sidecar_stops() {
    let sidecar = Sidecar::start(CONFIG).await;
    sidecar.lease("llm", "g", 1).await;
    becomes(&sidecar, "/api/v1/overview", |v| v["totals"]["in_flight"] == 1).await;
    let response = http::open(&sidecar.addresses.http, "/api/v1/watch?cluster=llm").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut body = response.into_body();
    let mut text = String::new();
    let mut read_until = async |words: &str| {
        while !text.contains(words) {
            let frame = tokio::time::timeout(SOON, body.frame()).await.expect("an event in time");
            let Some(frame) = frame else { return text.clone() };
            text.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
        }
        std::mem::take(&mut text)
    };
    let first = read_until("event: endpoints").await;
    assert!(first.contains("event: overview") && first.contains("retry: 1000"), "{first}");
    sidecar.lease("llm", "g", 2).await;
    read_until("\"in_flight\":2").await;
    sidecar.shutdown.cancel();
    read_until("no such event").await;
    tokio::time::timeout(SOON, sidecar.task).await.expect("no watch holds up the end").unwrap().unwrap();
}

fn redis_activity(urls: Vec<String>, cluster: bool) -> Arc<dyn ActivityStore> {
    let options = redis_options(urls, cluster, "");
    let client = RedisClient::new(&options, Metrics::new().unwrap(), &Background::default()).unwrap();
    Arc::new(RedisActivity::new(Arc::new(client)))
}

/// Memory, Redis and Redis Cluster give the same answers.
#[tokio::test]
async fn stores_agree() {
    let (redis, cluster) = (Redis::start(), Cluster::start());
    let [single, clustered] =
        [redis_activity(vec![redis.url()], false), redis_activity(cluster.urls(), true)];
    for store in [Arc::new(MemoryActivity::default()) as Arc<dyn ActivityStore>, single, clustered] {
        reports_replace_each_other(&*store).await;
        lists_are_bounded(&*store).await;
    }
}

async fn reports_replace_each_other(store: &dyn ActivityStore) {
    let status = |id: &str, admitted| SidecarStatus { id: id.into(), admitted, ..SidecarStatus::default() };
    let fullest = FullestKey {
        limit: "l".into(),
        tag: "consumer=a".into(),
        rest: String::new(),
        amount: 2,
        used: 1,
        reset_at_ms: 0,
        shadow: true,
        seen_at_ms: 3,
    };
    let charges = QuotaCharges { quota: "q".into(), charged: vec![(0, 5)], ..QuotaCharges::default() };
    for admitted in [1, 2] {
        let report = Report {
            status: Some(status("a", admitted)),
            fullest_keys: Some(vec![fullest.clone()]),
            charges: Some(vec![charges.clone()]),
        };
        store.report("a", &report).await.unwrap();
    }
    store.report("b", &Report { status: Some(status("b", 9)), ..Report::default() }).await.unwrap();
    store.report("a", &Report::default()).await.unwrap();
    let mut statuses = store.statuses().await.unwrap();
    statuses.sort_by_key(|status| status.admitted);
    assert_eq!(statuses.iter().map(|s| (&*s.id, s.admitted)).collect::<Vec<_>>(), [("a", 2), ("b", 9)]);
    assert!(statuses.iter().all(|status| status.seen_at_ms > 1_600_000_000_000));
    assert_eq!(store.fullest_keys().await.unwrap(), [vec![fullest]]);
    assert_eq!(store.quota_charges().await.unwrap(), [vec![charges]]);
    store.forget(&["a".into()]).await.unwrap();
    assert_eq!(store.statuses().await.unwrap().len(), 1);
    assert!(
        store.fullest_keys().await.unwrap().is_empty() && store.quota_charges().await.unwrap().is_empty()
    );

    let steps = |n| {
        let counts = [n; ADMIT_RESULTS];
        vec![PoolSteps { route: "r".into(), cluster: "c".into(), steps: vec![(3, counts)] }]
    };
    for n in [1, 2] {
        store.put_page("a", Resolution::Fine, 120_000, &steps(n)).await.unwrap();
    }
    store.put_page("b", Resolution::Fine, 120_000, &steps(7)).await.unwrap();
    let mut page = store.page(Resolution::Fine, 120_000).await.unwrap();
    page.sort_by_key(|pools| pools[0].steps[0].1[0]);
    assert_eq!(page, [steps(2), steps(7)]);
    assert!(store.page(Resolution::Coarse, 120_000).await.unwrap().is_empty());
}

async fn lists_are_bounded(store: &dyn ActivityStore) {
    let refused = |i: usize| Refused {
        id: i as u64,
        request_id: if i == 0 { String::new() } else { format!("id {{{i}}}") },
        at_ms: i as u64,
        route: String::new(),
        cluster: "c".into(),
        reason: AdmitResult::Quota,
        why: "none left".into(),
        status: 429,
        retry_after_ms: 0,
        consumer: "a\nb".into(),
        model: String::new(),
        limit: "q".into(),
        key: String::new(),
        amount: 0,
        used: 0,
        cost: 1,
        sidecar: "s".into(),
    };
    let all: Vec<Refused> = (0..REFUSALS_MAX + 10).map(refused).collect();
    for some in all.chunks(100) {
        store.add_refusals(some).await.unwrap();
    }
    let kept = store.refusals().await.unwrap();
    assert_eq!((kept.len(), &kept[0]), (REFUSALS_MAX, &refused(REFUSALS_MAX + 9)));
    assert_eq!(store.refusal("id {5}").await.unwrap(), Some(refused(5)), "beyond the list, by its id");
    assert_eq!(store.refusal("").await.unwrap(), None);
    let repair = |i: usize| Repair {
        id: i as u64,
        at_ms: i as u64,
        kind: RepairKind::Reaped,
        route: String::new(),
        cluster: "c".into(),
        holder: "h".into(),
        count: 1,
        sidecar: "s".into(),
    };
    let all: Vec<Repair> = (0..REPAIRS_MAX + 10).map(repair).collect();
    store.add_repairs(&all).await.unwrap();
    let kept = store.repairs().await.unwrap();
    assert_eq!((kept.len(), &kept[0]), (REPAIRS_MAX, &repair(REPAIRS_MAX + 9)));
}
