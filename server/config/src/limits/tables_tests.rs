//! Tests quotas, prices, models, headers and the ledger.

use std::time::Duration;

use evenkeel_domain::limit::{LimitHeaders, Matcher, Period, QuotaKind};

use super::tests::faults;
use crate::Config;

#[test]
fn quotas_and_tables() {
    let config = Config::parse(
        "quotas:
- {name: credit, counts: tokens, kind: prepaid}
- {name: budget, counts: cost, kind: budget, per: week, default: 5}
prices: [{model: gpt-4o, input: 2.5, output: 10, cached_input: 1.25}, {model: 'gpt*', input: 1, output: 2}]
models: [{model: 'gpt-4*', output_tokens: 400}]
limit_headers: [x]
quota_admins: [admin]
ledger: {retention: 7d, rows_max: 500}
",
    )
    .unwrap();
    let rules = &config.rules;
    assert_eq!((&rules.quotas[0].kind, rules.quotas[0].default), (&QuotaKind::Prepaid, None));
    assert_eq!(rules.quotas[1].default, Some(5_000_000));
    assert!(matches!(rules.quotas[1].kind, QuotaKind::Budget(Period::Calendar { .. })));
    assert_eq!((rules.prices.0[0].cached_input, rules.prices.0[0].reasoning), (1.25, 10.0));
    assert_eq!(rules.prices.0[1].model, Matcher::Prefix("gpt".into()));
    assert_eq!(rules.models[0].bytes_per_token, None);
    assert_eq!(rules.headers, LimitHeaders { ietf: false, x: true });
    assert_eq!(
        (config.ledger.retention, config.ledger.sessions_max),
        (Duration::from_secs(7 * 86_400), 10_000)
    );
    assert_eq!(
        config.warnings,
        [
            "prices: have no default, an entry for model \"*\": requests to models that are not listed cost nothing, so \
             budget never refuses them"
        ]
    );
}

#[test]
fn each_fault_of_the_tables() {
    let cases = [
        (
            "quotas: [{name: q, counts: tokens, kind: gift}]",
            "quotas[0].kind: must be prepaid or budget, got \"gift\"",
        ),
        (
            "quotas: [{name: q, counts: tokens, kind: prepaid, per: month}]",
            "quotas[0].per: must be absent if kind is prepaid, got one",
        ),
        (
            "quotas: [{name: q, counts: tokens, kind: budget}]",
            "quotas[0].per: must be 1s..31d, day, week or month, got none",
        ),
        (
            "quotas: [{name: q, counts: cost, kind: prepaid}]",
            "prices: must be given if quotas[0].counts is cost, got none",
        ),
        (
            "prices: [{model: a, input: 1}]",
            "prices[0].output: must be a price for a million tokens, got none",
        ),
        ("prices: [{model: a, input: 1, output: x}]", "prices[0].output: must be 0..1000000, got \"x\""),
        (
            "prices: [{model: 'a*b', input: 1, output: 1}]",
            "prices[0].model: must be a model's name of 1..256 bytes, or a prefix followed by one *, got \"a*b\"",
        ),
        (
            "models: [{model: a}]",
            "models[0]: must be an estimate: output_tokens or bytes_per_token, got neither",
        ),
        (
            "models: [{model: a, bytes_per_token: 0}]",
            "models[0].bytes_per_token: must be 0.1..100, got \"0\"",
        ),
        ("limit_headers: [z]", "limit_headers[0]: must be ietf or x, got \"z\""),
        ("quota_admins: [a, a]", "quota_admins[1]: must be named once, got \"a\" again"),
        ("ledger: {retention: 10s}", "ledger.retention: must be 1h..400d, got \"10s\""),
        ("ledger: {rows_max: 1}", "ledger.rows_max: must be 100..1000000, got \"1\""),
        (
            "higress_rules: [{plugin: x, file: /nowhere}]",
            "higress_rules[0].plugin: must be ai-token-ratelimit or cluster-key-rate-limit, got \"x\"",
        ),
    ];
    for (yaml, expected) in cases {
        assert_eq!(faults(yaml)[0], expected, "{yaml}");
    }
}
