//! A whole sidecar with real clients: API, views, watches, drain.

use std::{process::Command, time::Duration};

use evenkeel_proto::v1::{
    self as pb, Basis, Reason, admit_response::Answer, gateway_client::GatewayClient,
    inspect_client::InspectClient,
};
use tonic::Code;

use crate::support::{
    eventually,
    redis::Redis,
    sidecar::{Sidecar, pool},
};

const TWO: &str =
    "pools: [{cluster: llm, cap: 2, full_retry_after: 7s, endpoints: [{address: 'a:1'}, {address: 'b:1'}]}]";

/// For tests whose subject is not that holders fall silent: nothing expires, however slow the machine.
fn steady(yaml: &str) -> String {
    format!("keep_alive_interval: 60s\n{yaml}")
}

#[tokio::test]
async fn admit_settle_and_look() {
    let s = Sidecar::start(&steady(TWO)).await;
    let first = s.lease("llm", "h", 1).await;
    let second = s.lease("llm", "h", 2).await;
    assert_ne!(first, second);
    assert_eq!(s.lease("llm", "h", 1).await, first, "idempotent");
    let state = s.pool("llm").await;
    assert_eq!((state.in_flight, state.capacity, state.holders, state.current), (2, Some(4), 1, true));
    let request = pb::ListLeasesRequest { cluster: "llm".into(), ..Default::default() };
    let leases = s.inspect.clone().list_leases(request).await.unwrap().into_inner().leases;
    assert_eq!(
        leases.iter().map(|l| (l.lease, l.endpoint.as_str())).collect::<Vec<_>>(),
        [(1, &*first), (2, &*second)]
    );
    let request = pb::ListHoldersRequest { cluster: "llm".into(), ..Default::default() };
    let holders = s.inspect.clone().list_holders(request).await.unwrap().into_inner().holders;
    assert_eq!((holders[0].holder.as_str(), holders[0].leases), ("h", 2));
    assert!((1..=90_000).contains(&holders[0].deadline_in_ms));
    assert!(s.settle("llm", "h", 1).await);
    assert!(!s.settle("llm", "h", 1).await);
    assert_eq!(s.pool("llm").await.in_flight, 1);
}

#[tokio::test]
async fn a_full_pool_answers_429_with_retry_after() {
    let s = Sidecar::start(&steady(TWO)).await;
    for lease in 1..=4 {
        s.lease("llm", "h", lease).await;
    }
    let Answer::Denied(denied) = s.admit("llm", "h", 5).await else { panic!("admitted") };
    assert_eq!((denied.status, denied.reason(), denied.retry_after_ms), (429, Reason::PoolFull, 7000));
    let header = |name: &str| denied.headers.iter().find(|h| h.name == name).map(|h| h.value.as_str());
    assert_eq!(header("retry-after"), Some("7"));
    assert_eq!(header("content-type"), Some("application/json"));
    let body: serde_json::Value = serde_json::from_slice(&denied.body).unwrap();
    assert_eq!(body["error"]["type"], "pool_full");
    s.settle("llm", "h", 3).await;
    s.lease("llm", "h", 5).await;
}

#[tokio::test]
async fn no_endpoints_is_503_and_an_unknown_pool_an_error() {
    let s = Sidecar::start(&steady("pools: [{cluster: empty}]\nunlisted_pools: {accept: false}")).await;
    let Answer::Denied(denied) = s.admit("empty", "h", 1).await else { panic!("admitted") };
    assert_eq!((denied.status, denied.reason()), (503, Reason::NoEndpoints));
    let request =
        pb::AdmitRequest { pool: Some(pool("x")), holder: "h".into(), lease: 1, ..Default::default() };
    let status = s.gateway.clone().admit(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("unlisted_pools.accept"), "{}", status.message());
}

#[tokio::test]
async fn wrong_input_names_the_field() {
    let s = Sidecar::start(&steady("")).await;
    let good =
        pb::AdmitRequest { pool: Some(pool("llm")), holder: "h".into(), lease: 1, ..Default::default() };
    let candidate = |address: &str, weight| pb::Candidate { address: address.into(), weight, cap: 0 };
    let wrong = [
        (pb::AdmitRequest { pool: None, ..good.clone() }, "pool: must be given"),
        (pb::AdmitRequest { pool: Some(pool("")), ..good.clone() }, "pool.cluster: must be"),
        (pb::AdmitRequest { holder: "a b".into(), ..good.clone() }, "holder: must be"),
        (pb::AdmitRequest { lease: 0, ..good.clone() }, "lease: must be 1..2^53-1, got 0"),
        (pb::AdmitRequest { candidates: vec![candidate("", 1.0)], ..good.clone() }, "candidates.address"),
        (pb::AdmitRequest { candidates: vec![candidate("a", -1.0)], ..good.clone() }, "candidates.weight"),
    ];
    for (request, message) in wrong {
        let status = s.gateway.clone().admit(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(message), "{}", status.message());
    }
    let held =
        pb::HeldPool { pool: Some(pool("llm")), leases: vec![1], endpoint_of: vec![1], ..Default::default() };
    let request = pb::KeepAliveRequest { holder: "h".into(), issued_through: 1, pools: vec![held] };
    let status = s.gateway.clone().keep_alive(request).await.unwrap_err();
    assert!(status.message().contains("pools.endpoint_of: must be an index"), "{}", status.message());
}

#[tokio::test]
async fn endpoints_can_come_with_the_request() {
    let s = Sidecar::start(&steady("")).await;
    let candidate = |address: &str, cap| pb::Candidate { address: address.into(), weight: 0.0, cap };
    let request = |lease| pb::AdmitRequest {
        pool: Some(pool("llm")),
        holder: "h".into(),
        lease,
        candidates: vec![candidate("x", 1), candidate("y", 1)],
        ..Default::default()
    };
    for lease in 1..=2 {
        let answer = s.gateway.clone().admit(request(lease)).await.unwrap().into_inner().answer.unwrap();
        let Answer::Admitted(admitted) = answer else { panic!("denied") };
        assert_eq!(admitted.basis(), Basis::Shared);
    }
    let answer = s.gateway.clone().admit(request(3)).await.unwrap().into_inner().answer.unwrap();
    assert!(matches!(answer, Answer::Denied(_)));
    assert_eq!(s.pool("llm").await.endpoints.len(), 2);
}

/// Several routes of one cluster share a table; the list of one must not drop the leases of another.
#[tokio::test]
async fn routes_that_share_a_table_share_a_list() {
    let s = Sidecar::start(&steady(TWO)).await;
    let held = |route: &str, lease| pb::HeldPool {
        pool: Some(pb::Pool { route: route.into(), cluster: "llm".into() }),
        endpoints: vec!["a:1".into()],
        leases: vec![lease],
        endpoint_of: vec![1],
        tickets: vec![],
    };
    let request = pb::KeepAliveRequest {
        holder: "h".into(),
        issued_through: 2,
        pools: vec![held("x", 1), held("y", 2)],
    };
    for (round, restored) in [(1, 2), (2, 0)] {
        let answer = s.gateway.clone().keep_alive(request.clone()).await.unwrap().into_inner();
        assert_eq!((answer.restored, answer.dropped), (restored, 0), "round {round}");
    }
    assert_eq!(s.pool("llm").await.in_flight, 2);
}

/// A pool that is no longer served must not cost a holder its leases in the pools that are.
#[tokio::test]
async fn a_refused_pool_leaves_the_others_alive() {
    let s = Sidecar::start(&steady(&format!("{TWO}\nunlisted_pools: {{accept: false}}"))).await;
    let endpoint = s.lease("llm", "h", 1).await;
    let held = |cluster: &str, leases: &[u64]| pb::HeldPool {
        pool: Some(pool(cluster)),
        endpoints: vec![endpoint.to_string()],
        leases: leases.to_vec(),
        endpoint_of: vec![1; leases.len()],
        tickets: vec![],
    };
    let request = |pools| pb::KeepAliveRequest { holder: "h".into(), issued_through: 2, pools };
    let answer = s.gateway.clone().keep_alive(request(vec![held("gone", &[2]), held("llm", &[1, 2])])).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.refused_pools, [pool("gone")]);
    assert_eq!((answer.restored, answer.dropped, answer.unapplied_pools), (1, 0, 0));
    assert_eq!(answer.interval_ms, 60_000);
    assert_eq!(s.pool("llm").await.in_flight, 2);

    // Malformed input is refused as a whole.
    let many = pb::HeldPool { endpoints: vec!["a".into(); 1025], ..held("llm", &[]) };
    for (wrong, message) in [
        (held("", &[]), "pool.cluster: must be"),
        (many, "pools.endpoints: must be at most 1024, got 1025"),
        (held("llm", &vec![1; 262_145]), "pools.leases: must be at most 262144 in one call, got 262145"),
    ] {
        let status = s.gateway.clone().keep_alive(request(vec![held("llm", &[]), wrong])).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(message), "{}", status.message());
    }
    assert_eq!(s.pool("llm").await.in_flight, 2);
}

/// What only local knowledge took counted as applied, and its repairs as repairs of the table.
#[tokio::test]
async fn a_keep_alive_says_what_the_store_did_not_take() {
    let mut redis = Redis::start();
    let store = format!("store: {{type: redis, url: '{}', timeout: 2s}}", redis.url());
    let s = Sidecar::start(&steady(&format!("{store}\n{TWO}"))).await;
    let answer = s.keep_alive("llm", "h", 1, &[(1, Some("a:1"))]).await;
    assert_eq!((answer.restored, answer.unapplied_pools, answer.interval_ms), (1, 0, 60_000));
    redis.kill();
    let answer = s.keep_alive("llm", "h", 2, &[(1, Some("a:1")), (2, Some("b:1"))]).await;
    assert_eq!((answer.unapplied_pools, answer.interval_ms), (1, 15_000));
    let (_, text) = s.get("/metrics").await;
    for line in [
        "evenkeel_keep_alives_total{result=\"ok\"} 1",
        "evenkeel_keep_alives_total{result=\"unapplied\"} 1",
        "evenkeel_repairs_total{kind=\"restored\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
}

#[tokio::test]
async fn two_sidecars_share_one_table() {
    let redis = Redis::start();
    let yaml = format!(
        "store: {{type: redis, url: '{}', timeout: 2s}}\nkeep_alive_interval: 2s\n{TWO}",
        redis.url()
    );
    let (a, b) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let first = a.lease("llm", "g1", 1).await;
    let since = tokio::time::Instant::now();
    let second = b.lease("llm", "g2", 1).await;
    assert_ne!(first, second, "the second sees the first's lease");
    assert!(b.settle("llm", "g1", 1).await, "any sidecar settles");
    assert_eq!(a.pool("llm").await.in_flight, 1);
    // g2 falls silent: sidecar a, which never heard of it, gives its lease back.
    eventually(Duration::from_secs(20), "the silent holder's lease is given back", || async {
        match a.pool("llm").await.in_flight {
            0 => Ok(()),
            n => Err(format!("{n} in flight")),
        }
    })
    .await;
    assert!(since.elapsed() >= Duration::from_millis(2900), "after {:?}", since.elapsed());
    // A pool known only through the registry is swept and listed too.
    let offered = pb::AdmitRequest {
        pool: Some(pool("other")),
        holder: "g1".into(),
        lease: 2,
        candidates: vec![pb::Candidate { address: "z".into(), weight: 0.0, cap: 0 }],
        ..Default::default()
    };
    a.gateway.clone().admit(offered).await.unwrap();
    eventually(Duration::from_secs(20), "b learns of a's pool", || async {
        let pools =
            b.inspect.clone().list_pools(pb::ListPoolsRequest::default()).await.unwrap().into_inner().pools;
        let other = pools.iter().find(|state| state.cluster == "other");
        if other.is_some() { Ok(()) } else { Err(format!("{} pools", pools.len())) }
    })
    .await;
}

#[tokio::test]
async fn a_watch_tells_of_changes() {
    let s = Sidecar::start(&format!("keep_alive_interval: 4s\n{TWO}")).await;
    let mut watch =
        s.inspect.clone().watch_pools(pb::WatchPoolsRequest::default()).await.unwrap().into_inner();
    let first =
        tokio::time::timeout(Duration::from_secs(20), watch.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.in_flight, 0);
    s.lease("llm", "h", 1).await;
    let second =
        tokio::time::timeout(Duration::from_secs(20), watch.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((second.in_flight, second.holders), (1, 1));
}

#[tokio::test]
async fn metrics_health_and_json() {
    let s = Sidecar::start(&format!("keep_alive_interval: 4s\n{TWO}")).await;
    let endpoint = s.lease("llm", "h", 1).await;
    let line = format!("evenkeel_in_flight{{cluster=\"llm\",endpoint=\"{endpoint}\",route=\"\"}} 1");
    eventually(Duration::from_secs(20), "the gauge shows the lease", || async {
        let (_, text) = s.get("/metrics").await;
        if text.contains(&line) { Ok(()) } else { Err(text) }
    })
    .await;
    let (_, text) = s.get("/metrics").await;
    for expected in [
        "evenkeel_admits_total{result=\"admitted\"} 1",
        "evenkeel_pool_admits_total{cluster=\"llm\",result=\"admitted\",route=\"\"} 1",
        "evenkeel_pool_admits_total{cluster=\"llm\",result=\"pool_full\",route=\"\"} 0",
        "evenkeel_pool_endpoints{cluster=\"llm\",route=\"\",state=\"in_use\"} 2",
        "evenkeel_pool_imbalance{cluster=\"llm\",route=\"\"} 0",
        "evenkeel_store_up 1",
        "evenkeel_endpoint_cap",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    // What is set at each scrape is set, not added.
    let (_, again) = s.get("/metrics").await;
    assert!(again.contains("evenkeel_pool_admits_total{cluster=\"llm\",result=\"admitted\",route=\"\"} 1"));
    assert_eq!(s.get("/healthz").await.0, 200);
    assert_eq!(s.get("/readyz").await.0, 200);
    let json: serde_json::Value = serde_json::from_str(&s.get("/api/v1/pools").await.1).unwrap();
    assert_eq!(json["pools"][0]["in_flight"], 1);
    assert!(s.get("/").await.1.contains("<title>Evenkeel</title>"));
}

#[tokio::test]
async fn unix_socket_health_and_reflection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ek.sock");
    let yaml = format!(
        "listen: {{grpc: '127.0.0.1:0', http: '127.0.0.1:0', grpc_socket: '{}', grpc_socket_mode: '0600'}}\n{TWO}",
        path.display()
    );
    // A socket file that a dead process left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let s = Sidecar::start_at(&yaml).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let channel = tonic::transport::Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
    let channel = channel.connect().await.unwrap();
    let request =
        pb::AdmitRequest { pool: Some(pool("llm")), holder: "h".into(), lease: 1, ..Default::default() };
    GatewayClient::new(channel.clone()).admit(request).await.unwrap();
    assert_eq!(s.pool("llm").await.in_flight, 1);

    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let check = tonic_health::pb::HealthCheckRequest { service: "evenkeel.v1.Gateway".into() };
    assert_eq!(health.check(check).await.unwrap().into_inner().status, 1);

    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(list))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = services.service.iter().map(|s| s.name.as_str()).collect();
    assert!(names.contains(&"evenkeel.v1.Gateway") && names.contains(&"evenkeel.v1.Inspect"), "{names:?}");

    // A socket in use is not taken over.
    let config = evenkeel_config::Config::parse(&yaml).unwrap();
    let taken = evenkeel::app::Listeners::bind(&config).await.err().expect("the socket is taken");
    assert!(format!("{taken:#}").contains("another process listens there"), "{taken:#}");

    s.shutdown.cancel();
    s.task.await.unwrap().unwrap();
    assert!(!path.exists(), "the socket is removed at the end");
}

/// Load balancers must see that a sidecar is going while it still serves them.
#[tokio::test]
async fn a_draining_sidecar_says_so_and_serves_until_the_delay_is_over() {
    let s = Sidecar::start(&format!("drain_delay: 1s\n{TWO}")).await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", s.addresses.grpc.as_ref().unwrap()));
    let channel = channel.unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let service = |name: &str| tonic_health::pb::HealthCheckRequest { service: name.into() };
    let mut watch = health.watch(service("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);

    let since = tokio::time::Instant::now();
    s.shutdown.cancel();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    eventually(Duration::from_secs(1), "health of the Gateway service", || async {
        match health.clone().check(service("evenkeel.v1.Gateway")).await.unwrap().into_inner().status {
            2 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    assert_eq!(s.get("/readyz").await.0, 503, "on a new connection");
    s.lease("llm", "h", 1).await;
    assert!(s.settle("llm", "h", 1).await);
    // Neither the watch of health nor idle connections hold it up then.
    let stopped = tokio::time::timeout(Duration::from_secs(8), s.task).await.expect("drains in time");
    stopped.unwrap().unwrap();
    assert!(since.elapsed() >= Duration::from_secs(1), "after {:?}", since.elapsed());
}

/// A watcher that does not read held a drain for its full ten seconds.
#[tokio::test]
async fn a_watcher_that_does_not_read_does_not_hold_up_a_drain() {
    // More pools than the watch buffers, with states larger than the connection's window.
    let many: Vec<String> = (0..400)
        .map(|i| {
            let endpoints: Vec<_> = (0..200).map(|j| format!("{{address: 'host-{i}-{j}'}}")).collect();
            format!("{{cluster: c{i}, endpoints: [{}]}}", endpoints.join(", "))
        })
        .collect();
    let s = Sidecar::start(&format!("pools: [{}]", many.join(", "))).await;
    let mut watch =
        s.inspect.clone().watch_pools(pb::WatchPoolsRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap();
    s.shutdown.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(8), s.task).await.expect("drains in time");
    stopped.unwrap().unwrap();
}

#[tokio::test]
async fn lists_are_read_in_pages() {
    let s = Sidecar::start(&steady(&TWO.replace("cap: 2", "cap: 100"))).await;
    for (holder, lease) in [("g1", 1), ("g1", 2), ("g1", 3), ("g2", 1), ("g3", 9), ("g3", 10)] {
        s.lease("llm", holder, lease).await;
    }
    let page = async |holder: &str, page_token: String| {
        let request = pb::ListLeasesRequest {
            // As a gateway names it.
            route: "any".into(),
            cluster: "llm".into(),
            holder: holder.to_owned(),
            page_size: 2,
            page_token,
        };
        let page = s.inspect.clone().list_leases(request).await.unwrap().into_inner();
        let leases: Vec<_> = page.leases.iter().map(|l| format!("{}/{}", l.holder, l.lease)).collect();
        (leases.join(" "), page.next_page_token)
    };
    let (first, token) = page("", String::new()).await;
    assert_eq!(first, "g1/1 g1/2");
    // What ends between two pages shifts nothing.
    s.settle("llm", "g1", 1).await;
    let (second, token) = page("", token).await;
    assert_eq!(second, "g1/3 g2/1");
    let (third, token) = page("", token).await;
    assert_eq!((third.as_str(), token.as_str()), ("g3/9 g3/10", ""));
    assert_eq!(page("g3", "g3:9".to_owned()).await, ("g3/10".to_owned(), String::new()));

    for cluster in ["m", "k"] {
        s.admit(cluster, "g1", 4).await;
    }
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListPoolsRequest { page_size: 1, page_token, ..Default::default() };
        let page = s.inspect.clone().list_pools(request).await.unwrap().into_inner();
        seen.extend(page.pools.into_iter().map(|state| state.cluster));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["k", "llm", "m"]);
    let request = pb::GetPoolRequest { cluster: "never".into(), ..Default::default() };
    assert_eq!(s.inspect.clone().get_pool(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn draining_finishes_calls_and_ends_watches() {
    let s = Sidecar::start(&steady(TWO)).await;
    let mut watch = InspectClient::clone(&s.inspect)
        .watch_pools(pb::WatchPoolsRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap();
    s.shutdown.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(5), s.task).await.expect("drains in time");
    stopped.unwrap().unwrap();
}

#[test]
fn the_command_tells_what_is_wrong() {
    let evenkeel = env!("CARGO_BIN_EXE_evenkeel");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "keep_alive_interval: 1ms\nstore: {type: disk}\n").unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(evenkeel).args(args).output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (ok, text) = run(&["check-config", file.path().to_str().unwrap()]);
    assert!(
        !ok && text.contains("keep_alive_interval: must be")
            && text.contains("store.type: must be memory or redis"),
        "{text}"
    );
    let (ok, text) = run(&["pools", "--server", "http://127.0.0.1:1"]);
    assert!(!ok && text.contains("no sidecar answers at http://127.0.0.1:1: Connection refused"), "{text}");
    assert_eq!(text.matches("refused").count(), 1, "{text}");
    std::fs::write(file.path(), TWO).unwrap();
    let (ok, text) = run(&["check-config", file.path().to_str().unwrap()]);
    assert!(ok && text.contains("ok (1 pool rules, memory store)"), "{text}");
    for subcommand in ["serve", "check-config", "pools", "leases", "admit"] {
        let (ok, text) = run(&[subcommand, "--help"]);
        assert!(ok && text.contains("Usage:"), "{text}");
    }
}

/// `evenkeel leases | head` must neither panic nor fail.
#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let s = Sidecar::start(TWO).await;
    s.lease("llm", "h", 1).await;
    let url = format!("http://{}", s.addresses.grpc.as_ref().unwrap());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = tokio::task::spawn_blocking(move || {
        let mut leases = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        leases.args(["leases", "--server", &url, "--cluster", "llm"]).stdout(writer).output().unwrap()
    });
    let output = status.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}
