//! What is changed while requests come: amounts in the file, overrides by administrators; and who is exempted or only
//! watched.

use std::{fs, time::Duration};

use evenkeel_proto::v1 as pb;

use super::{Ask, Chain, LIMIT};
use crate::gateway::{metric, within};

const INTERVAL: Duration = Duration::from_secs(1);
/// What a promise of "within an interval" may take besides: the look at it, on a busy machine.
const SLACK: Duration = Duration::from_millis(700);

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

impl Chain {
    /// Statuses of so many requests, one after the other, by turns through both gateways.
    async fn statuses(&self, ask: &Ask, count: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for i in 0..count {
            statuses.push(self.ask(i % 2, ask).await.status);
        }
        statuses
    }
}

#[tokio::test]
async fn amounts_differ_and_change_while_requests_come() {
    let builder = Chain::builder(2, LIMITS).keep_alive_interval(INTERVAL);
    let Some(mut chain) = Chain::start(builder).await else { return };
    chain.window(Duration::from_secs(3600), Duration::from_secs(40)).await;
    let (plain, friend, gold) =
        (Ask::of("plain"), Ask::of("friend"), Ask::of("rich").header("x-tier", "gold"));

    // Exceptions.
    assert_eq!(chain.statuses(&plain, 5).await, [200, 200, 200, 429, 429]);
    assert_eq!(chain.statuses(&friend, 6).await, [200, 200, 200, 200, 200, 429]);
    // Gateways are asked for headers in the answers to their KeepAlives.
    let probes = std::cell::Cell::new(0);
    within(LIMIT, "the gateways pass on the header that limits look at", || async {
        for gateway in 0..2 {
            // Of a consumer each time who has used nothing.
            probes.set(probes.get() + 1);
            let ask = Ask { consumer: format!("probe-{}", probes.get()), ..gold.clone() };
            for _ in 0..4 {
                let reply = chain.ask(gateway, &ask).await;
                if reply.status != 200 {
                    return Err(reply.body);
                }
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(chain.statuses(&gold, 8).await, [200; 8]);

    // The shadow limit was passed by far, told to administrators and not to clients.
    let reply = chain.ask(0, &gold).await;
    assert_eq!(reply.status, 200);
    assert!(!reply.headers.iter().any(|(_, value)| value.to_str().unwrap_or("").contains("trial")));
    let trial = &chain.explain(0, &gold).await.unwrap()["trial"];
    assert!(trial.shadow && !trial.refuses && trial.used >= 2000, "{trial:?}");
    let refused = "evenkeel_limit_checks_total{limit=\"trial\",result=\"shadow_refused\"}";
    assert!(metric(&chain.lab, 0, refused).await + metric(&chain.lab, 1, refused).await >= 8.0);

    // An override, told to one sidecar, is in force at the other's gateway within an interval.
    let request = pb::SetOverrideRequest {
        limit: "calls".into(),
        key: "consumer=plain".into(),
        amount: Some(4),
        ..pb::SetOverrideRequest::default()
    };
    let stored = chain.admin(0).await.unwrap().set_override(request).await.unwrap().into_inner();
    assert_eq!(stored.who, "tests");
    let took = within(INTERVAL + SLACK, "the override lets one more through", || async {
        let reply = chain.ask(1, &plain).await;
        if reply.status == 200 { Ok(()) } else { Err(reply.body) }
    })
    .await;
    eprintln!("an override was in force at another sidecar after {took:?} (interval {INTERVAL:?})");
    assert_eq!(chain.ask(1, &plain).await.status, 429, "what was counted is kept");
    let request = pb::SetOverrideRequest {
        limit: "calls".into(),
        key: "consumer=plain".into(),
        unlimited: true,
        ..pb::SetOverrideRequest::default()
    };
    chain.admin(1).await.unwrap().set_override(request).await.unwrap();
    within(INTERVAL + SLACK, "the exemption is in force", || async {
        let reply = chain.ask(0, &plain).await;
        if reply.status == 200 { Ok(()) } else { Err(reply.body) }
    })
    .await;
    assert_eq!(chain.statuses(&plain, 4).await, [200; 4]);
    let delete = pb::DeleteOverrideRequest { limit: "calls".into(), key: "consumer=plain".into() };
    chain.admin(0).await.unwrap().delete_override(delete).await.unwrap();
    within(INTERVAL + SLACK, "the exemption is over at both", || async {
        match chain.statuses(&plain, 2).await[..] {
            [429, 429] => Ok(()),
            ref statuses => Err(format!("{statuses:?}")),
        }
    })
    .await;

    // The file, changed while running: more for all, and the trial in earnest.
    let new = Ask::of("new");
    assert_eq!(chain.statuses(&new, 4).await, [200, 200, 200, 429]);
    for sidecar in chain.lab.sidecars() {
        let text = fs::read_to_string(sidecar.config()).unwrap();
        let changed = text.replace("amount: 3\n", "amount: 9\n").replace("mode: shadow", "mode: enforce");
        assert_ne!(text, changed);
        fs::write(sidecar.config(), changed).unwrap();
    }
    within(LIMIT, "the new file is in force at both", || async {
        for sidecar in 0..2 {
            let limits = chain.explain(sidecar, &new).await?;
            let (calls, trial) = (&limits["calls"], &limits["trial"]);
            if (calls.amount, calls.used, trial.shadow, trial.refuses) != (9, 3, false, true) {
                return Err(format!("{calls:?}, {trial:?}"));
            }
        }
        Ok(())
    })
    .await;
    for gateway in 0..2 {
        chain.ask(gateway, &new).await.is_refused_by("trial", "rate_limit_exceeded");
    }
    assert_eq!(chain.used(0, &new, "calls").await, Ok((3, 0)), "what one refuses the other does not count");
}
