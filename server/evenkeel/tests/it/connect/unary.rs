//! Unary calls in the name of a holder.

use evenkeel_proto::{
    HOLDER_SECRET, HolderClient, HolderSecret,
    v1::{self as pb, gateway_client::GatewayClient},
};
use tonic::{Code, Status, transport::Channel};

use super::{CONFIG, assert_exact};
use crate::support::{redis::Redis, requests, sidecar::Sidecar, worker::Worker};

async fn channel(sidecar: &Sidecar) -> Channel {
    sidecar.channel().await
}

fn admit(lease: u64) -> pb::AdmitRequest {
    let candidates = vec![requests::candidate("a:1", 1.0, 0)];
    pb::AdmitRequest { candidates, ..requests::admit("llm", lease) }
}

/// Calls everything in the name of the holder, and returns the status of each call.
async fn statuses<C>(client: &mut GatewayClient<C>, holder: &str) -> Vec<Status>
where
    C: tonic::client::GrpcService<tonic::body::Body, Error: Into<tonic::codegen::StdError>>,
    C::ResponseBody: tonic::codegen::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <C::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let holder = holder.to_owned();
    let admit = pb::AdmitRequest { holder: holder.clone(), ..admit(77) };
    let settle = pb::SettleRequest { holder: holder.clone(), ..requests::settle("llm", 1) };
    let list = pb::KeepAliveRequest { holder, ..requests::keep_alive(99, vec![requests::held("llm", &[])]) };
    [client.admit(admit).await.err(), client.settle(settle).await.err(), client.keep_alive(list).await.err()]
        .into_iter()
        .flatten()
        .collect()
}

#[tokio::test]
async fn the_first_call_returns_the_secret_that_later_calls_need() {
    let redis = Redis::start();
    let yaml = redis.store(", timeout: 5s") + CONFIG;
    let (one, other) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let mut plain = GatewayClient::new(channel(&one).await);
    let first = plain.admit(admit(1)).await.unwrap();
    let secret = first.metadata().get_bin(HOLDER_SECRET).expect("a new secret").to_bytes().unwrap();
    let secret = HolderSecret::new(secret.as_ref().try_into().unwrap());
    for sidecar in [&one, &other] {
        let mut plain = GatewayClient::new(channel(sidecar).await);
        let refused = statuses(&mut plain, requests::HOLDER).await;
        let mut forged = HolderClient::new(HolderSecret::new([7; 16]).on(channel(sidecar).await));
        let forged = statuses(&mut forged, requests::HOLDER).await;
        assert_eq!(refused.iter().chain(&forged).filter(|s| s.code() == Code::PermissionDenied).count(), 6);
        assert!(refused[0].message().starts_with(HOLDER_SECRET), "{}", refused[0]);
        assert_eq!(one.pool("llm").await.in_flight, 1, "nothing has changed");
    }
    let mut holder = HolderClient::new(secret.on(channel(&other).await));
    let second = holder.admit(admit(2)).await.unwrap();
    assert!(second.metadata().get_bin(HOLDER_SECRET).is_none(), "the client has the secret");
    assert!(holder.settle(requests::settle("llm", 1)).await.unwrap().into_inner().released);
    assert_eq!(one.metric("evenkeel_holders_refused_total").await, 6.0);
}

#[tokio::test]
async fn a_unary_caller_cannot_touch_the_leases_of_a_stream() {
    let s = Sidecar::start(CONFIG).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    w.admit().await;
    let mut plain = GatewayClient::new(channel(&s).await);
    assert_eq!(statuses(&mut plain, "w").await.len(), 3);
    assert_exact(&s, "llm", &w).await;
    // The worker's own secret also serves for unary calls, for example to look at its leases with other tools.
    let secret = HolderSecret::new(w.secret.as_slice().try_into().unwrap());
    let mut own = HolderClient::new(secret.on(channel(&s).await));
    assert_eq!(statuses(&mut own, "w").await.len(), 0);
}

/// Guards against a holder that nobody can use, because its first call failed and returned no secret.
#[tokio::test]
async fn a_failed_first_call_returns_the_secret_too() {
    let s = Sidecar::start(CONFIG).await;
    let mut plain = GatewayClient::new(channel(&s).await);
    let invalid = pb::AdmitRequest { candidates: vec![requests::candidate("", 1.0, 0)], ..admit(1) };
    let status = plain.admit(invalid).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let secret = status.metadata().get_bin(HOLDER_SECRET).expect("a new secret").to_bytes().unwrap();
    let secret = HolderSecret::new(secret.as_ref().try_into().unwrap());
    HolderClient::new(secret.on(channel(&s).await)).admit(admit(2)).await.unwrap();
}

/// Calls cost no round trip to the store for their verification.
#[tokio::test]
async fn verification_is_cached() {
    let redis = Redis::start();
    let s = Sidecar::start(&(redis.store(", timeout: 5s") + CONFIG)).await;
    let mut holder = HolderClient::new(HolderSecret::new([7; 16]).on(channel(&s).await));
    for lease in 1..=20 {
        holder.admit(admit(lease)).await.unwrap();
    }
    assert!(GatewayClient::new(channel(&s).await).admit(admit(21)).await.is_err());
    let calls = s.metric("evenkeel_store_call_duration_seconds_count{operation=\"claim\"}").await;
    assert_eq!(calls, 1.0);
}

#[tokio::test]
async fn a_secret_of_another_length_is_invalid() {
    let s = Sidecar::start(CONFIG).await;
    let mut request = tonic::Request::new(admit(1));
    let value = tonic::metadata::MetadataValue::from_bytes(&[1; 8]);
    request.metadata_mut().insert_bin(HOLDER_SECRET, value);
    let status = GatewayClient::new(channel(&s).await).admit(request).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "evenkeel-holder-secret-bin: must be 16 bytes")
    );
}
