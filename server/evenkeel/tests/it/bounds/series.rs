//! Names that gateways send must not make the metrics grow without bound.

use evenkeel_proto::v1::{AdmitRequest, Pool};

use crate::support::{eventually, requests, sidecar::Sidecar};

/// 400 pools of 500 endpoints made a scrape of 165 MiB.
#[tokio::test]
async fn generated_names_do_not_take_the_series_of_others() {
    let s = Sidecar::start("pools: [{cluster: known, endpoints: [{address: 'z:1'}]}]\n").await;
    for pool in 0..600 {
        let name = |n: usize| format!("{}-{pool}-{n}:8000", "x".repeat(100));
        let candidates = (0..20).map(|n| requests::candidate(&name(n), 1.0, 0)).collect();
        let cluster = format!("cluster-{pool}-{}", "y".repeat(200));
        let pool = Some(Pool { route: String::new(), cluster });
        s.admitted(AdmitRequest { pool, candidates, ..requests::admit("llm", 1) }).await;
    }
    let text = eventually(std::time::Duration::from_secs(30), "all pools have been read", || async {
        let (_, text) = s.get("/metrics").await;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap().parse::<usize>().unwrap()
        };
        // 601 pools, and 12,001 endpoints.
        match (value("evenkeel_pools_without_series"), value("evenkeel_endpoints_without_series")) {
            (89, 7905) => Ok(text),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let series = |name: &str| text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
    assert_eq!((series("evenkeel_in_flight"), series("evenkeel_holders")), (4096, 512));
    assert!(text.contains("evenkeel_in_flight{cluster=\"known\",endpoint=\"z:1\",route=\"\"} 0"));
    assert!(text.len() < 8 << 20, "{} bytes", text.len());
}
