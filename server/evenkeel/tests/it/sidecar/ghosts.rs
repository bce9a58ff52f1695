//! A client that lists leases which nobody granted, or acts in the name of another holder.

use evenkeel_proto::{
    HolderClient, HolderSecret,
    v1::{self as pb, gateway_client::GatewayClient},
};
use tonic::Code;

use crate::support::{
    redis::Redis,
    requests,
    sidecar::Sidecar,
    worker::{Link, hello},
};

const CONFIG: &str = "
keep_alive_interval: 20s
pools:
- {cluster: llm, endpoints: [{address: a, cap: 8}, {address: b, cap: 8}]}
- {cluster: uncapped, endpoints: [{address: a}]}
";
const REFUSED: &str = "evenkeel_repairs_total{kind=\"refused\"}";
const GHOSTS: u64 = 20_000;

fn ghosts(cluster: &str) -> pb::HeldPool {
    let endpoint_of = (0..GHOSTS).map(|lease| 1 + (lease % 2) as u32).collect();
    let endpoints = vec!["a".into(), "b".into()];
    let leases = (1..=GHOSTS).collect();
    pb::HeldPool {
        pool: Some(requests::pool(cluster)),
        endpoints,
        leases,
        endpoint_of,
        ..pb::HeldPool::default()
    }
}

/// A ghost of 20,000 leases filled a pool.
async fn a_ghost_restores_few_leases(s: &Sidecar) {
    let honest = s.lease("llm", "honest", 1).await;
    for holder in ["ghost", "ghost-2"] {
        let list = requests::keep_alive(GHOSTS, vec![ghosts("llm"), ghosts("uncapped")]);
        let list = pb::KeepAliveRequest { holder: holder.into(), ..list };
        s.gateway.clone().keep_alive(list).await.unwrap();
    }
    // Twice the caps.
    let in_flight: Vec<u64> = s.pool("llm").await.endpoints.iter().map(|e| e.in_flight).collect();
    assert!(in_flight.iter().all(|count| *count <= 16), "{in_flight:?}");
    // Without caps, the rate of each holder.
    let uncapped = s.pool("uncapped").await.in_flight;
    assert!(uncapped <= 2 * 4096, "{uncapped}");
    assert!(s.metric(REFUSED).await >= (2 * 2 * GHOSTS - 32 - 2 * 4096) as f64);
    // An honest holder keeps its lease, whatever the counts are.
    let kept = s.keep_alive("llm", "honest", 1, &[(1, Some(&honest))]).await;
    assert_eq!((kept.restored, kept.dropped), (0, 0));
    // The ghosts' leases end with an empty list, and the counts are exact again.
    for holder in ["ghost", "ghost-2"] {
        s.keep_alive("llm", holder, GHOSTS, &[]).await;
    }
    assert_eq!(s.pool("llm").await.in_flight, 1);
}

#[tokio::test]
async fn a_ghost_restores_few_leases_in_redis() {
    let redis = Redis::start();
    a_ghost_restores_few_leases(&Sidecar::start(&(redis.store(", timeout: 5s") + CONFIG)).await).await;
}

#[tokio::test]
async fn a_ghost_restores_few_leases_in_the_embedded_store() {
    a_ghost_restores_few_leases(&Sidecar::start(CONFIG).await).await;
}

/// An empty KeepAlive in the name of another dropped his leases. So did every other call in his name.
#[tokio::test]
async fn nobody_acts_in_the_name_of_another() {
    let s = Sidecar::start(CONFIG).await;
    s.lease("llm", "victim", 1).await;
    let channel = tonic::transport::Endpoint::from_shared(s.url()).unwrap().connect().await.unwrap();
    let mut with_secret = HolderClient::new(HolderSecret::new([9; 16]).on(channel.clone()));
    let mut without = GatewayClient::new(channel);
    let empty = pb::KeepAliveRequest {
        holder: "victim".into(),
        ..requests::keep_alive(9, vec![requests::held("llm", &[])])
    };
    let settle = pb::SettleRequest { holder: "victim".into(), ..requests::settle("llm", 1) };
    let admit = pb::AdmitRequest { holder: "victim".into(), ..requests::admit("llm", 2) };
    let denied = [
        without.keep_alive(empty.clone()).await.map(drop),
        without.settle(settle.clone()).await.map(drop),
        without.admit(admit.clone()).await.map(drop),
        with_secret.keep_alive(empty).await.map(drop),
        with_secret.settle(settle).await.map(drop),
        with_secret.admit(admit).await.map(drop),
        Link::open(&s.url(), hello("victim", &[])).await.map(drop),
        Link::open(&s.url(), hello("victim", &[9; 16])).await.map(drop),
        Link::open(&s.url(), pb::FromWorker { goodbye: true, ..hello("victim", &[9; 16]) }).await.map(drop),
    ];
    for (i, result) in denied.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().code(), Code::PermissionDenied, "call {i}");
    }
    assert_eq!(s.pool("llm").await.in_flight, 1);
    assert!(s.settle("llm", "victim", 1).await, "the lease was still there");
}
