//! Tests of changes while requests arrive: changed amounts in the configuration, and administrators' overrides. Also
//! tests exceptions and the shadow mode.

use std::{fs, time::Duration};

use evenkeel_proto::v1 as pb;

use super::{ChatRequest, Fixture, HOUR, INTERVAL, LIMIT, SLACK};
use crate::support::{pool::metric, wait::within};

const LIMITS: &str = "
limits:
  - name: calls
    counts: requests
    amount: 3
    per: 1h
    key: [consumer]
    exceptions:
      - {when: [{attribute: consumer, exact: friend}], amount: 5}
      - {when: [{attribute: \"header:x-tier\", exact: gold}], unlimited: true}
  - {name: trial, counts: tokens, amount: 1000, per: 1h, key: [consumer], mode: shadow, reserve_margin: 1}
";

impl Fixture {
    /// Sends requests sequentially, alternating between both gateways, and returns their statuses.
    async fn statuses(&self, request: &ChatRequest, count: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for i in 0..count {
            statuses.push(self.send(i % 2, request).await.status);
        }
        statuses
    }
}

#[tokio::test]
async fn amounts_change_while_requests_arrive() {
    let builder = Fixture::builder(2, LIMITS).keep_alive_interval(INTERVAL);
    let Some(mut fixture) = Fixture::start(builder).await else { return };
    fixture.wait_window(HOUR, Duration::from_secs(40)).await;
    let (plain, friend, gold) = (
        ChatRequest::of("plain"),
        ChatRequest::of("friend"),
        ChatRequest::of("rich").header("x-tier", "gold"),
    );

    // An exception gives `friend` a higher amount.
    assert_eq!(fixture.statuses(&plain, 5).await, [200, 200, 200, 429, 429]);
    assert_eq!(fixture.statuses(&friend, 6).await, [200, 200, 200, 200, 200, 429]);
    // Sidecars request headers from the gateways in their KeepAlive responses.
    let probes = std::cell::Cell::new(0);
    within(LIMIT, "the gateways send the header that the limit needs", || async {
        for gateway in 0..2 {
            // Each attempt uses a new consumer.
            probes.set(probes.get() + 1);
            let request = ChatRequest { consumer: format!("probe-{}", probes.get()), ..gold.clone() };
            for _ in 0..4 {
                let reply = fixture.send(gateway, &request).await;
                if reply.status != 200 {
                    return Err(reply.body);
                }
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(fixture.statuses(&gold, 8).await, [200; 8]);

    // Requests exceed the shadow limit by far. Administrators see this, clients do not.
    let reply = fixture.send(0, &gold).await;
    assert_eq!(reply.status, 200);
    assert!(!reply.headers.iter().any(|(_, value)| value.to_str().unwrap_or("").contains("trial")));
    let trial = &fixture.explain(0, &gold).await.unwrap()["trial"];
    assert!(trial.shadow && !trial.refuses && trial.used >= 2000, "{trial:?}");
    let refused = "evenkeel_limit_checks_total{limit=\"trial\",result=\"shadow_refused\"}";
    assert!(metric(&fixture.lab, 0, refused).await + metric(&fixture.lab, 1, refused).await >= 8.0);

    // An override set at one sidecar takes effect at the other sidecar's gateway within an interval.
    let request = pb::SetOverrideRequest {
        limit: "calls".into(),
        key: "consumer=plain".into(),
        amount: Some(4),
        ..pb::SetOverrideRequest::default()
    };
    let stored = fixture.admin(0).await.unwrap().set_override(request).await.unwrap().into_inner();
    assert_eq!(stored.who, "tests");
    let took = within(INTERVAL + SLACK, "the override admits one more request", || async {
        let reply = fixture.send(1, &plain).await;
        if reply.status == 200 { Ok(()) } else { Err(reply.body) }
    })
    .await;
    eprintln!("an override took effect at another sidecar after {took:?} (interval {INTERVAL:?})");
    assert_eq!(fixture.send(1, &plain).await.status, 429, "counts are kept");
    let request = pb::SetOverrideRequest {
        limit: "calls".into(),
        key: "consumer=plain".into(),
        unlimited: true,
        ..pb::SetOverrideRequest::default()
    };
    fixture.admin(1).await.unwrap().set_override(request).await.unwrap();
    within(INTERVAL + SLACK, "the exemption takes effect", || async {
        let reply = fixture.send(0, &plain).await;
        if reply.status == 200 { Ok(()) } else { Err(reply.body) }
    })
    .await;
    assert_eq!(fixture.statuses(&plain, 4).await, [200; 4]);
    let delete = pb::DeleteOverrideRequest { limit: "calls".into(), key: "consumer=plain".into() };
    fixture.admin(0).await.unwrap().delete_override(delete).await.unwrap();
    within(INTERVAL + SLACK, "the exemption ends at both", || async {
        match fixture.statuses(&plain, 2).await[..] {
            [429, 429] => Ok(()),
            ref statuses => Err(format!("{statuses:?}")),
        }
    })
    .await;

    // The configuration changes: the amount rises, and the shadow limit is enforced.
    let new = ChatRequest::of("new");
    assert_eq!(fixture.statuses(&new, 4).await, [200, 200, 200, 429]);
    for sidecar in fixture.lab.sidecars() {
        let text = fs::read_to_string(sidecar.config()).unwrap();
        let changed = text.replace("amount: 3\n", "amount: 9\n").replace("mode: shadow", "mode: enforce");
        assert_ne!(text, changed);
        fs::write(sidecar.config(), changed).unwrap();
    }
    within(LIMIT, "the new configuration takes effect at both", || async {
        for sidecar in 0..2 {
            let limits = fixture.explain(sidecar, &new).await?;
            let (calls, trial) = (&limits["calls"], &limits["trial"]);
            if (calls.amount, calls.used, trial.shadow, trial.refuses) != (9, 3, false, true) {
                return Err(format!("{calls:?}, {trial:?}"));
            }
        }
        Ok(())
    })
    .await;
    for gateway in 0..2 {
        fixture.send(gateway, &new).await.assert_refused_by("trial", "rate_limit_exceeded");
    }
    assert_eq!(
        fixture.used(0, &new, "calls").await,
        Ok((3, 0)),
        "a request that one limit refuses does not count in the other"
    );
}
