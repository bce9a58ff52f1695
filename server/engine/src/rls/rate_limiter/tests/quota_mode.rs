//! Quota mode, and the metadata that lists the quotas.

use super::*;

#[tokio::test]
async fn quotas_refuse_if_all_are_over() {
    let limiter = limiter();
    let both = [by("small", "a"), by("large", "a")];
    let over = async || {
        let evaluation = ask(&limiter, 1, &both).await;
        (evaluation.over, evaluation.statuses.iter().map(|status| status.over).collect::<Vec<_>>())
    };
    assert_eq!(over().await, (false, vec![false, false]));
    assert_eq!(over().await, (false, vec![true, false]));
    assert_eq!(over().await, (true, vec![true, true]));
    assert!(!ask(&limiter, 1, &[by("large", "b"), by("ten", "a")]).await.over);
}

fn model<'a>(backend: &'a str, model: &'a str, bucket: &'a str) -> Descriptor<'a> {
    let entries = vec![("backend_name", backend), ("model_name_override", model), (bucket, "x")];
    Descriptor { entries, ..Descriptor::default() }
}

/// A model is exhausted if one of its quotas is, and a request is refused if all its models are.
#[tokio::test]
async fn the_quotas_of_a_model_are_one_group() {
    let limiter = limiter();
    let one = [model("b", "m", "tenant"), model("b", "m", "all")];
    assert!(!ask(&limiter, 1, &one).await.over);
    let evaluation = ask(&limiter, 1, &one).await;
    let over: Vec<bool> = evaluation.statuses.iter().map(|status| status.over).collect();
    assert_eq!((evaluation.over, over), (true, vec![true, false]));
    let [a, b] = one;
    assert!(
        !ask(&limiter, 1, &[a.clone(), b.clone(), model("b", "other", "all")]).await.over,
        "another model"
    );
    assert!(!ask(&limiter, 1, &[a.clone(), b.clone(), model("c", "m", "all")]).await.over, "another backend");
    assert!(
        ask(&limiter, 1, &[a, b, by("two", "q")]).await.over,
        "a limit outside quota mode is no alternative"
    );
}

#[tokio::test]
async fn in_global_quota_mode_every_limit_is_a_quota() {
    let options = RateLimiterOptions { quota: true, ..RateLimiterOptions::default() };
    let limiter = limiter_with(options, counters());
    let both = [by("none", "a"), by("ten", "a")];
    let evaluation = ask(&limiter, 1, &both).await;
    assert_eq!((evaluation.over, evaluation.statuses[0].over), (false, true));
    assert_eq!(left(&limiter, 1, &both[1..]).await, (false, vec![8]), "both requests are charged");
    assert!(ask(&limiter, 1, &both[..1]).await.over);
    let own = Descriptor { limit: Some((0, Unit::Day)), ..by("own", "a") };
    assert!(!ask(&limiter, 1, &[own.clone(), by("ten", "a")]).await.over);
    assert!(ask(&limiter, 1, &[own, by("none", "a")]).await.over);
}

#[tokio::test]
async fn the_metadata_describes_the_request_and_its_quotas() {
    let options = RateLimiterOptions { metadata: true, ..RateLimiterOptions::default() };
    let limiter = limiter_with(options, counters());
    let metadata = async |hits, descriptors: &[Descriptor<'_>]| {
        serde_json::Value::from(ask(&limiter, hits, descriptors).await.metadata.unwrap())
    };
    let own = Descriptor { limit: Some((7, Unit::Day)), hits: Some(2), ..by("own", "a") };
    assert_eq!(
        metadata(3, &[by("small", "a"), by("large", "b"), by("noted", "n"), own]).await,
        serde_json::json!({
            "domain": "d",
            "hitsAddend": 3,
            "descriptors": [
                {"entries": ["small=a"]},
                {"entries": ["large=b"]},
                {"entries": ["noted=n"]},
                {"entries": ["own=a"], "limit": "requests_per_unit:7 unit:DAY", "hitsAddend": 2},
            ],
            "quotaModeEnabled": true,
            "quotaModeViolations": [0, 1],
        }),
        "refused: 3 hits do not fit into the limit of 1"
    );
    assert_eq!(
        metadata(0, &[by("large", "c"), by("noted", "n"), by("free", "")]).await,
        serde_json::json!({
            "domain": "d",
            "descriptors": [{"entries": ["large=c"]}, {"entries": ["noted=n"]}, {"entries": ["free="]}],
            "quotaModeEnabled": true,
            // The first value of a field remains, and maps are merged.
            "metadata": {"name": "large", "a": {"x": 1, "y": 3}},
        })
    );
    let request = [model("b", "m", "tenant"), model("b", "m", "all"), model("b", "n", "all")];
    let first = metadata(1, &request).await;
    assert_eq!(first["passedBackends"].as_array().map(Vec::len), Some(2), "{first}");
    let second = metadata(1, &request).await;
    let passed = serde_json::json!([{"backend_name": "b", "model_name_override": "n"}]);
    assert_eq!(
        (&second["quotaModeViolations"], &second["passedBackends"], &second["metadata"]),
        (&serde_json::json!([0]), &passed, &serde_json::json!({"all": "t"}))
    );
    // The second refusal is a cached one, which evaluates no other limits.
    for _ in 0..2 {
        let refused = metadata(1, &[by("none", "a"), by("large", "d")]).await;
        assert_eq!(refused["quotaModeEnabled"], true, "{refused}");
    }
    let back = Descriptor { give_back: true, ..by("large", "d") };
    assert_eq!(metadata(1, &[back]).await["quotaModeEnabled"], true);
    assert_eq!(metadata(1, &[by("none", "a")]).await["quotaModeEnabled"], false);
    let elsewhere = RateLimitRequest { domain: "e", hits: 0, descriptors: vec![by("none", "a")] };
    let metadata = limiter.evaluate(&elsewhere).await.unwrap().metadata.unwrap();
    assert_eq!(metadata["domain"], "e");
    assert!(ask(&self::limiter(), 1, &[by("ten", "a")]).await.metadata.is_none());
}
