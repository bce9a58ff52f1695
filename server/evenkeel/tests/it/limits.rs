//! Limits at the door of gateways: what Admit answers, what a ticket carries, what Settle charges.

use evenkeel_proto::v1::{
    self as pb, admin_client::AdminClient, admit_response::Answer, gateway_client::GatewayClient,
};
use tonic::transport::Channel;

use crate::support::{redis::Redis, sidecar::Sidecar};

const LIMITS: &str = "
pools: [{cluster: llm, endpoints: [{address: 'a:1'}]}]
limits:
  - {name: tokens, counts: tokens, amount: 1000, per: 1d, key: [consumer], reserve_margin: 1}
  - {name: none, counts: requests, amount: 0, per: 1m, when: [{attribute: model, exact: m}]}
models: [{model: small, output_tokens: 100, bytes_per_token: 4}]
";

async fn start(redis: &Redis) -> Sidecar {
    Sidecar::start(&format!("store: {{type: redis, url: '{}', timeout: 5s}}\n{LIMITS}", redis.url())).await
}

fn admit(lease: u64, consumer: &str, model: &str) -> pb::AdmitRequest {
    pb::AdmitRequest {
        pool: Some(pb::Pool { route: String::new(), cluster: "llm".into() }),
        holder: "h".into(),
        lease,
        subject: Some(pb::Subject { consumer: consumer.into(), ..Default::default() }),
        model: model.into(),
        prompt_bytes: 400,
        ..Default::default()
    }
}

async fn ask(gateway: &GatewayClient<Channel>, request: pb::AdmitRequest) -> Answer {
    gateway.clone().admit(request).await.unwrap().into_inner().answer.unwrap()
}

async fn admitted(gateway: &GatewayClient<Channel>, request: pb::AdmitRequest) -> pb::Admitted {
    match ask(gateway, request).await {
        Answer::Admitted(admitted) => admitted,
        other => panic!("not admitted: {other:?}"),
    }
}

async fn denied(gateway: &GatewayClient<Channel>, request: pb::AdmitRequest) -> pb::Denied {
    match ask(gateway, request).await {
        Answer::Denied(denied) => denied,
        other => panic!("not denied: {other:?}"),
    }
}

async fn settle(gateway: &GatewayClient<Channel>, lease: u64, ticket: Vec<u8>, output: u64) {
    let request = pb::SettleRequest {
        pool: Some(pb::Pool { route: String::new(), cluster: "llm".into() }),
        holder: "h".into(),
        lease,
        outcome: pb::Outcome::Success.into(),
        status: 200,
        tokens: Some(pb::Tokens { input: 100, output, ..Default::default() }),
        tokens_final: true,
        first_token_ms: 1,
        total_ms: 2,
        ticket,
        ..Default::default()
    };
    gateway.clone().settle(request).await.unwrap();
}

/// Used and reserved of the limit of tokens.
async fn used(sidecar: &Sidecar, consumer: &str) -> (u64, u64) {
    let channel =
        Channel::from_shared(format!("http://{}", sidecar.addresses.grpc.as_ref().unwrap())).unwrap();
    let mut admin = AdminClient::new(channel.connect().await.unwrap());
    let request = pb::ExplainRequest { request: Some(admit(0, consumer, "small")) };
    let explained = admin.explain(request).await.unwrap().into_inner();
    (explained.limits[0].used, explained.limits[0].reserved)
}

/// A gateway that fails open lets pass what it got no answer about.
#[tokio::test]
async fn no_text_of_a_client_turns_an_answer_into_an_error() {
    let redis = Redis::start();
    let s = start(&redis).await;
    assert_eq!(denied(&s.gateway, admit(1, "alice", "m")).await.status, 429);
    for model in ["m\n", "m\u{85}", &"é".repeat(300)] {
        admitted(&s.gateway, admit(2, "alice\t", model)).await;
    }
}

#[tokio::test]
async fn a_ticket_is_settled_by_any_sidecar_once() {
    let redis = Redis::start();
    let (one, other) = (start(&redis).await, start(&redis).await);
    let ticket = admitted(&one.gateway, admit(1, "alice", "small")).await.ticket;
    assert_eq!(used(&one, "alice").await, (200, 200));
    for sidecar in [&other, &one, &other] {
        settle(&sidecar.gateway, 1, ticket.clone(), 50).await;
        assert_eq!(used(&one, "alice").await, (150, 0));
    }
    // Without a ticket, the sidecar that admitted remembers.
    admitted(&one.gateway, admit(2, "alice", "small")).await;
    settle(&one.gateway, 2, Vec::new(), 10).await;
    assert_eq!(used(&other, "alice").await, (260, 0));
}

#[tokio::test]
async fn tokens_beyond_belief_are_not_charged() {
    let redis = Redis::start();
    let s = start(&redis).await;
    for (lease, output) in [(1, u64::MAX), (2, 1 << 63), (3, 1 << 53)] {
        let ticket = admitted(&s.gateway, admit(lease, "alice", "small")).await.ticket;
        settle(&s.gateway, lease, ticket, output).await;
    }
    let (used, reserved) = used(&s, "alice").await;
    // As if their responses had not told.
    assert!(used <= 600 && reserved == 0, "{used} {reserved}");
    admitted(&s.gateway, admit(4, "alice", "small")).await;
}

/// A refusal tells of the limit in the words of the standard, and is remembered.
#[tokio::test]
async fn refusals_tell_when_to_come_again() {
    let redis = Redis::start();
    let s = start(&redis).await;
    for lease in 1..=5 {
        let ticket = admitted(&s.gateway, admit(lease, "bob", "small")).await.ticket;
        settle(&s.gateway, lease, ticket, 100).await;
    }
    let header = |denied: &pb::Denied, name: &str| {
        denied.headers.iter().find(|header| header.name == name).map(|header| header.value.clone()).unwrap()
    };
    let refused = denied(&s.gateway, admit(6, "bob", "small")).await;
    assert_eq!(refused.reason(), pb::Reason::Limit);
    assert_eq!(header(&refused, "ratelimit-policy"), "\"tokens\";q=1000;w=86400;qu=\"tokens\"");
    assert!(header(&refused, "ratelimit").starts_with("\"tokens\";r=0;t="));
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=86_400).contains(&wait));
    let script_calls = || {
        let info = redis.command(&["INFO", "commandstats"]);
        let text: String = redis::from_redis_value(info).unwrap();
        let calls = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
            line.and_then(|line| line.split(',').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        calls("hmget")
    };
    let before = script_calls();
    let again = denied(&s.gateway, admit(7, "bob", "small")).await;
    assert_eq!(script_calls(), before, "Redis was asked");
    assert_eq!((again.status, again.reason()), (429, refused.reason()));
}
