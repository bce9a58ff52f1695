//! What requests are charged, on both stores: all their answers, nothing for reading, the price of the model that really
//! ran, and each consumer alone.

use std::time::Duration;

use axum::http::Method;
use evenkeel_proto::v1::{self as pb, admit_response::Answer};
use serde_json::{Value, json};

use crate::support::{
    admin::{self, TOKEN, by, with_admin},
    command::{prints, prints_json},
    eventually,
    redis::Redis,
    requests::{admit_for, settle_success},
    sidecar::Sidecar,
};

const CONFIG: &str = "
pools: [{cluster: llm, endpoints: [{address: 'a:1'}]}]
limits:
  - {name: tokens, counts: tokens, amount: 1000, per: 1d, key: [consumer]}
  - {name: cost, counts: cost, amount: 10, per: 1d, key: [consumer]}
  - {name: of-model, counts: requests, amount: 100, per: 1d, key: [consumer, model]}
quotas:
  - {name: credit, counts: output_tokens, kind: prepaid, default: 1000000}
prices: [{model: 'gpt-4o*', input: 1, output: 1000}, {model: cheap, input: 0, output: 1}]
";

/// Runs a test on the embedded store and on Redis.
async fn on_both_stores(test: impl AsyncFn(Sidecar)) {
    test(Sidecar::start(&with_admin(CONFIG)).await).await;
    let redis = Redis::start();
    test(Sidecar::start(&with_admin(&(redis.store(", timeout: 5s") + CONFIG))).await).await;
}

/// Returns what a limit counts as used by the next request of a consumer.
async fn used(sidecar: &Sidecar, consumer: &str, limit: &str) -> u64 {
    let request = pb::ExplainRequest { request: Some(admit_for(consumer, "cheap", 0)) };
    let explained = admin::client(sidecar).await.explain(request).await.unwrap().into_inner();
    explained.limits.iter().find(|one| one.name == limit).unwrap().used
}

/// Waits until the ledger, which records with a delay, contains this number of requests. Returns what a usage command
/// prints.
async fn usage_of(sidecar: &Sidecar, words: &str, requests: u64) -> Value {
    eventually(Duration::from_secs(20), "the ledger records", async || {
        let usage = prints_json(sidecar, &format!("usage {words}")).await;
        if usage["total"]["requests"] == json!(requests) { Ok(usage) } else { Err(usage.to_string()) }
    })
    .await
}

/// Twelve requests of eight answers each, under a limit that has room for one.
#[tokio::test]
async fn all_answers_of_a_request_are_reserved() {
    on_both_stores(async |sidecar| {
        let mut admitted = 0;
        for lease in 1..=12 {
            let request =
                pb::AdmitRequest { choices: 8, max_output_tokens: 100, ..admit_for("alice", "new", lease) };
            admitted += usize::from(matches!(sidecar.send(request).await, Answer::Admitted(_)));
        }
        assert_eq!((admitted, used(&sidecar, "alice", "tokens").await), (1, 800));
        let words = "explain --consumer bob --model new --max-tokens 100 --choices 8";
        assert_eq!(prints_json(&sidecar, words).await["estimate"]["output"], json!(800));
    })
    .await;
}

/// A batch of 150,000 tokens, read five times by a consumer without any tokens left.
#[tokio::test]
async fn reading_a_stored_result_is_free() {
    on_both_stores(async |sidecar| {
        let ticket = sidecar.admitted(admit_for("alice", "cheap", 1)).await.ticket;
        sidecar.end(settle_success(1, ticket, 500, 600)).await;
        sidecar.denied(admit_for("alice", "cheap", 2)).await;
        for lease in 3..8 {
            let read = pb::AdmitRequest {
                generation: pb::Generation::None.into(),
                prompt_bytes: 4000,
                ..admit_for("alice", "", lease)
            };
            let ticket = sidecar.admitted(read).await.ticket;
            let settle =
                pb::SettleRequest { model: "gpt-4o".into(), ..settle_success(lease, ticket, 90_000, 60_000) };
            sidecar.end(settle).await;
        }
        assert_eq!(used(&sidecar, "alice", "tokens").await, 1100);
        assert_eq!(used(&sidecar, "alice", "cost").await, 600);
        let usage = usage_of(&sidecar, "--by consumer", 6).await;
        assert_eq!(
            (&usage["total"]["requests"], &usage["total"]["tokens"]["input"]),
            (&json!(6), &json!(500))
        );
    })
    .await;
}

#[tokio::test]
async fn a_background_request_is_charged_its_expected_output() {
    on_both_stores(async |sidecar| {
        let request = pb::AdmitRequest {
            generation: pb::Generation::Background.into(),
            prompt_bytes: 40,
            max_output_tokens: 70,
            ..admit_for("alice", "cheap", 1)
        };
        let ticket = sidecar.admitted(request).await.ticket;
        let queued =
            pb::SettleRequest { tokens: None, tokens_final: false, ..settle_success(1, ticket, 0, 0) };
        sidecar.end(pb::SettleRequest { body_read: true, first_token_ms: 5, ..queued }).await;
        assert_eq!(used(&sidecar, "alice", "tokens").await, 80);
    })
    .await;
}

/// A request whose body the gateway could not read is charged the price of the model that the body or the response names
/// in the end.
#[tokio::test]
async fn the_dearest_requests_are_not_free() {
    on_both_stores(async |sidecar| {
        let unknown = |consumer: &str, lease| pb::AdmitRequest {
            prompt_bytes: 400,
            max_output_tokens: 1,
            ..admit_for(consumer, "(unknown)", lease)
        };
        // The reservation assumes the dearest price.
        let ticket = sidecar.admitted(unknown("alice", 1)).await.ticket;
        assert_eq!(used(&sidecar, "alice", "cost").await, 200 + 1000);
        let settle = settle_success(1, ticket, 100, 5);
        sidecar.end(pb::SettleRequest { model: "gpt-4o-2024-08-06".into(), ..settle }).await;
        assert_eq!(used(&sidecar, "alice", "cost").await, 5100);
        // What the gateway read of the body after Admit goes before the response.
        let ticket = sidecar.admitted(unknown("bob", 2)).await.ticket;
        let body = pb::RequestBody { model: "cheap".into(), prompt_bytes: 4, ..pb::RequestBody::default() };
        let settle = pb::SettleRequest {
            request_body: Some(body),
            model: "gpt-4o".into(),
            ..settle_success(2, ticket, 100, 5)
        };
        sidecar.end(settle).await;
        assert_eq!(used(&sidecar, "bob", "cost").await, 5);
        // Nobody names the model.
        let ticket = sidecar.admitted(unknown("carol", 3)).await.ticket;
        sidecar.end(settle_success(3, ticket, 100, 5)).await;
        assert_eq!(used(&sidecar, "carol", "cost").await, 5100);
        let usage = usage_of(&sidecar, "--by consumer,model", 3).await;
        let mut rows: Vec<_> =
            usage["rows"].as_array().unwrap().iter().map(|row| (&row["consumer"], &row["model"])).collect();
        rows.sort_by_key(|row| row.0.to_string());
        let expected = [("alice", "gpt-4o-2024-08-06"), ("bob", "cheap"), ("carol", "(unknown)")];
        assert_eq!(
            rows,
            expected.each_ref().map(|(c, m)| (json!(c), json!(m))).each_ref().map(|(c, m)| (c, m))
        );
    })
    .await;
}

/// Consumers whose long names differ only at their end have their own counters, through every interface.
#[tokio::test]
async fn long_names_are_different_consumers() {
    on_both_stores(async |sidecar| {
        let name = |end: &str| "tenant/".repeat(60) + end;
        let (one, other) = (name("1"), name("2"));
        let ticket = sidecar.admitted(admit_for(&one, "cheap", 1)).await.ticket;
        sidecar.end(settle_success(1, ticket, 100, 200)).await;
        assert_eq!(used(&sidecar, &one, "tokens").await, 300);
        assert_eq!(used(&sidecar, &other, "tokens").await, 0);

        let balance = async |consumer: &str| {
            let request = pb::GetQuotaRequest { quota: "credit".into(), consumer: consumer.to_owned() };
            let quota =
                admin::client(&sidecar).await.get_quota(by(TOKEN, request)).await.unwrap().into_inner();
            (quota.balance, quota.consumer)
        };
        let (left, short) = balance(&one).await;
        assert_eq!((left, balance(&other).await.0), (999_800, 1_000_000));
        assert!(short.len() == 256 && one.starts_with(&short[..223]), "{short}");
        // The command and the HTTP API change the same record, by the whole name and by the shortened one.
        prints(&sidecar, &format!("quota set {one} 7 --quota credit")).await;
        assert_eq!(balance(&one).await.0, 7);
        let path = format!("/api/v1/quotas/credit/{}", short.replace('/', "%2F").replace('#', "%23"));
        let (status, answer) = admin::call(&sidecar, Method::GET, &path, None, &[]).await;
        assert_eq!((status, &answer["balance"]), (200, &json!(7)));
        assert_eq!(prints_json(&sidecar, &format!("quota get {one}")).await["balance"], json!(7));
        assert_eq!(balance(&other).await.0, 1_000_000);

        let usage = usage_of(&sidecar, &format!("--by consumer --consumer {one}"), 1).await;
        assert_eq!(usage["total"]["tokens"]["output"], json!(200));
        let usage = usage_of(&sidecar, &format!("--by consumer --consumer {other}"), 0).await;
        assert_eq!(usage["total"]["requests"], json!(0));
        // An override is for one of them.
        prints(&sidecar, &format!("limits override of-model consumer={one}|model=cheap --unlimited")).await;
        let overrides = prints_json(&sidecar, "limits overrides").await;
        let key = overrides["overrides"][0]["key"].as_str().unwrap().to_owned();
        let request = pb::ExplainRequest { request: Some(admit_for(&one, "cheap", 0)) };
        let explained = admin::client(&sidecar).await.explain(request).await.unwrap().into_inner();
        let of_model = explained.limits.iter().find(|limit| limit.name == "of-model").unwrap();
        assert!(of_model.why.contains(&key) || of_model.key == key, "{of_model:?} {key}");
    })
    .await;
}
