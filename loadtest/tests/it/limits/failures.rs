//! What becomes of reservations and running requests when a gateway, a sidecar or Redis fails.

use std::time::{Duration, Instant};

use super::{Ask, Chain, LIMIT, Reply};
use crate::gateway::{metric, within};

const INTERVAL: Duration = Duration::from_secs(1);
/// What a promise of "within an interval" may take besides: the look at it, on a busy machine.
const SLACK: Duration = Duration::from_millis(700);
const EXPECTED: u64 = 1000;

const HOURLY: &str = "
limits:
  - {name: tokens, counts: tokens, amount: 100k, per: 1h, key: [consumer], reserve_margin: 1}
  - {name: at-once, counts: requests, amount: 6, algorithm: concurrency, key: [consumer]}
quotas:
  - {name: balance, counts: tokens, kind: prepaid, default: 1M, reserve_margin: 1}
";

/// Its reservations stay as they were made until their window ends, in a prepaid balance for good. Its running requests
/// are not counted any more once it was silent for one and a half intervals.
#[tokio::test]
async fn a_killed_gateways_reservations_leave_with_their_window() {
    const WINDOW: Duration = Duration::from_secs(10);
    let limits = HOURLY.replace("per: 1h", "per: 10s");
    let builder = Chain::builder(2, &limits).keep_alive_interval(INTERVAL);
    let Some(mut chain) = Chain::start(builder).await else { return };
    let ask = Ask::of("bereft").uses(300, 400);
    chain.window(WINDOW, WINDOW * 9 / 10).await;
    let before = chain.truth("bereft");
    assert_eq!(before.requests, 0);

    // Four through the gateway that will die, two through the other: no more at once.
    let (dying, at_hosts) = chain.hold(&[0], 4, &ask).await;
    assert_eq!(at_hosts, 4);
    let (living, at_hosts) = chain.hold(&[1], 3, &ask).await;
    assert_eq!(at_hosts, 2);
    chain.uses(1, &ask, "tokens", 6 * EXPECTED, 6 * EXPECTED).await;
    chain.uses(1, &ask, "at-once", 6, 0).await;

    chain.lab.envoy(0).kill9().unwrap();
    let killed = Instant::now();
    for request in dying.requests {
        request.await.unwrap().unwrap_err();
    }
    // One and a half intervals after its last sign of life, which was at most one before its end.
    chain.uses(1, &ask, "at-once", 2, 0).await;
    let took = killed.elapsed();
    eprintln!(
        "running requests of the killed gateway not counted any more after {took:?} (interval {INTERVAL:?})"
    );
    assert!(took <= INTERVAL * 3 / 2 + SLACK, "{took:?}");
    chain.lab.fleet().release();
    living.replies().await;
    chain.uses(1, &ask, "tokens", 4 * EXPECTED + 2 * 700, 4 * EXPECTED).await;
    chain.uses(1, &ask, "balance", 4 * EXPECTED + 2 * 700, 4 * EXPECTED).await;

    // The next window knows nothing of it; the balance does.
    chain.uses(1, &ask, "tokens", 0, 0).await;
    chain.ask(1, &ask).await.is_served();
    chain.uses(1, &ask, "tokens", 700, 0).await;
    chain.uses(1, &ask, "balance", 4 * EXPECTED + 3 * 700, 4 * EXPECTED).await;
    chain.uses(1, &ask, "at-once", 0, 0).await;

    // A gateway that comes back is a new holder, with nothing of the old one's.
    chain.lab.envoy(0).restart().await.unwrap();
    chain.ask(0, &ask).await.is_served();
    chain.uses(1, &ask, "balance", 4 * EXPECTED + 4 * 700, 4 * EXPECTED).await;
}

/// Windows begin anew at nothing. What was under way is charged in full, once, when it ends; what runs is counted again
/// with the next KeepAlive.
async fn forgets(restart: bool) {
    let builder = Chain::builder(2, HOURLY).keep_alive_interval(INTERVAL);
    let Some(mut chain) = Chain::start(builder).await else { return };
    let ask = Ask::of("forgotten").uses(300, 400);
    chain.window(Duration::from_secs(3600), LIMIT).await;
    let (ended, at_hosts) = chain.hold(&[0, 1], 2, &ask).await;
    chain.lab.fleet().release();
    ended.replies().await;
    chain.uses(0, &ask, "tokens", 2 * 700, 0).await;
    assert_eq!(at_hosts, 2);
    let (running, at_hosts) = chain.hold(&[0, 1], 4, &ask).await;
    assert_eq!(at_hosts, 4);
    chain.uses(0, &ask, "tokens", 2 * 700 + 4 * EXPECTED, 4 * EXPECTED).await;

    if restart {
        chain.lab.redis().kill9().unwrap();
        chain.lab.redis().restart_empty().await.unwrap();
    } else {
        chain.lab.redis().flushall().await.unwrap();
    }
    let since = Instant::now();
    within(INTERVAL * 3 / 2 + SLACK, "running requests are counted again", || async {
        // Asked of both: a sidecar notices that its connection is gone when it next asks.
        for sidecar in 0..2 {
            let limits = chain.explain(sidecar, &ask).await?;
            let (tokens, running) = (&limits["tokens"], &limits["at-once"]);
            assert_eq!((tokens.used, tokens.reserved), (0, 0), "the window begins anew");
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

    // New requests beside the old ones: no more at once than before.
    let (more, at_hosts) = chain.hold(&[0, 1], 5, &ask).await;
    assert_eq!(at_hosts, 2);
    chain.uses(0, &ask, "tokens", 2 * EXPECTED, 2 * EXPECTED).await;
    chain.lab.fleet().release();
    running.replies().await.iter().for_each(Reply::is_served);
    more.replies().await;
    chain.uses(0, &ask, "tokens", (4 + 2) * 700, 0).await;
    chain.uses(0, &ask, "balance", (4 + 2) * 700, 0).await;
    chain.uses(1, &ask, "at-once", 0, 0).await;
    // Settles that are repeated change nothing: another interval of KeepAlives later it is the same.
    let sent = metric(&chain.lab, 0, "evenkeel_keep_alives_total{result=\"ok\"}").await;
    within(LIMIT, "two more KeepAlives", || async {
        let now = metric(&chain.lab, 0, "evenkeel_keep_alives_total{result=\"ok\"}").await;
        if now >= sent + 2.0 { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
    assert_eq!(chain.used(0, &ask, "tokens").await, Ok(((4 + 2) * 700, 0)));
    assert_eq!(chain.cell("forgotten", "tokens").await, Some((4200.0, 0.0)));
}

#[tokio::test]
async fn flushall_charges_what_is_under_way_once() {
    forgets(false).await;
}

#[tokio::test]
async fn redis_restarted_empty_charges_what_is_under_way_once() {
    forgets(true).await;
}

/// What was reserved where is in the ticket, which the gateway keeps.
#[tokio::test]
async fn a_restarted_sidecar_settles_by_the_ticket() {
    let builder = Chain::builder(2, HOURLY).keep_alive_interval(INTERVAL);
    let Some(mut chain) = Chain::start(builder).await else { return };
    let ask = Ask::of("patient").uses(300, 400);
    chain.window(Duration::from_secs(3600), LIMIT).await;
    let (running, at_hosts) = chain.hold(&[0], 5, &ask).await;
    assert_eq!(at_hosts, 5);
    chain.lab.sidecar(0).kill9().unwrap();
    chain.lab.sidecar(0).restart().await.unwrap();
    chain.uses(0, &ask, "tokens", 5 * EXPECTED, 5 * EXPECTED).await;
    chain.lab.fleet().release();
    running.replies().await.iter().for_each(Reply::is_served);
    assert_eq!(chain.truth("patient").tokens, 5 * 700);
    for limit in ["tokens", "balance"] {
        chain.uses(1, &ask, limit, 5 * 700, 0).await;
    }
    chain.uses(1, &ask, "at-once", 0, 0).await;
    chain.ledger_agrees(1, "patient").await;
}

/// Meanwhile requests go by each sidecar's share. What ended meanwhile is charged when Redis is back.
#[tokio::test]
async fn what_ends_while_redis_is_away_is_charged_when_it_is_back() {
    // Each sidecar's share of 6 at once is 3.
    let builder =
        Chain::builder(2, HOURLY).keep_alive_interval(INTERVAL).store_timeout(Duration::from_millis(300));
    let Some(mut chain) = Chain::start(builder).await else { return };
    let (ask, other) = (Ask::of("before").uses(300, 400), Ask::of("meanwhile").uses(300, 400));
    chain.window(Duration::from_secs(3600), Duration::from_secs(60)).await;
    let (running, at_hosts) = chain.hold(&[0, 1], 6, &ask).await;
    assert_eq!(at_hosts, 6);
    within(LIMIT, "the sidecars know of each other", || async {
        let counted = metric(&chain.lab, 0, "evenkeel_sidecars").await;
        if counted == 2.0 { Ok(()) } else { Err(format!("{counted}")) }
    })
    .await;

    chain.lab.redis().pause().unwrap();
    // By policy, and no more than the share of each.
    let (meanwhile, at_hosts) = chain.hold(&[0, 1], 20, &other).await;
    assert_eq!(at_hosts, 6);
    chain.lab.fleet().release();
    running.replies().await.iter().for_each(Reply::is_served);
    for reply in meanwhile.replies().await.iter().filter(|reply| reply.status != 200) {
        assert_eq!(reply.status, 429, "{}", reply.body);
    }
    // It stays away for some KeepAlives: gateways settle again what they settled while one was under way.
    for sidecar in 0..2 {
        within(LIMIT, "lists reach local knowledge only", || async {
            let unapplied =
                metric(&chain.lab, sidecar, "evenkeel_keep_alives_total{result=\"unapplied\"}").await;
            if unapplied >= 3.0 { Ok(()) } else { Err(format!("{unapplied}")) }
        })
        .await;
        assert_eq!(metric(&chain.lab, sidecar, "evenkeel_store_up").await, 0.0);
    }
    let truth = chain.truth("before");
    assert_eq!(truth.tokens, 6 * 700);

    chain.lab.redis().resume().unwrap();
    for limit in ["tokens", "balance"] {
        chain.uses(1, &ask, limit, truth.tokens, 0).await;
    }
    chain.uses(0, &ask, "at-once", 0, 0).await;
    chain.ledger_agrees(0, "before").await;
    chain.ledger_agrees(0, "meanwhile").await;
    // What was counted by shares is not added, and nothing stays reserved that nobody will settle.
    chain.uses(1, &other, "tokens", 0, 0).await;
    chain.uses(0, &other, "at-once", 0, 0).await;
}
