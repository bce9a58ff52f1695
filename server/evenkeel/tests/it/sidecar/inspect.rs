//! What operators can see: lists, watches, metrics and health.

use std::time::Duration;

use evenkeel_proto::v1 as pb;
use tonic::Code;

use super::{TWO, steady};
use crate::support::{eventually, sidecar::Sidecar};

#[tokio::test]
async fn lists_are_read_in_pages() {
    let s = Sidecar::start(&steady(&TWO.replace("cap: 2", "cap: 100"))).await;
    for (holder, lease) in [("g1", 1), ("g1", 2), ("g1", 3), ("g2", 1), ("g3", 9), ("g3", 10)] {
        s.lease("llm", holder, lease).await;
    }
    let searched = async |holder: &str, search: &str, page_token: String| {
        let request = pb::ListLeasesRequest {
            // Gateways also send the route, which this pool ignores.
            route: "any".into(),
            cluster: "llm".into(),
            holder: holder.to_owned(),
            search: search.to_owned(),
            page_size: 2,
            page_token,
        };
        let page = s.inspect.clone().list_leases(request).await.unwrap().into_inner();
        let leases: Vec<_> = page.leases.iter().map(|l| format!("{}/{}", l.holder, l.lease)).collect();
        (leases.join(" "), page.next_page_token)
    };
    let page = async |holder: &str, page_token: String| searched(holder, "", page_token).await;
    let (first, token) = page("", String::new()).await;
    assert_eq!(first, "g1/1 g1/2");
    // A lease that ends between two pages does not shift the next page.
    s.settle("llm", "g1", 1).await;
    let (second, token) = page("", token).await;
    assert_eq!(second, "g1/3 g2/1");
    let (third, token) = page("", token).await;
    assert_eq!((third.as_str(), token.as_str()), ("g3/9 g3/10", ""));
    assert_eq!(page("g3", "g3:9".to_owned()).await, ("g3/10".to_owned(), String::new()));
    assert_eq!(searched("", "3", String::new()).await, ("g3/9 g3/10".to_owned(), String::new()));
    assert_eq!(searched("", "no such", String::new()).await, Default::default());
    let all = pb::ListLeasesRequest { cluster: "llm".into(), ..Default::default() };
    let all = s.inspect.clone().list_leases(all).await.unwrap().into_inner();
    let endpoint = all.leases[0].endpoint.clone();
    assert!(searched("", &endpoint, String::new()).await.0.starts_with("g1/2"));

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
async fn a_watch_streams_changes() {
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
async fn http_serves_metrics_health_and_pools() {
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
    // A second scrape sets these metrics again instead of adding to them.
    let (_, again) = s.get("/metrics").await;
    assert!(again.contains("evenkeel_pool_admits_total{cluster=\"llm\",result=\"admitted\",route=\"\"} 1"));
    assert_eq!(s.get("/healthz").await.0, 200);
    assert_eq!(s.get("/readyz").await.0, 200);
    let json: serde_json::Value = serde_json::from_str(&s.get("/api/v1/pools").await.1).unwrap();
    assert_eq!(json["pools"][0]["in_flight"], 1);
    assert!(s.get("/").await.1.contains("<title>Evenkeel</title>"));
}
