//! Tests what each descriptor is charged, with the embedded store, with Redis, and with Redis Cluster.

use std::time::Duration;

use evenkeel_proto::rate_limit_service::{
    RateLimitDescriptor, RateLimitUnit, rate_limit_descriptor::RateLimitOverride,
    rate_limit_response::rate_limit::Unit,
};

use super::{LIMITS, OK, OVER, Rls, back, by, hits, stores};
use crate::support::{eventually, redis::Cluster};

#[tokio::test]
async fn each_limit_counts_its_own_descriptors() {
    for rls in stores("").await {
        let a = by(&[("two", "a")]);
        assert_eq!(rls.codes(0, std::slice::from_ref(&a)).await, (OK, vec![(OK, 1)]));
        assert_eq!(rls.codes(1, &[by(&[("two", "b")])]).await, (OK, vec![(OK, 1)]), "each value apart");
        assert_eq!(rls.codes(1, std::slice::from_ref(&a)).await, (OK, vec![(OK, 0)]));
        let refused = rls.ask(1, &[a]).await;
        assert_eq!((refused.overall_code(), refused.statuses[0].code()), (OVER, OVER));
        let limit = refused.statuses[0].current_limit.clone().unwrap();
        assert_eq!((limit.name.as_str(), limit.requests_per_unit, limit.unit()), ("two", 2, Unit::Year));
        let reset = refused.statuses[0].duration_until_reset.unwrap();
        assert!((1..=365 * 86_400).contains(&reset.seconds), "{reset:?}");
        assert!(refused.response_headers_to_add.is_empty());

        assert_eq!(
            rls.codes(1, &[by(&[("ten", "one")])]).await,
            (OK, vec![(OK, 0)]),
            "the exact value first"
        );
        assert_eq!(rls.codes(1, &[by(&[("none", "x")])]).await, (OVER, vec![(OVER, 0)]));
        for unlisted in
            [by(&[("none", "allowed")]), by(&[("x", "y")]), by(&[("two", "a"), ("x", "y")]), by(&[])]
        {
            assert_eq!(rls.codes(1, &[unlisted]).await, (OK, vec![(OK, 0)]));
        }
        assert_eq!(rls.codes(1, &[by(&[("free", "x")])]).await, (OK, vec![(OK, u32::MAX)]));

        // All paths under /v1/ share the counters, and each user has one counter.
        let user = |path, user| by(&[("path", path), ("user", user)]);
        assert_eq!(rls.codes(1, &[user("/v1/a", "u")]).await, (OK, vec![(OK, 1)]));
        assert_eq!(rls.codes(1, &[user("/v1/b", "u")]).await, (OK, vec![(OK, 0)]));
        assert_eq!(rls.codes(1, &[user("/v1/c", "u")]).await, (OVER, vec![(OVER, 0)]));
        assert_eq!(rls.codes(1, &[user("/v1/c", "v")]).await, (OK, vec![(OK, 1)]));
        assert_eq!(rls.codes(1, &[user("/v2/c", "v")]).await, (OK, vec![(OK, 0)]));
        let values = rls.metrics("evenkeel_rls_detailed_descriptors_total{").await;
        let line = "evenkeel_rls_detailed_descriptors_total{domain=\"d\",limit=\"per-user\",result=\"ok\",value=\"path_/v1/*.user_u\"} 2";
        assert!(values.iter().any(|value| value == line), "{values:?}");
        let requests = rls.metrics("evenkeel_rls_descriptors_total{").await.join("\n");
        for line in [
            "{domain=\"d\",limit=\"two\",result=\"ok\"} 3",
            "{domain=\"d\",limit=\"two\",result=\"over_limit\"} 1",
            "{domain=\"d\",limit=\"ten_one\",result=\"ok\"} 1",
            "{domain=\"d\",limit=\"free\",result=\"unlimited\"} 1",
            "{domain=\"d\",limit=\"\",result=\"no_limit\"} 5",
        ] {
            assert!(requests.contains(line), "{line} in\n{requests}");
        }
    }
}

#[tokio::test]
async fn a_request_is_charged_to_all_limits_or_none() {
    for rls in stores("").await {
        let both = [by(&[("two", "a")]), by(&[("ten", "a")])];
        assert_eq!(rls.codes(1, &both).await, (OK, vec![(OK, 1), (OK, 9)]));
        assert_eq!(rls.codes(2, &both).await, (OVER, vec![(OVER, 0), (OK, 9)]));
        assert_eq!(rls.codes(1, &both).await, (OK, vec![(OK, 0), (OK, 8)]));
        assert_eq!(rls.codes(1, &both).await, (OVER, vec![(OVER, 0), (OK, 8)]));
        assert_eq!(rls.codes(1, &both[1..]).await, (OK, vec![(OK, 7)]));
    }
}

#[tokio::test]
async fn a_descriptor_may_carry_its_own_hits_and_limit() {
    for rls in stores("").await {
        let ten = || by(&[("ten", "a")]);
        assert_eq!(rls.codes(1, &[hits(0, ten())]).await, (OK, vec![(OK, 10)]), "it only looks");
        assert_eq!(rls.codes(5, &[hits(4, ten()), by(&[("ten", "b")])]).await, (OK, vec![(OK, 6), (OK, 5)]));
        assert_eq!(rls.codes(1, &[back(3, ten())]).await, (OK, vec![(OK, 9)]));
        // A response used more tokens than the limit has left. The tokens are charged, and the next look is refused.
        assert_eq!(rls.codes(1, &[hits(50, ten())]).await, (OVER, vec![(OVER, 0)]));
        assert_eq!(rls.codes(1, &[hits(0, ten())]).await, (OVER, vec![(OVER, 0)]));

        let unit = RateLimitUnit::Year.into();
        let own = |requests_per_unit| RateLimitDescriptor {
            limit: Some(RateLimitOverride { requests_per_unit, unit }),
            ..by(&[("free", "x")])
        };
        assert_eq!(rls.codes(1, &[own(1)]).await, (OK, vec![(OK, 0)]));
        assert_eq!(rls.codes(1, &[own(1)]).await, (OVER, vec![(OVER, 0)]));
        // If the unit is unknown, the limit in the file applies.
        let mut wrong = own(1);
        wrong.limit.as_mut().unwrap().unit = 0;
        assert_eq!(rls.codes(1, &[wrong]).await, (OK, vec![(OK, u32::MAX)]));
        // Each unit has its own counter.
        let day = || {
            let unit = RateLimitUnit::Month.into();
            RateLimitDescriptor { limit: Some(RateLimitOverride { requests_per_unit: 3, unit }), ..own(0) }
        };
        assert_eq!(rls.codes(1, &[day(), own(9)]).await, (OK, vec![(OK, 2), (OK, 7)]));
        assert_eq!(rls.codes(1, &[own(9), day()]).await, (OK, vec![(OK, 6), (OK, 1)]));
        // The hits in a descriptor are charged even if another descriptor is refused.
        let refused = [hits(3, by(&[("ten", "c")])), by(&[("none", "x")]), hits(2, by(&[("ten", "c")]))];
        assert_eq!(rls.codes(1, &refused).await, (OVER, vec![(OK, 5), (OVER, 0), (OK, 5)]));
        assert_eq!(rls.codes(1, &[by(&[("ten", "c")])]).await, (OK, vec![(OK, 4)]));
    }
}

/// Guards against charges that are lost beside a refusal that the sidecar remembers: a limit with no amount left would
/// stay at exactly its amount, and a look would pass.
#[tokio::test]
async fn own_hits_are_charged_at_exactly_the_limit() {
    for rls in stores("").await {
        let ten = |value| by(&[("ten", value)]);
        let over = (OVER, vec![(OVER, 0)]);
        assert_eq!(rls.codes(1, &[hits(10, ten("a"))]).await, (OK, vec![(OK, 0)]));
        assert_eq!(rls.codes(1, &[ten("a")]).await, over, "remembered from now on");
        assert_eq!(rls.codes(1, &[hits(5, ten("a"))]).await, over);
        assert_eq!(rls.codes(1, &[hits(0, ten("a"))]).await, over, "15 are used");
        assert_eq!(rls.codes(1, &[back(5, ten("a"))]).await, (OK, vec![(OK, 0)]));
        assert_eq!(rls.codes(1, &[hits(0, ten("a"))]).await, (OK, vec![(OK, 0)]), "10 are used");
        for line in [
            "evenkeel_rls_hits_total{domain=\"d\",limit=\"ten\",result=\"ok\"} 10",
            "evenkeel_rls_hits_total{domain=\"d\",limit=\"ten\",result=\"over_limit_cached\"} 5",
            "evenkeel_rls_hits_total{domain=\"d\",limit=\"ten\",result=\"refunded\"} 5",
            "evenkeel_rls_near_limit_hits_total{domain=\"d\",limit=\"ten\"} 2",
        ] {
            let start = line.split('{').next().unwrap();
            let found = rls.metrics(start).await;
            assert!(found.iter().any(|found| found == line), "{line} in {found:?}");
        }
        // The refused descriptor is another one, whose refusal is remembered.
        let refused = [by(&[("none", "x")]), hits(4, ten("b"))];
        assert_eq!(rls.codes(1, &refused).await, (OVER, vec![(OVER, 0), (OK, 6)]));
        assert_eq!(rls.codes(1, &refused).await, (OVER, vec![(OVER, 0), (OK, 2)]), "remembered");
        assert_eq!(rls.codes(1, &refused).await, (OVER, vec![(OVER, 0), (OVER, 0)]));
        assert_eq!(rls.codes(1, &[back(3, ten("b"))]).await, (OK, vec![(OK, 1)]), "12 were used");
    }
}

#[tokio::test]
async fn hits_are_given_back_to_a_counter_above_its_limit() {
    for rls in stores("").await {
        let ten = || by(&[("ten", "a")]);
        assert_eq!(rls.codes(1, &[hits(9, ten())]).await, (OK, vec![(OK, 1)]));
        assert_eq!(rls.codes(1, &[hits(3, ten())]).await, (OVER, vec![(OVER, 0)]));
        assert_eq!(rls.codes(1, &[back(3, ten())]).await, (OK, vec![(OK, 1)]));
        assert_eq!(rls.codes(1, &[hits(0, ten())]).await, (OK, vec![(OK, 1)]));
        // Beside a refusal, and from above to above the limit.
        assert_eq!(rls.codes(1, &[hits(20, ten())]).await, (OVER, vec![(OVER, 0)]));
        let refused = [by(&[("none", "x")]), back(2, ten())];
        assert_eq!(rls.codes(1, &refused).await, (OVER, vec![(OVER, 0), (OK, 0)]));
        assert_eq!(rls.codes(1, &[hits(0, ten())]).await, (OVER, vec![(OVER, 0)]), "27 are used");
        assert_eq!(rls.codes(1, &[back(20, ten())]).await, (OK, vec![(OK, 3)]));
        assert_eq!(rls.codes(1, &[hits(0, ten())]).await, (OK, vec![(OK, 3)]));
    }
}

/// The counters of one request are on different nodes. If one counter refuses, the charges of all others are taken
/// back.
#[tokio::test]
async fn a_cluster_charges_all_limits_or_none() {
    let cluster = Cluster::start();
    let urls: Vec<String> = cluster.urls().iter().map(|url| format!("'{url}'")).collect();
    let store = format!("store: {{type: redis, cluster: true, urls: [{}], timeout: 2s}}\n", urls.join(", "));
    let rls = Rls::start_on(LIMITS, "", &store).await;
    let values: Vec<String> = (0..8).map(|i| i.to_string()).collect();
    let mut descriptors: Vec<_> = values.iter().map(|value| by(&[("ten", value)])).collect();
    for left in [9, 8] {
        assert_eq!(rls.codes(1, &descriptors).await, (OK, vec![(OK, left); 8]));
    }
    descriptors.push(by(&[("none", "a")]));
    assert_eq!(rls.codes(1, &descriptors).await.0, OVER);
    descriptors.pop();
    eventually(Duration::from_secs(10), "all is given back", || async {
        let looks: Vec<_> = descriptors.iter().map(|descriptor| hits(0, descriptor.clone())).collect();
        let codes = rls.codes(1, &looks).await;
        if codes == (OK, vec![(OK, 8); 8]) { Ok(()) } else { Err(format!("{codes:?}")) }
    })
    .await;
}
