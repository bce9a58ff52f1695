//! Requests that are malformed, too large or unknown, and a sidecar without a rate limit service.

use evenkeel_proto::rate_limit_service::{
    RateLimitDescriptor, RateLimitRequest, rate_limit_descriptor::Entry,
};
use tonic::Code as GrpcCode;

use super::{LIMITS, OK, OVER, Rls, by, client, stores};
use crate::support::sidecar::Sidecar;

/// No request is answered with an error, because Envoy admits a request by default if the service returns an error.
#[tokio::test]
async fn no_request_passes_because_of_an_error() {
    for rls in stores("").await {
        let values: Vec<String> = (0..=256).map(|i| i.to_string()).collect();
        let many: Vec<_> = values.iter().map(|value| by(&[("ten", value)])).collect();
        assert_eq!(rls.codes(4, &many[..256]).await, (OK, vec![(OK, 6); 256]));
        assert_eq!(rls.codes(7, &many[..256]).await.0, OVER);
        assert_eq!(rls.codes(6, &many[..256]).await, (OK, vec![(OK, 0); 256]), "all or none");
        assert_eq!(rls.codes(1, &many).await.0, OVER);

        // A client's header may be invalid UTF-8, and Envoy passes it on unchanged.
        let invalid = Entry { key: "two".into(), value: b"odd \xff\xfe".into() };
        let descriptors = [RateLimitDescriptor { entries: vec![invalid], ..RateLimitDescriptor::default() }];
        for expected in [OK, OK, OVER] {
            assert_eq!(rls.codes(1, &descriptors).await.0, expected);
        }
    }
}

#[tokio::test]
async fn an_unknown_domain_is_admitted_and_an_empty_request_rejected() {
    let rls = Rls::start(LIMITS, "", None).await;
    let none = [by(&[("none", "a")])];
    assert_eq!(rls.ask_in("", 1, &none).await.unwrap_err().code(), GrpcCode::InvalidArgument);
    assert_eq!(rls.ask_in("d", 1, &[]).await.unwrap_err().code(), GrpcCode::InvalidArgument);
    let elsewhere = rls.ask_in("elsewhere", 1, &none).await.unwrap();
    assert_eq!((elsewhere.overall_code(), elsewhere.statuses.len()), (OK, 1));
    let requests = rls.metrics("evenkeel_rls_descriptors_total{domain=\"\"").await;
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(rls.metrics("evenkeel_rls_duration_seconds_count").await[0].ends_with(" 3"));
}

#[tokio::test]
async fn without_configuration_the_service_is_unimplemented() {
    let sidecar = Sidecar::start("").await;
    let request = RateLimitRequest { domain: "d".into(), ..RateLimitRequest::default() };
    let error = client(&sidecar).await.should_rate_limit(request).await.unwrap_err();
    assert_eq!(error.code(), GrpcCode::Unimplemented);
}

/// Clusters that were written for envoyproxy/ratelimit ask for the health of `ratelimit`, and eject a server that does not
/// know the name.
#[tokio::test]
async fn health_has_the_names_that_probes_ask_for() {
    let serving = async |sidecar: &Sidecar, name: &str| {
        let channel = sidecar.channel().await;
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        let request = tonic_health::pb::HealthCheckRequest { service: name.to_owned() };
        health.check(request).await.map(|response| response.into_inner().status)
    };
    let rls = Rls::start(LIMITS, "", None).await;
    for name in ["", "ratelimit", "envoy.service.ratelimit.v3.RateLimitService"] {
        assert_eq!(serving(&rls.sidecar, name).await.unwrap(), 1, "{name}");
    }
    let without = Sidecar::start("").await;
    assert_eq!(serving(&without, "ratelimit").await.unwrap_err().code(), GrpcCode::NotFound);
}
