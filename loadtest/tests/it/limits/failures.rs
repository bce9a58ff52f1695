//! Tests of reservations and requests in flight when a gateway, a sidecar or Redis fails.

use std::time::{Duration, Instant};

use super::{ChatRequest, Fixture, HOUR, INTERVAL, LIMIT, Reply, SLACK};
use crate::support::{pool::metric, wait::within};

/// Tokens that the sidecars expect of a request.
const EXPECTED: u64 = 1000;

const HOURLY: &str = "
limits:
  - {name: tokens, counts: tokens, amount: 100k, per: 1h, key: [consumer], reserve_margin: 1}
  - {name: at-once, counts: requests, amount: 6, algorithm: concurrency, key: [consumer]}
quotas:
  - {name: balance, counts: tokens, kind: prepaid, default: 1M, reserve_margin: 1}
";

/// The reservations remain until their window ends; in a prepaid balance they remain permanently. The requests in
/// flight stop counting after one and a half intervals without a KeepAlive.
#[tokio::test]
async fn a_killed_gateways_reservations_end_with_their_window() {
    const WINDOW: Duration = Duration::from_secs(10);
    let limits = HOURLY.replace("per: 1h", "per: 10s");
    let builder = Fixture::builder(2, &limits).keep_alive_interval(INTERVAL);
    let Some(mut fixture) = Fixture::start(builder).await else { return };
    let request = ChatRequest::of("bereft").actual_tokens(300, 400);
    fixture.wait_window(WINDOW, WINDOW * 9 / 10).await;
    let before = fixture.host_totals("bereft");
    assert_eq!(before.requests, 0);

    // Four requests go through the gateway that will be killed, and two through the other gateway. They reach the
    // concurrency limit.
    let (dying, at_hosts) = fixture.hold(&[0], 4, &request).await;
    assert_eq!(at_hosts, 4);
    let (living, at_hosts) = fixture.hold(&[1], 3, &request).await;
    assert_eq!(at_hosts, 2);
    fixture.wait_used(1, &request, "tokens", 6 * EXPECTED, 6 * EXPECTED).await;
    fixture.wait_used(1, &request, "at-once", 6, 0).await;

    fixture.lab.envoy(0).kill9().unwrap();
    let killed = Instant::now();
    for request in dying.requests {
        request.await.unwrap().unwrap_err();
    }
    // The requests stop counting one and a half intervals after the gateway's last KeepAlive. The gateway sent this
    // KeepAlive at most one interval before it was killed.
    fixture.wait_used(1, &request, "at-once", 2, 0).await;
    let took = killed.elapsed();
    eprintln!(
        "requests in flight of the killed gateway stopped counting after {took:?} (interval {INTERVAL:?})"
    );
    assert!(took <= INTERVAL * 3 / 2 + SLACK, "{took:?}");
    fixture.lab.fleet().release();
    living.replies().await;
    fixture.wait_used(1, &request, "tokens", 4 * EXPECTED + 2 * 700, 4 * EXPECTED).await;
    fixture.wait_used(1, &request, "balance", 4 * EXPECTED + 2 * 700, 4 * EXPECTED).await;

    // The next window starts without the reservations. The balance still contains them.
    fixture.wait_used(1, &request, "tokens", 0, 0).await;
    fixture.send(1, &request).await.assert_served();
    fixture.wait_used(1, &request, "tokens", 700, 0).await;
    fixture.wait_used(1, &request, "balance", 4 * EXPECTED + 3 * 700, 4 * EXPECTED).await;
    fixture.wait_used(1, &request, "at-once", 0, 0).await;

    // A restarted gateway is a new holder, without the leases of the old holder.
    fixture.lab.envoy(0).restart().await.unwrap();
    fixture.send(0, &request).await.assert_served();
    fixture.wait_used(1, &request, "balance", 4 * EXPECTED + 4 * 700, 4 * EXPECTED).await;
}

/// Asserts that windows restart at zero. Requests in flight are charged in full, once, when they end. Concurrency
/// limits count them again after the next KeepAlive.
async fn assert_recovery_from_data_loss(restart: bool) {
    let builder = Fixture::builder(2, HOURLY).keep_alive_interval(INTERVAL);
    let Some(mut fixture) = Fixture::start(builder).await else { return };
    let request = ChatRequest::of("forgotten").actual_tokens(300, 400);
    fixture.wait_window(HOUR, LIMIT).await;
    let (ended, at_hosts) = fixture.hold(&[0, 1], 2, &request).await;
    fixture.lab.fleet().release();
    ended.replies().await;
    fixture.wait_used(0, &request, "tokens", 2 * 700, 0).await;
    assert_eq!(at_hosts, 2);
    let (running, at_hosts) = fixture.hold(&[0, 1], 4, &request).await;
    assert_eq!(at_hosts, 4);
    fixture.wait_used(0, &request, "tokens", 2 * 700 + 4 * EXPECTED, 4 * EXPECTED).await;

    if restart {
        fixture.lab.redis().kill9().unwrap();
        fixture.lab.redis().restart_empty().await.unwrap();
    } else {
        fixture.lab.redis().flushall().await.unwrap();
    }
    let since = Instant::now();
    within(INTERVAL * 3 / 2 + SLACK, "requests in flight count again", || async {
        // Both sidecars are called, because a sidecar notices a lost connection only at its next call.
        for sidecar in 0..2 {
            let limits = fixture.explain(sidecar, &request).await?;
            let (tokens, running) = (&limits["tokens"], &limits["at-once"]);
            assert_eq!((tokens.used, tokens.reserved), (0, 0), "the window restarts");
            if running.used != 4 {
                return Err(format!("{running:?}"));
            }
        }
        Ok(())
    })
    .await;
    let took = since.elapsed();
    eprintln!("running requests counted again after {took:?} (interval {INTERVAL:?})");
    assert!(took <= INTERVAL + SLACK, "{took:?}");

    // New requests arrive in addition to the requests in flight. The concurrency limit still holds.
    let (more, at_hosts) = fixture.hold(&[0, 1], 5, &request).await;
    assert_eq!(at_hosts, 2);
    fixture.wait_used(0, &request, "tokens", 2 * EXPECTED, 2 * EXPECTED).await;
    fixture.lab.fleet().release();
    running.replies().await.iter().for_each(Reply::assert_served);
    more.replies().await;
    fixture.wait_used(0, &request, "tokens", (4 + 2) * 700, 0).await;
    fixture.wait_used(0, &request, "balance", (4 + 2) * 700, 0).await;
    fixture.wait_used(1, &request, "at-once", 0, 0).await;
    // Repeated Settles change nothing: after further KeepAlives the usage is the same.
    let sent = metric(&fixture.lab, 0, "evenkeel_keep_alives_total{result=\"ok\"}").await;
    within(LIMIT, "two more KeepAlives", || async {
        let now = metric(&fixture.lab, 0, "evenkeel_keep_alives_total{result=\"ok\"}").await;
        if now >= sent + 2.0 { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
    assert_eq!(fixture.used(0, &request, "tokens").await, Ok(((4 + 2) * 700, 0)));
    assert_eq!(fixture.redis_counter("forgotten", "tokens").await, Some((4200.0, 0.0)));
}

#[tokio::test]
async fn flushall_charges_requests_in_flight_once() {
    assert_recovery_from_data_loss(false).await;
}

#[tokio::test]
async fn redis_restarting_empty_charges_requests_in_flight_once() {
    assert_recovery_from_data_loss(true).await;
}

/// A restarted sidecar settles a request by its ticket, which the gateway stores and which lists the reservations.
#[tokio::test]
async fn a_restarted_sidecar_settles_by_the_ticket() {
    let builder = Fixture::builder(2, HOURLY).keep_alive_interval(INTERVAL);
    let Some(mut fixture) = Fixture::start(builder).await else { return };
    let request = ChatRequest::of("patient").actual_tokens(300, 400);
    fixture.wait_window(HOUR, LIMIT).await;
    let (running, at_hosts) = fixture.hold(&[0], 5, &request).await;
    assert_eq!(at_hosts, 5);
    fixture.lab.sidecar(0).kill9().unwrap();
    fixture.lab.sidecar(0).restart().await.unwrap();
    fixture.wait_used(0, &request, "tokens", 5 * EXPECTED, 5 * EXPECTED).await;
    fixture.lab.fleet().release();
    running.replies().await.iter().for_each(Reply::assert_served);
    assert_eq!(fixture.host_totals("patient").tokens, 5 * 700);
    for limit in ["tokens", "balance"] {
        fixture.wait_used(1, &request, limit, 5 * 700, 0).await;
    }
    fixture.wait_used(1, &request, "at-once", 0, 0).await;
    fixture.wait_ledger_matches_hosts(1, "patient").await;
}

/// While Redis is down, each sidecar admits requests up to its share of a limit. Requests that end in the meantime are
/// charged when Redis is up again.
#[tokio::test]
async fn requests_that_end_while_redis_is_down_are_charged_later() {
    // Each sidecar's share of 6 concurrent requests is 3.
    let builder =
        Fixture::builder(2, HOURLY).keep_alive_interval(INTERVAL).store_timeout(Duration::from_millis(300));
    let Some(mut fixture) = Fixture::start(builder).await else { return };
    let (request, other) = (
        ChatRequest::of("before").actual_tokens(300, 400),
        ChatRequest::of("meanwhile").actual_tokens(300, 400),
    );
    fixture.wait_window(HOUR, Duration::from_secs(60)).await;
    let (running, at_hosts) = fixture.hold(&[0, 1], 6, &request).await;
    assert_eq!(at_hosts, 6);
    within(LIMIT, "the sidecars count each other", || async {
        let counted = metric(&fixture.lab, 0, "evenkeel_sidecars").await;
        if counted == 2.0 { Ok(()) } else { Err(format!("{counted}")) }
    })
    .await;

    fixture.lab.redis().pause().unwrap();
    // Each sidecar admits no more than its share, as documented.
    let (meanwhile, at_hosts) = fixture.hold(&[0, 1], 20, &other).await;
    assert_eq!(at_hosts, 6);
    fixture.lab.fleet().release();
    running.replies().await.iter().for_each(Reply::assert_served);
    for reply in meanwhile.replies().await.iter().filter(|reply| reply.status != 200) {
        assert_eq!(reply.status, 429, "{}", reply.body);
    }
    // Redis stays down for some lists.
    for sidecar in 0..2 {
        within(LIMIT, "KeepAlives are not applied to the store", || async {
            let unapplied =
                metric(&fixture.lab, sidecar, "evenkeel_keep_alives_total{result=\"unapplied\"}").await;
            if unapplied >= 3.0 { Ok(()) } else { Err(format!("{unapplied}")) }
        })
        .await;
        assert_eq!(metric(&fixture.lab, sidecar, "evenkeel_store_up").await, 0.0);
    }
    let host_totals = fixture.host_totals("before");
    assert_eq!(host_totals.tokens, 6 * 700);

    fixture.lab.redis().resume().unwrap();
    for limit in ["tokens", "balance"] {
        fixture.wait_used(1, &request, limit, host_totals.tokens, 0).await;
    }
    fixture.wait_used(0, &request, "at-once", 0, 0).await;
    fixture.wait_ledger_matches_hosts(0, "before").await;
    fixture.wait_ledger_matches_hosts(0, "meanwhile").await;
    // Requests that were counted against the shares are not added to the counters in the store. No reservation remains
    // that no Settle would release.
    fixture.wait_used(1, &other, "tokens", 0, 0).await;
    fixture.wait_used(0, &other, "at-once", 0, 0).await;
}
