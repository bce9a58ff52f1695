//! Tests of requests that go on because the sidecar answers too late (`on_error: open`). The sidecar's stream survives.

use std::time::{Duration, Instant};

use super::{ChatRequest, Fixture, HOUR, LIMIT, Reply};
use crate::support::wait::within;

const HOURLY: &str = "
limits:
  - {name: tokens, counts: tokens, amount: 100k, per: 1h, key: [consumer], reserve_margin: 1}
";
/// Fewer missed deadlines than the plugin takes for a sign of a dead sidecar.
const REQUESTS: usize = 5;
/// Envoy ends the connection if the sidecar answers no ping for this time.
const PING_TIMEOUT: Duration = Duration::from_millis(1500);
/// A busy machine may take longer than the timeout to send the requests.
const ATTEMPTS: usize = 10;

/// When the requests end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    BeforeTheAnswers,
    AfterTheAnswers,
}

/// Freezes the sidecar until the gateway has stopped waiting for it. Every request is recorded once, and charged if a
/// limit applies.
async fn assert_late_answers_are_charged(limits: &str, end: End) {
    let builder = Fixture::builder(1, limits).plugin_config(|config| {
        config["deadline_ms"] = 50.into();
        config["on_error"] = "open".into();
    });
    let Some(mut fixture) = Fixture::start(builder).await else { return };
    fixture.wait_window(HOUR, 2 * LIMIT).await;
    for attempt in 0..ATTEMPTS {
        let request = ChatRequest::of(&format!("late-{attempt}")).actual_tokens(300, 400);
        // The stream is open.
        fixture.send(0, &ChatRequest::of("first")).await;
        let late_before = late_answers(&fixture).await.unwrap();
        let frozen = Instant::now();
        fixture.lab.sidecar(0).pause().unwrap();
        let running = if end == End::BeforeTheAnswers {
            let running = fixture.send_all(&[0], REQUESTS, &request);
            running.wait_answered(LIMIT).await;
            running
        } else {
            fixture.hold(&[0], REQUESTS, &request).await.0
        };
        fixture.lab.sidecar(0).resume().unwrap();
        let took = frozen.elapsed();
        within(LIMIT, "the answers arrive", || async {
            let late = late_answers(&fixture).await? - late_before;
            if late == REQUESTS as u64 || end == End::BeforeTheAnswers || took >= PING_TIMEOUT {
                Ok(())
            } else {
                Err(late.to_string())
            }
        })
        .await;
        fixture.lab.fleet().release();
        running.replies().await.iter().for_each(Reply::assert_served);
        if took >= PING_TIMEOUT {
            eprintln!("the machine was too busy: {took:?}");
            continue;
        }
        let consumer = format!("late-{attempt}");
        assert_eq!(fixture.host_totals(&consumer).requests, REQUESTS as u64);
        fixture.wait_ledger_matches_hosts(0, &consumer).await;
        if !limits.is_empty() {
            fixture.wait_used(0, &request, "tokens", 700 * REQUESTS as u64, 0).await;
        }
        return;
    }
    panic!("the machine is too busy");
}

/// Returns the number of late answers that the gateway has received.
async fn late_answers(fixture: &Fixture) -> Result<u64, String> {
    fixture.lab.envoys()[0].counted("evenkeel_admits_late").await.map_err(|e| e.to_string())
}

#[tokio::test]
async fn a_late_answer_charges_a_request_in_flight() {
    assert_late_answers_are_charged(HOURLY, End::AfterTheAnswers).await;
}

#[tokio::test]
async fn a_late_answer_charges_a_request_that_has_ended() {
    assert_late_answers_are_charged(HOURLY, End::BeforeTheAnswers).await;
}

#[tokio::test]
async fn a_late_answer_records_a_request_without_limits() {
    assert_late_answers_are_charged("", End::AfterTheAnswers).await;
}
