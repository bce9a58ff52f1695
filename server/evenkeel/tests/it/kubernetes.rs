//! Endpoints from EndpointSlices. The test contains an API server.

use std::time::Duration;

use evenkeel_proto::v1::{Reason, admit_response::Answer};
use serde_json::json;

use crate::support::{
    eventually,
    kubernetes::{FakeApi, not_ready, ready, slice, terminating},
    process::Process,
    proxy::{Mode, Proxy},
    sidecar::Sidecar,
    tls::behind_tls,
};

const LIMIT: Duration = Duration::from_secs(20);

/// Starts a sidecar with one pool, whose endpoints are those of the service `models/llm`. The sidecar retries soon.
async fn follow(port: u16) -> Sidecar {
    follow_with(port, "").await
}

async fn follow_with(port: u16, more: &str) -> Sidecar {
    Sidecar::start(&format!(
        "keep_alive_interval: 60s\n\
         kubernetes: {{api_server: 'http://127.0.0.1:{port}', namespace: models, retry_max: 100ms{more}}}\n\
         pools: [{{cluster: llm, cap: 1, kubernetes: {{service: llm}}}}]"
    ))
    .await
}

async fn endpoints_of(s: &Sidecar, cluster: &str) -> Vec<String> {
    let state = s.pool(cluster).await;
    state.endpoints.into_iter().filter(|e| e.listed).map(|e| e.address).collect()
}

async fn become_of(s: &Sidecar, cluster: &str, expected: &[&str]) {
    eventually(LIMIT, &format!("endpoints of {cluster} are {expected:?}"), || async {
        let got = endpoints_of(s, cluster).await;
        if got == expected { Ok(()) } else { Err(format!("{got:?}")) }
    })
    .await;
}

async fn becomes(s: &Sidecar, expected: &[&str]) {
    become_of(s, "llm", expected).await;
}

async fn metric_is(s: &Sidecar, name: &str, holds: impl Fn(f64) -> bool) {
    eventually(LIMIT, name, || async {
        let now = s.metric(name).await;
        if holds(now) { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

const UP: &str = "evenkeel_discovery_up{cluster=\"llm\",route=\"\",source=\"kubernetes\"}";
const ERRORS: &str = "evenkeel_discovery_errors_total{source=\"kubernetes\"}";

#[tokio::test]
async fn endpoints_follow_slices() {
    let api = FakeApi::start().await;
    api.put("llm-a", &[ready("10.0.0.1"), not_ready("10.0.0.2")]);
    // One slice belongs to another service, and one to another namespace.
    api.put_slice("models", "other", "other-a", slice("IPv4", 8000, &[ready("10.0.9.1")]));
    api.put_slice("elsewhere", "llm", "llm-a", slice("IPv4", 8000, &[ready("10.0.9.2")]));
    let s = follow(api.port).await;
    becomes(&s, &["10.0.0.1:8000"]).await;
    metric_is(&s, UP, |up| up == 1.0).await;

    // A second slice is added. An endpoint that is in both slices counts once.
    api.put("llm-b", &[ready("10.0.0.3"), ready("10.0.0.1")]);
    becomes(&s, &["10.0.0.1:8000", "10.0.0.3:8000"]).await;
    // An endpoint becomes ready.
    api.put("llm-a", &[ready("10.0.0.1"), ready("10.0.0.2")]);
    becomes(&s, &["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]).await;
    // A slice is deleted. An endpoint that is also in the other slice stays.
    api.delete("llm-b");
    becomes(&s, &["10.0.0.1:8000", "10.0.0.2:8000"]).await;
    assert_eq!(api.lists(), 1, "changes come from the watch, without a list: {:?}", api.asked());

    // A service scaled to zero has no endpoints.
    api.put("llm-a", &[]);
    becomes(&s, &[]).await;
    let Answer::Denied(denied) = s.admit("llm", "h", 1).await else { panic!("admitted") };
    assert_eq!(denied.reason(), Reason::NoEndpoints);
}

#[tokio::test]
async fn an_unready_or_terminating_endpoint_gets_no_new_request() {
    let api = FakeApi::start().await;
    api.put("llm-a", &[ready("10.0.0.1"), not_ready("10.0.0.2"), terminating("10.0.0.3")]);
    let s = follow(api.port).await;
    becomes(&s, &["10.0.0.1:8000"]).await;
    // The cap is 1, so the next request would go to another endpoint.
    assert_eq!(&*s.lease("llm", "h", 1).await, "10.0.0.1:8000");
    let Answer::Denied(denied) = s.admit("llm", "h", 2).await else { panic!("admitted") };
    assert_eq!(denied.reason(), Reason::PoolFull);

    // The endpoint's pod terminates. Its request is counted until the request ends.
    api.put("llm-a", &[terminating("10.0.0.1"), ready("10.0.0.2")]);
    becomes(&s, &["10.0.0.2:8000"]).await;
    assert_eq!(&*s.lease("llm", "h", 3).await, "10.0.0.2:8000");
    let gone = s.pool("llm").await.endpoints.into_iter().find(|e| !e.listed).unwrap();
    assert_eq!((gone.address.as_str(), gone.in_flight), ("10.0.0.1:8000", 1));
    assert!(s.settle("llm", "h", 1).await);
    assert!(s.pool("llm").await.endpoints.iter().all(|e| e.listed));
    let Answer::Denied(_) = s.admit("llm", "h", 4).await else { panic!("admitted") };
}

#[tokio::test]
async fn endpoints_stay_while_the_api_server_is_down() {
    let api = FakeApi::start().await;
    api.put("llm-a", &[ready("10.0.0.1"), ready("10.0.0.2")]);
    let proxy = Proxy::start(api.port).await;
    let s = follow(proxy.port).await;
    becomes(&s, &["10.0.0.1:8000", "10.0.0.2:8000"]).await;
    metric_is(&s, UP, |up| up == 1.0).await;

    proxy.set(Mode::Refuse);
    metric_is(&s, UP, |up| up == 0.0).await;
    api.put("llm-a", &[ready("10.0.0.2")]);
    api.put("llm-b", &[ready("10.0.0.4")]);
    // The sidecar retries, and no endpoint changes.
    let before = s.metric(ERRORS).await;
    metric_is(&s, ERRORS, |now| now >= before + 3.0).await;
    assert_eq!(endpoints_of(&s, "llm").await, ["10.0.0.1:8000", "10.0.0.2:8000"]);
    let (one, other) = (s.lease("llm", "h", 1).await, s.lease("llm", "h", 2).await);
    assert_ne!(one, other);

    proxy.set(Mode::Pass);
    becomes(&s, &["10.0.0.2:8000", "10.0.0.4:8000"]).await;
    metric_is(&s, UP, |up| up == 1.0).await;
    assert_eq!(api.lists(), 1, "a new watch resumes where the last was cut");
}

/// After a watch expires (410), only a new list shows the changes that no watch reports any more. Guards against a
/// switch to the watcher of the `kube` crate, which repeats a watch after status 410 instead of listing.
#[tokio::test]
async fn an_expired_watch_is_followed_by_a_new_list() {
    for in_stream in [false, true] {
        let api = FakeApi::start().await;
        api.report_gone_in_stream(in_stream);
        api.put("llm-a", &[ready("10.0.0.1")]);
        api.put("llm-b", &[ready("10.0.0.2")]);
        let proxy = Proxy::start(api.port).await;
        let s = follow(proxy.port).await;
        becomes(&s, &["10.0.0.1:8000", "10.0.0.2:8000"]).await;
        metric_is(&s, UP, |up| up == 1.0).await;

        proxy.set(Mode::Refuse);
        metric_is(&s, UP, |up| up == 0.0).await;
        api.delete("llm-b");
        api.put("llm-c", &[ready("10.0.0.3")]);
        api.compact();
        assert_eq!(endpoints_of(&s, "llm").await, ["10.0.0.1:8000", "10.0.0.2:8000"]);
        proxy.set(Mode::Pass);
        becomes(&s, &["10.0.0.1:8000", "10.0.0.3:8000"]).await;
        metric_is(&s, UP, |up| up == 1.0).await;
        assert_eq!(api.lists(), 2, "{:?}", api.asked());

        // A watch in progress gets the status 410 too. The next watch works.
        api.compact();
        eventually(LIMIT, "a third list", || async {
            if api.lists() == 3 { Ok(()) } else { Err(api.lists().to_string()) }
        })
        .await;
        api.put("llm-d", &[ready("10.0.0.4")]);
        becomes(&s, &["10.0.0.1:8000", "10.0.0.3:8000", "10.0.0.4:8000"]).await;
    }
}

#[tokio::test]
async fn errors_and_cut_responses_change_no_endpoint() {
    let api = FakeApi::start().await;
    api.put("llm-a", &[ready("10.0.0.1")]);
    api.fail_with(Some(500));
    let proxy = Proxy::start(api.port).await;
    let s = follow(proxy.port).await;
    metric_is(&s, ERRORS, |errors| errors >= 2.0).await;
    // No endpoint is known yet.
    assert_eq!(s.metric(UP).await, 0.0);
    let Answer::Denied(denied) = s.admit("llm", "h", 1).await else { panic!("admitted") };
    assert_eq!(denied.reason(), Reason::NoEndpoints);
    api.fail_with(None);
    becomes(&s, &["10.0.0.1:8000"]).await;
    metric_is(&s, UP, |up| up == 1.0).await;

    for code in [500, 503, 429, 401, 403] {
        api.fail_with(Some(code));
        api.end_watches();
        metric_is(&s, UP, |up| up == 0.0).await;
        let before = s.metric(ERRORS).await;
        metric_is(&s, ERRORS, |errors| errors >= before + 2.0).await;
        assert_eq!(endpoints_of(&s, "llm").await, ["10.0.0.1:8000"], "{code}");
        api.fail_with(None);
        metric_is(&s, UP, |up| up == 1.0).await;
    }

    // The response is cut in the middle of an event.
    let before = api.watches();
    proxy.set(Mode::CutReply);
    api.put("llm-a", &[ready("10.0.0.2")]);
    eventually(LIMIT, "another watch", || async {
        if api.watches() > before { Ok(()) } else { Err(api.watches().to_string()) }
    })
    .await;
    assert_eq!(endpoints_of(&s, "llm").await, ["10.0.0.1:8000"]);
    proxy.set(Mode::Pass);
    becomes(&s, &["10.0.0.2:8000"]).await;
}

#[tokio::test]
async fn a_silent_watch_is_replaced_after_its_timeout() {
    let api = FakeApi::start().await;
    api.put("llm-a", &[ready("10.0.0.1")]);
    let s = follow_with(api.port, ", watch_timeout: 1s").await;
    becomes(&s, &["10.0.0.1:8000"]).await;
    metric_is(&s, UP, |up| up == 1.0).await;
    api.mute();
    api.put("llm-a", &[ready("10.0.0.2")]);
    becomes(&s, &["10.0.0.2:8000"]).await;
    assert_eq!((api.lists(), s.metric(ERRORS).await), (1, 0.0));
}

#[tokio::test]
async fn a_new_watch_resumes_from_the_last_bookmark() {
    let api = FakeApi::start().await;
    api.put("llm-a", &[ready("10.0.0.1")]);
    let s = follow_with(api.port, ", watch_timeout: 1s").await;
    becomes(&s, &["10.0.0.1:8000"]).await;
    let listed = api.asked()[1].version.clone();
    api.bookmark();
    // A watch lasts a second, and the next watch starts at the last bookmark.
    eventually(LIMIT, "a watch from the bookmark", || async {
        let last = api.asked().last().cloned().unwrap();
        let is_later = last.is_watch && last.version.parse::<u64>().unwrap() > listed.parse().unwrap();
        if is_later { Ok(()) } else { Err(format!("{last:?}")) }
    })
    .await;
    api.put("llm-a", &[ready("10.0.0.2")]);
    becomes(&s, &["10.0.0.2:8000"]).await;
    assert_eq!((api.lists(), s.metric(ERRORS).await, s.metric(UP).await), (1, 0.0, 1.0));
}

#[tokio::test]
async fn pools_of_one_service_share_a_watch() {
    let api = FakeApi::start().await;
    let two = json!({"addressType": "IPv4", "endpoints": [ready("10.0.0.1")],
        "ports": [{"name": "http", "port": 8000}, {"name": "grpc", "port": 9000}]});
    api.put_slice("models", "llm", "llm-a", two);
    let s = Sidecar::start(&format!(
        "keep_alive_interval: 60s\n\
         kubernetes: {{api_server: '{}', namespace: models, retry_max: 100ms}}\n\
         pools:\n\
         - {{cluster: a, kubernetes: {{service: llm, port: http}}}}\n\
         - {{cluster: b, kubernetes: {{service: llm, namespace: models, port: 9000}}, weight: 2, cap: 7}}\n\
         - {{cluster: c, kubernetes: {{service: llm}}}}\n\
         unlisted_pools: {{kubernetes: {{namespace: models}}}}\n",
        api.url()
    ))
    .await;
    become_of(&s, "a", &["10.0.0.1:8000"]).await;
    become_of(&s, "b", &["10.0.0.1:9000"]).await;
    let endpoint = s.pool("b").await.endpoints.remove(0);
    assert_eq!((endpoint.weight, endpoint.cap), (2.0, 7));
    // The pool does not name one of the service's two ports.
    let left_out = "evenkeel_discovery_unused_endpoints{cluster=\"c\",reason=\"missing_port\",route=\"\"}";
    metric_is(&s, left_out, |left_out| left_out == 1.0).await;
    assert!(endpoints_of(&s, "c").await.is_empty());

    // This cluster has a name as in Istio, and the configuration does not list it.
    let named = "outbound|8000||llm.models.svc.cluster.local";
    eventually(LIMIT, "admitted", || async {
        match s.admit(named, "h", 1).await {
            Answer::Admitted(admitted) if admitted.endpoint == "10.0.0.1:8000" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for not_followed in
        ["outbound|8000||llm.other.svc.cluster.local", "outbound|8000|v1|llm.models.svc", "llm"]
    {
        let Answer::Denied(denied) = s.admit(not_followed, "h", 2).await else { panic!("admitted") };
        assert_eq!(denied.reason(), Reason::NoEndpoints);
    }
    let asked = api.asked();
    assert_eq!((api.lists(), api.watches()), (1, 1), "{asked:?}");
    assert!(asked.iter().all(|asked| (&*asked.namespace, &*asked.service) == ("models", "llm")));
    // A name that comes from a gateway is not used as a label.
    let (_, text) = s.get("/metrics").await;
    let labelled = |line: &&str| line.starts_with("evenkeel_discovery_up") && line.contains("outbound");
    assert_eq!(text.lines().find(labelled), None);
}

#[tokio::test]
async fn the_token_is_sent_and_ipv6_used_without_ipv4() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let api = FakeApi::start().await;
    api.put_slice("models", "llm", "llm-v6", slice("IPv6", 8000, &[ready("fd00::1")]));
    api.put_slice("models", "llm", "llm-names", slice("FQDN", 8000, &[ready("llm.example.com")]));
    let s = follow_with(api.port, &format!(", token_file: '{}'", token.display())).await;
    becomes(&s, &["[fd00::1]:8000"]).await;
    let shown = |token: &Option<String>| token.as_deref() == Some("Bearer s3cret");
    assert!(api.asked().iter().all(|asked| shown(&asked.token)), "{:?}", api.asked());
    api.put_slice("models", "llm", "llm-v4", slice("IPv4", 8000, &[ready("10.0.0.1")]));
    becomes(&s, &["10.0.0.1:8000"]).await;

    // The token in the file changes, and the sidecar sends the new token.
    std::fs::write(&token, "an0ther\n").unwrap();
    api.end_watches();
    eventually(LIMIT, "the new token", || async {
        let last = api.asked().last().cloned().unwrap();
        if last.token.as_deref() == Some("Bearer an0ther") { Ok(()) } else { Err(format!("{last:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_kubeconfig_names_the_api_server() {
    let directory = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    api.put("llm-a", &[ready("10.0.0.1")]);
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": api.url()}}],
        "users": [{"name": "u", "user": {"token": "t0ken"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "models"}}]});
    let path = directory.path().join("config");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    let s = Sidecar::start(&format!(
        "kubernetes: {{kubeconfig: '{}'}}\npools: [{{cluster: llm, kubernetes: {{service: llm, port: http}}}}]",
        path.display()
    ))
    .await;
    becomes(&s, &["10.0.0.1:8000"]).await;
    assert_eq!(api.asked()[0].token.as_deref(), Some("Bearer t0ken"));
}

#[tokio::test]
async fn an_untrusted_certificate_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let api = FakeApi::start().await;
    api.put("llm-a", &[ready("10.0.0.1")]);
    let (port, ca) = behind_tls(api.port).await;
    let (_, another) = behind_tls(api.port).await;
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let start = async |ca_file: String| {
        Sidecar::start(&format!(
            "kubernetes: {{api_server: 'https://127.0.0.1:{port}', namespace: models, retry_max: 100ms, ca_file: '{ca_file}'}}\n\
             pools: [{{cluster: llm, kubernetes: {{service: llm}}}}]"
        ))
        .await
    };
    let refused = start(file("another", &another)).await;
    metric_is(&refused, ERRORS, |errors| errors >= 3.0).await;
    assert_eq!(api.lists(), 0);
    let s = start(file("ca", &ca)).await;
    becomes(&s, &["10.0.0.1:8000"]).await;
    api.put("llm-a", &[ready("10.0.0.2")]);
    becomes(&s, &["10.0.0.2:8000"]).await;
}

#[tokio::test]
async fn the_log_names_missing_rights_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let api = FakeApi::start().await;
    api.put("llm-a", &[ready("10.0.0.1")]);
    api.fail_with(Some(403));
    let config = format!(
        "listen: {{grpc: '127.0.0.1:0', http: '127.0.0.1:0'}}\n\
         kubernetes: {{api_server: '{}', retry_max: 100ms}}\n\
         pools: [{{cluster: llm, kubernetes: {{service: llm, namespace: models}}}}]\n",
        api.url()
    );
    std::fs::write(path("evenkeel.yaml"), config).unwrap();
    let log_file = std::fs::File::create(path("log")).unwrap();
    let _process = Process::serve(&path("evenkeel.yaml"), &[], log_file.into());
    let log = || std::fs::read_to_string(path("log")).unwrap();
    let logs = async |what: &str| {
        eventually(LIMIT, what, || async { if log().contains(what) { Ok(()) } else { Err(log()) } }).await;
    };
    let needed =
        "needs a Role in namespace models with get, list and watch of endpointslices in discovery.k8s.io";
    logs(needed).await;
    let before = api.lists();
    eventually(LIMIT, "asked again", || async {
        if api.lists() >= before + 3 { Ok(()) } else { Err(api.lists().to_string()) }
    })
    .await;
    // When the sidecar gets the rights, it needs no restart.
    api.fail_with(None);
    logs("the API server sends endpoints again").await;
    logs("endpoints changed pool=llm from=0 to=1").await;
    assert_eq!(log().matches(needed).count(), 1, "{}", log());
    assert!(!log().contains("ERROR") && !log().contains("kube_client"), "{}", log());
}
