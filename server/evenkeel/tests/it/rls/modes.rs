//! Limits that do more than refuse: shadow mode, quota mode, replacement, and the policy for an outage.

use std::time::Duration;

use evenkeel_proto::rate_limit_service::RateLimitRequest;

use super::{LIMITS, OK, OVER, Rls, by, hits, stores};
use crate::support::{
    eventually,
    proxy::{Mode, Proxy},
    redis::Redis,
};

#[tokio::test]
async fn shadow_and_quota_limits_admit_and_one_limit_replaces_another() {
    for rls in stores("").await {
        let shadow = [by(&[("shadow", "a")])];
        for _ in 0..3 {
            assert_eq!(rls.codes(1, &shadow).await, (OK, vec![(OK, 0)]));
        }
        let quotas = [by(&[("small", "a")]), by(&[("large", "a")])];
        assert_eq!(rls.codes(1, &quotas).await, (OK, vec![(OK, 0), (OK, 1)]));
        assert_eq!(rls.codes(1, &quotas).await, (OK, vec![(OVER, 0), (OK, 0)]));
        assert_eq!(rls.codes(1, &quotas).await, (OVER, vec![(OVER, 0), (OVER, 0)]));
        let replaced = [by(&[("two", "a")]), by(&[("instead", "a")])];
        assert_eq!(rls.codes(1, &replaced).await, (OK, vec![(OK, 0), (OK, 4)]));
        assert_eq!(rls.codes(1, &replaced[..1]).await, (OK, vec![(OK, 1)]));
        let requests = rls.metrics("evenkeel_rls_descriptors_total{").await.join("\n");
        assert!(requests.contains("limit=\"shadow\",result=\"shadow_over_limit\"} 2"), "{requests}");
        assert!(requests.contains("limit=\"two\",result=\"replaced\"} 1"), "{requests}");
    }
}

#[tokio::test]
async fn in_shadow_mode_responses_carry_headers_and_never_refuse() {
    for rls in stores(", shadow_mode: true, headers: [ratelimit, ietf]").await {
        let response = rls.ask(1, &[by(&[("none", "a")]), by(&[("ten", "a")])]).await;
        assert_eq!((response.overall_code(), response.statuses[0].code()), (OK, OVER));
        let headers: Vec<_> =
            response.response_headers_to_add.iter().map(|h| (h.key.as_str(), h.value.as_str())).collect();
        assert_eq!(
            headers[..3],
            [("RateLimit-Limit", "0"), ("RateLimit-Remaining", "0"), ("RateLimit-Reset", "1")]
        );
        assert_eq!(headers[3], ("RateLimit-Policy", "\"limit\";q=0;w=1, \"limit\";q=10;w=31536000"));
        assert_eq!((headers[4].0, headers.len()), ("RateLimit", 5));
    }
}

#[tokio::test]
async fn the_metadata_lists_the_quotas_that_are_over() {
    for rls in stores(", quota_mode: true, dynamic_metadata: true").await {
        let request = [by(&[("none", "a")]), by(&[("ten", "a")])];
        let response = rls.ask(1, &request).await;
        assert_eq!((response.overall_code(), response.statuses[0].code()), (OK, OVER), "a quota is left");
        let fields = response.dynamic_metadata.unwrap().fields;
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            ["descriptors", "domain", "hitsAddend", "quotaModeEnabled", "quotaModeViolations"]
        );
        let violations = format!("{:?}", fields["quotaModeViolations"]);
        assert!(violations.contains("NumberValue(0.0)") && !violations.contains("1.0"), "{violations}");
        assert!(format!("{:?}", fields["descriptors"]).contains("\"ten=a\""), "{fields:?}");
        assert_eq!(rls.ask(1, &request[..1]).await.overall_code(), OVER);
    }
}

#[tokio::test]
async fn the_configured_policy_decides_during_an_outage() {
    let redis = Redis::start();
    for (on_store_failure, expected) in
        [("local", [OK, OK, OVER]), ("open", [OK, OK, OK]), ("closed", [OVER, OVER, OVER])]
    {
        let proxy = Proxy::start(redis.port).await;
        let store = proxy.store(&format!(", key_prefix: {on_store_failure}, timeout: 1s"));
        let rls = Rls::start_on(LIMITS, &format!(", on_store_failure: {on_store_failure}"), &store).await;
        let two = [by(&[("two", "a")])];
        assert_eq!(rls.codes(1, &two).await, (OK, vec![(OK, 1)]));
        proxy.set(Mode::Refuse);
        for code in expected {
            assert_eq!(rls.codes(1, &two).await.0, code, "{on_store_failure}");
        }
        // The policy also decides a request that only looks (0 hits).
        assert_eq!(rls.codes(1, &[hits(0, by(&[("ten", "a")]))]).await.0, expected[0], "{on_store_failure}");
        proxy.set(Mode::Pass);
        eventually(Duration::from_secs(10), "the shared counter counts again", || async {
            let codes = rls.codes(1, &[hits(0, by(&[("two", "a")]))]).await;
            if codes == (OK, vec![(OK, 1)]) { Ok(()) } else { Err(format!("{codes:?}")) }
        })
        .await;
    }
}

/// A gateway that gives up before the sidecar decides admits the request, whatever `on_store_failure` is.
#[tokio::test]
async fn a_gateway_that_waits_too_little_is_counted() {
    // The store's timeout is 2 s, so a response may take 4 s.
    let [memory, redis] = stores("").await;
    let ask = async |rls: &Rls, timeout: Duration| {
        let message =
            RateLimitRequest { domain: "d".into(), descriptors: vec![by(&[("ten", "a")])], hits_addend: 1 };
        let mut request = tonic::Request::new(message);
        request.set_timeout(timeout);
        rls.client.clone().should_rate_limit(request).await.unwrap();
        rls.sidecar.metric("evenkeel_rls_short_deadlines_total").await
    };
    assert_eq!(ask(&redis, Duration::from_secs(4)).await, 0.0);
    assert_eq!(ask(&redis, Duration::from_millis(3999)).await, 1.0);
    assert_eq!(ask(&redis, Duration::from_secs(3)).await, 2.0);
    assert_eq!(ask(&memory, Duration::from_secs(3)).await, 0.0, "memory is never slow");
}
