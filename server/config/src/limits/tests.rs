//! Tests the errors of limits: each message with a file that causes it.

use std::time::Duration;

use evenkeel_domain::{
    NAME_BYTES_MAX,
    limit::{Algorithm, Attribute, Attributes, CalendarUnit, Counts, OnStoreFailure, Period},
    shorten,
};

use crate::Config;

pub(super) fn faults(yaml: &str) -> Vec<String> {
    Config::parse(yaml).expect_err("accepted").0
}

/// Returns the errors of one limit. `fields` replaces fields of a valid limit.
fn faults_of_limit(fields: &str) -> Vec<String> {
    let valid = ["name: l", "counts: tokens", "amount: 10", "per: 1m"];
    let given = |line: &&&str| !fields.lines().any(|other| other.split(':').next() == line.split(':').next());
    let lines: Vec<&str> = valid.iter().filter(given).copied().chain(fields.lines()).collect();
    faults(&format!("limits:\n- {}\nprices: [{{model: '*', input: 1, output: 1}}]", lines.join("\n  ")))
}

#[test]
fn a_limit_with_every_field() {
    let config = Config::parse(
        "limits:
- name: consumer-tokens
  counts: tokens
  amount: 10k
  per: month
  time_zone: Europe/Berlin
  key: [model, consumer]
  when: [{attribute: model, prefix: gpt-4}, {attribute: ip, not: {cidr: [10.0.0.0/8]}}]
  exceptions:
  - {when: [{attribute: consumer, exact: alice}], amount: 1.5M}
  - {when: [{attribute: 'header:X-Tier', exact: internal}], unlimited: true}
  mode: shadow
  rejected: {status: 403, headers: {X-Why: tokens}, body: no}
  reserve_margin: 2
  on_store_failure: closed
- {name: cost, counts: cost, amount: 2.50, per: 1d}
- {name: burst, counts: requests, amount: 10, per: 1s, algorithm: token_bucket, burst: 50}
- {name: at-once, counts: requests, amount: 4, algorithm: concurrency, key: [consumer]}
prices: [{model: '*', input: 2, output: 8}]
",
    )
    .unwrap();
    let [tokens, cost, burst, at_once] = &config.rules.limits[..] else { panic!("{:?}", config.rules) };
    assert_eq!((tokens.counts, tokens.amount, tokens.shadow), (Counts::Tokens, 10_000, true));
    let Period::Calendar { unit: CalendarUnit::Month, zone } = &tokens.period else { panic!() };
    assert_eq!(zone.iana_name(), Some("Europe/Berlin"));
    assert_eq!(tokens.key.attributes(), [Attribute::Consumer, Attribute::Model]);
    assert_eq!(tokens.exceptions[0].amount, Some(1_500_000));
    assert_eq!(tokens.exceptions[1].amount, None);
    assert_eq!(tokens.rejected.headers["x-why"], "tokens");
    assert_eq!(
        (tokens.rejected.status, tokens.margin, tokens.on_store_failure),
        (403, 2.0, OnStoreFailure::Closed)
    );
    let facts = |model: &str, ip: &str| Attributes {
        model: model.into(),
        source_ip: ip.parse().ok(),
        ..Attributes::default()
    };
    let holds = |facts: Attributes| tokens.when.iter().all(|condition| condition.holds(&facts));
    assert!(holds(facts("gpt-4o", "192.0.2.1")));
    assert!(!holds(facts("gpt-4o", "10.0.0.1")));
    assert_eq!((cost.amount, &cost.period), (2_500_000, &Period::Length(Duration::from_secs(86_400))));
    assert_eq!(burst.algorithm, Algorithm::TokenBucket { burst: 50 });
    assert_eq!((at_once.algorithm, at_once.rejected.status), (Algorithm::Concurrency, 429));
}

/// The sidecar shortens the long names of consumers and models, so it shortens those in conditions too.
#[test]
fn conditions_match_long_names() {
    let long = |end: &str| "x".repeat(300) + end;
    let config = |condition: &str| {
        let limit = "{name: l, counts: requests, amount: 1, per: 1m, when: [{attribute: consumer, ";
        Config::parse(&format!("limits: [{limit}{condition}}}]}}]"))
    };
    let config_of = |condition: &str| config(condition).unwrap().rules.limits[0].when[0].clone();
    let holds = |condition: &str, consumer: &str| {
        let consumer = shorten(consumer, NAME_BYTES_MAX).into_owned();
        config_of(condition).holds(&Attributes { consumer, ..Attributes::default() })
    };
    for condition in [format!("exact: {}", long("1")), format!("not: {{exact: {}}}", long("2"))] {
        assert!(holds(&condition, &long("1")) && !holds(&condition, &long("2")), "{condition}");
    }
    assert!(holds(&format!("prefix: {}", "x".repeat(220)), &long("1")));
    let warnings = config(&format!("prefix: {}", "x".repeat(221))).unwrap().warnings;
    assert!(warnings[0].starts_with("limits[0].when[0].prefix: is longer than 220 bytes"), "{warnings:?}");
}

#[test]
fn each_fault_of_a_limit() {
    let amount = "a whole number up to 10^15, such as 10000, 10k or 1.5M";
    let attribute = "consumer, model, route, cluster, path, ip, ip/24, ip:x-forwarded-for, header:x, query:x, \
                     cookie:x or descriptor:x";
    let cases: Vec<(&str, String)> = vec![
        ("name: a b", "name: must be 1..64 characters of A-Z, a-z, 0-9, _, . and -, got \"a b\"".into()),
        ("counts: words", "counts: must be requests, tokens, input_tokens, output_tokens or cost, got \"words\"".into()),
        ("counts:", "counts: must be requests, tokens, input_tokens, output_tokens or cost, got none".into()),
        ("amount: -1", format!("amount: must be {amount}, got \"-1\"")),
        ("amount:", format!("amount: must be {amount}, got none")),
        (
            "counts: cost\namount: 1.2345678",
            "amount: must be a cost with at most 6 digits after the point, such as 2.50, got \"1.2345678\"".into(),
        ),
        ("per: 0s", "per: must be 1s..31d, day, week or month, got \"0s\"".into()),
        ("per:", "per: must be 1s..31d, day, week or month, got none".into()),
        ("per: day\ntime_zone: Mars", "time_zone: must be a time zone such as Europe/Berlin, got \"Mars\"".into()),
        ("time_zone: UTC", "time_zone: must be absent if per is a length of time, got \"UTC\"".into()),
        (
            "algorithm: magic",
            "algorithm: must be fixed_window, sliding_window, token_bucket or concurrency, got \"magic\"".into(),
        ),
        (
            "per: month\nalgorithm: sliding_window",
            "per: must be 1s..31d if algorithm is sliding_window, got \"month\"".into(),
        ),
        (
            "counts: requests\nalgorithm: concurrency",
            "per: must be absent if algorithm is concurrency, got \"1m\"".into(),
        ),
        (
            "per:\nalgorithm: concurrency",
            "counts: must be requests if algorithm is concurrency, got tokens".into(),
        ),
        ("burst: 3", "burst: must be absent if algorithm is not token_bucket, got \"3\"".into()),
        ("algorithm: token_bucket\nburst: 0", "burst: must be more than 0, got 0".into()),
        (
            "algorithm: token_bucket\namount: 0\nburst: 1",
            "amount: must be more than 0 if algorithm is token_bucket: it refills at this rate, got 0".into(),
        ),
        ("key: [who]", format!("key[0]: must be {attribute}, got \"who\"")),
        (
            "key: ['header::authority']",
            "key[0]: must be a header with a name of letters, digits and !#$%&'*+-.^_`|~ (host for the domain), got \
             \":authority\""
                .into(),
        ),
        ("key: [model, model]", "key[1]: must be named once, got \"model\" again".into()),
        (
            "key: [model]\nwhen: [{attribute: model, present: false}]",
            "key[0]: must be an attribute that `when` allows to be present, got \"model\" beside model is absent".into(),
        ),
        ("when: [{attribute: who, exact: a}]", format!("when[0].attribute: must be {attribute}, got \"who\"")),
        (
            "when: [{attribute: model}]",
            "when[0]: must be an attribute with one of exact, one_of, prefix, regex, cidr, present, not, got 0 of \
             them"
                .into(),
        ),
        (
            "when: [{attribute: model, not: {exact: a, prefix: b}}]",
            "when[0].not: must be one of exact, one_of, prefix, regex, cidr, present, got 2 of them".into(),
        ),
        (
            "when: [{attribute: model, exact: ''}]",
            "when[0].exact: must be 1..1024 bytes (an empty value counts as absent), got 0 bytes".into(),
        ),
        ("when: [{attribute: model, one_of: []}]", "when[0].one_of: must be 1..1024 values, got 0".into()),
        (
            "when: [{attribute: model, regex: 'a('}]",
            "when[0].regex: must be a regular expression, got \"a(\": unclosed group".into(),
        ),
        (
            "when: [{attribute: ip, cidr: [10.0.0.0/33]}]",
            "when[0].cidr[0]: must be an address or network such as 10.0.0.0/8, got \"10.0.0.0/33\"".into(),
        ),
        (
            "when: [{attribute: model, exact: a}, {attribute: model, prefix: b}]",
            "when[1]: must be a condition that can hold together with the others, got model begins with \"b\" \
             beside model is \"a\""
                .into(),
        ),
        (
            "exceptions: [{when: [{attribute: model, exact: a}]}]",
            "exceptions[0]: must be either an amount or unlimited: true, got none".into(),
        ),
        (
            "exceptions: [{amount: 3}]",
            "exceptions[0].when: must be one condition at least, got none".into(),
        ),
        (
            "exceptions: [{when: [{attribute: model, exact: a}], amount: 1, burst: 1}]",
            "exceptions[0].burst: must be absent unless algorithm is token_bucket and an amount is given, got one"
                .into(),
        ),
        ("mode: off", "mode: must be enforce or shadow, got \"off\"".into()),
        ("on_store_failure: panic", "on_store_failure: must be local, open or closed, got \"panic\"".into()),
        ("reserve_margin: 0.5", "reserve_margin: must be 1..100, got \"0.5\"".into()),
        (
            "counts: requests\nreserve_margin: 2",
            "reserve_margin: must be absent if counts is requests: each counts 1, known at once, got \"2\"".into(),
        ),
        ("rejected: {status: 99}", "rejected.status: must be 200..599, got 99".into()),
        (
            "rejected: {headers: {Content-Length: 3}}",
            "rejected.headers.Content-Length: must be left to the gateway, got \"3\"".into(),
        ),
        (
            "rejected: {headers: {'a b': c}}",
            "rejected.headers.a b: must be the name of a header, got \"a b\"".into(),
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(faults_of_limit(fields), [format!("limits[0].{expected}")], "{fields}");
    }
}

#[test]
fn names_are_unique_among_limits_and_quotas() {
    assert_eq!(
        faults(
            "limits: [{name: a, counts: tokens, amount: 1, per: 1s}, {name: a, counts: tokens, amount: 1, per: 1s}]\n\
             quotas: [{name: a, counts: tokens, kind: prepaid}]"
        ),
        [
            "limits[1].name: must be unique, got \"a\", which limits[0] has",
            "quotas[0].name: must be unique, got \"a\", which limits[0] has"
        ]
    );
}

/// Errors in limits do not hide errors in other sections.
#[test]
fn all_faults_are_reported_at_once() {
    let found = faults(
        "keep_alive_interval: 1ms\nlimits: [{name: a, counts: tokens, amount: x, per: 0s}]\nquotas: [{name: ''}]\n\
         ledger: {retention: 1}",
    );
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[test]
fn at_most_sixteen_may_apply_to_one_request() {
    let file = |condition: &dyn Fn(usize) -> String| {
        let limit =
            |i| format!("- {{name: l{i}, counts: requests, amount: 1, per: 1s, when: [{}]}}", condition(i));
        format!("limits:\n{}", (0..17).map(limit).collect::<Vec<_>>().join("\n"))
    };
    let found = faults(&file(&|_| String::new()));
    assert!(
        found[0].starts_with(
            "limits: must be such that at most 16 of them and of the quotas can apply to one request, got 17, as \
             nothing tells these apart: l0, l1, "
        ),
        "{found:?}"
    );
    // With one limit per route, only one applies to a request.
    Config::parse(&file(&|i| format!("{{attribute: route, exact: r{i}}}"))).unwrap();
    // A limit counts only requests that have all attributes of its key.
    let apart = |i| if i == 0 { "{attribute: consumer, present: false}".to_owned() } else { String::new() };
    faults(&file(&apart));
    Config::parse(&(file(&apart).replace("amount: 1", "amount: 1, key: [consumer]")).replacen(
        ", key: [consumer]",
        "",
        1,
    ))
    .unwrap();
}

#[test]
fn at_most_as_many_headers_as_gateways_forward() {
    let exception = |i| format!("{{when: [{{attribute: 'header:h{i}', present: true}}], unlimited: true}}");
    let limit = |n| {
        let exceptions: Vec<String> = (0..n).map(exception).collect();
        format!(
            "limits: [{{name: l, counts: requests, amount: 1, per: 1s, key: ['header:H0'], exceptions: [{}]}}]",
            exceptions.join(", ")
        )
    };
    Config::parse(&limit(64)).unwrap();
    assert_eq!(
        faults(&limit(65)),
        ["limits: must be about at most 64 headers, as gateways pass on no more, got 65"]
    );
}

#[test]
fn limits_that_never_apply_cause_warnings() {
    let warnings = |yaml: &str| Config::parse(yaml).unwrap().warnings;
    let limit = |fields: &str| format!("limits: [{{name: l, counts: tokens, amount: 9, per: 1m, {fields}}}]");
    let exceptions = "when: [{attribute: model, prefix: gpt}], exceptions: [
        {when: [{attribute: model, exact: llama}], amount: 1},
        {when: [{attribute: consumer, prefix: a}], amount: 1},
        {when: [{attribute: consumer, exact: ann}, {attribute: model, exact: gpt-4}], amount: 1}]";
    assert_eq!(
        warnings(&limit(exceptions)),
        [
            "limits[0].exceptions[0]: never applies: the limit applies only if model begins with \"gpt\"",
            "limits[0].exceptions[2]: never applies: exceptions[1] matches every request that it does",
        ]
    );
    assert_eq!(
        warnings("limits: [{name: l, counts: tokens, amount: 0, per: 1m}]\nquota_admins: [a]"),
        [
            "limits[0].amount: is 0: every request it applies to is refused",
            "quota_admins: has no effect: there are no quotas"
        ]
    );
    assert_eq!(
        warnings("prices: [{model: 'a*', input: 1, output: 1}, {model: ab, input: 1, output: 1}]"),
        ["prices[1].model: never applies: an earlier entry covers what begins with \"a\""]
    );
}

#[test]
fn the_example_shows_every_field() {
    let example = include_str!("../../../../docs/evenkeel.example.yaml");
    let fields = include_str!("raw.rs")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub(crate) ")?.split_once(": ").map(|(field, _)| field));
    let missing: Vec<&str> = fields.filter(|field| !example.contains(&format!("{field}:"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let config = Config::parse(example).unwrap();
    assert_eq!((config.rules.limits.len(), config.rules.quotas.len()), (4, 2));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}
