//! Tests of a sidecar that stops and starts again under steady traffic. No settlement may be lost or applied twice.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::{ChatRequest, Fixture, HOUR, INTERVAL, LIMIT, Reply};
use crate::support::{chat, wait::within};

const ROOMY: &str = "
limits:
  - {name: tokens, counts: tokens, amount: 100M, per: 1h, key: [consumer], reserve_margin: 1}
  - {name: at-once, counts: requests, amount: 1000, algorithm: concurrency, key: [consumer]}
";
const REQUESTS: usize = 300;
const REQUESTS_PER_S: u64 = 60;
/// Number of requests that are at hosts or served before the sidecar stops.
const BEFORE: usize = 120;

/// How the sidecar stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Terminate,
    Kill,
}

/// Sends requests at a constant rate, whatever becomes of the earlier ones. Returns their replies.
async fn send_steadily(url: String, request: ChatRequest) -> Vec<Reply> {
    let client = chat::client();
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / REQUESTS_PER_S));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = Vec::new();
    for _ in 0..REQUESTS {
        ticks.tick().await;
        let (client, request) = (client.clone(), request.build(&url));
        requests.push(tokio::spawn(async move { Reply::read(client.request(request).await.unwrap()).await }));
    }
    let replies = futures::future::join_all(requests).await;
    replies.into_iter().map(|reply| reply.unwrap().unwrap()).collect()
}

/// Stops and starts the sidecar under traffic. Every request is served and charged exactly once, and nothing stays
/// reserved.
async fn assert_charged_once(stop: Stop) {
    let builder = Fixture::builder(1, ROOMY).keep_alive_interval(INTERVAL);
    let Some(mut fixture) = Fixture::start(builder).await else { return };
    let request = ChatRequest::of("steady").actual_tokens(300, 400);
    fixture.wait_window(HOUR, 2 * LIMIT).await;
    let sending = tokio::spawn(send_steadily(fixture.url(0), request.clone()));
    within(LIMIT, "requests are served", || async {
        let served = fixture.served("steady").len();
        if served >= BEFORE { Ok(()) } else { Err(served.to_string()) }
    })
    .await;
    let sidecar = fixture.lab.sidecar(0);
    match stop {
        Stop::Terminate => assert_eq!(sidecar.terminate(LIMIT).await.unwrap(), Some(0)),
        Stop::Kill => sidecar.kill9().unwrap(),
    }
    sidecar.restart().await.unwrap();
    assert!(!sending.is_finished(), "the sidecar starts again under traffic");
    sending.await.unwrap().iter().for_each(Reply::assert_served);
    let totals = fixture.host_totals("steady");
    assert_eq!((totals.requests, totals.tokens), (REQUESTS as u64, 700 * REQUESTS as u64));
    fixture.wait_used(0, &request, "tokens", totals.tokens, 0).await;
    fixture.wait_used(0, &request, "at-once", 0, 0).await;
    // A killed sidecar loses the usage that it has not yet written to the ledger, as documented.
    if stop == Stop::Terminate {
        fixture.wait_ledger_matches_hosts(0, "steady").await;
    }
}

#[tokio::test]
async fn a_sidecar_that_shuts_down_loses_no_settlement() {
    assert_charged_once(Stop::Terminate).await;
}

#[tokio::test]
async fn a_killed_sidecar_loses_no_settlement() {
    assert_charged_once(Stop::Kill).await;
}
