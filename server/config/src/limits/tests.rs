//! Each message beside a file that earns it.

use std::time::Duration;

use evenkeel_domain::{
    limit::{
        Algorithm, Attribute, CalendarUnit, Counts, Facts, LimitHeaders, Matcher, OnOutage, Period, QuotaKind,
    },
    settings::Secret,
};

use crate::Config;

fn faults(yaml: &str) -> Vec<String> {
    Config::parse(yaml).expect_err("accepted").0
}

/// Faults of one limit, given the fields that differ from a sound one's.
fn faults_of_limit(fields: &str) -> Vec<String> {
    let sound = ["name: l", "counts: tokens", "amount: 10", "per: 1m"];
    let given = |line: &&&str| !fields.lines().any(|other| other.split(':').next() == line.split(':').next());
    let lines: Vec<&str> = sound.iter().filter(given).copied().chain(fields.lines()).collect();
    faults(&format!("limits:\n- {}\nprices: [{{model: '*', input: 1, output: 1}}]", lines.join("\n  ")))
}

#[test]
fn a_limit_as_the_documents_show_it() {
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
  on_outage: closed
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
    assert_eq!((tokens.rejected.status, tokens.margin, tokens.on_outage), (403, 2.0, OnOutage::Closed));
    let facts =
        |model: &str, ip: &str| Facts { model: model.into(), source_ip: ip.parse().ok(), ..Facts::default() };
    let holds = |facts: Facts| tokens.when.iter().all(|condition| condition.holds(&facts));
    assert!(holds(facts("gpt-4o", "192.0.2.1")));
    assert!(!holds(facts("gpt-4o", "10.0.0.1")));
    assert_eq!((cost.amount, &cost.period), (2_500_000, &Period::Length(Duration::from_secs(86_400))));
    assert_eq!(burst.algorithm, Algorithm::TokenBucket { burst: 50 });
    assert_eq!((at_once.algorithm, at_once.rejected.status), (Algorithm::Concurrency, 429));
}

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
admin: {tokens: [{name: ops, token: 0123456789abcdef}]}
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
    assert!(config.admin[0].secret.is("0123456789abcdef") && !config.admin[0].secret.is("0123456789abcdeg"));
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    assert_eq!(
        (config.ledger.retention, config.ledger.sessions_max),
        (Duration::from_secs(7 * 86_400), 10_000)
    );
    assert_eq!(
        config.warnings,
        ["prices: have none for model \"*\": requests to models that are not listed cost nothing"]
    );
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
        ("time_zone: UTC", "time_zone: must be absent where per is a length of time, got \"UTC\"".into()),
        (
            "algorithm: magic",
            "algorithm: must be fixed_window, sliding_window, token_bucket or concurrency, got \"magic\"".into(),
        ),
        (
            "per: month\nalgorithm: sliding_window",
            "per: must be 1s..31d where algorithm is sliding_window, got \"month\"".into(),
        ),
        (
            "counts: requests\nalgorithm: concurrency",
            "per: must be absent where algorithm is concurrency, got \"1m\"".into(),
        ),
        (
            "per:\nalgorithm: concurrency",
            "counts: must be requests where algorithm is concurrency, got tokens".into(),
        ),
        ("burst: 3", "burst: must be absent where algorithm is not token_bucket, got \"3\"".into()),
        ("algorithm: token_bucket\nburst: 0", "burst: must be more than 0, got 0".into()),
        (
            "algorithm: token_bucket\namount: 0\nburst: 1",
            "amount: must be more than 0 where algorithm is token_bucket: it refills at this rate, got 0".into(),
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
            "key[0]: must be an attribute that `when` lets be there, got \"model\" beside model is absent".into(),
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
        ("on_outage: panic", "on_outage: must be local, open or closed, got \"panic\"".into()),
        ("reserve_margin: 0.5", "reserve_margin: must be 1..100, got \"0.5\"".into()),
        (
            "counts: requests\nreserve_margin: 2",
            "reserve_margin: must be absent where counts is requests: each counts 1, known at once, got \"2\"".into(),
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
fn each_fault_of_the_rest() {
    let cases = [
        (
            "quotas: [{name: q, counts: tokens, kind: gift}]",
            "quotas[0].kind: must be prepaid or budget, got \"gift\"",
        ),
        (
            "quotas: [{name: q, counts: tokens, kind: prepaid, per: month}]",
            "quotas[0].per: must be absent where kind is prepaid, got one",
        ),
        (
            "quotas: [{name: q, counts: tokens, kind: budget}]",
            "quotas[0].per: must be 1s..31d, day, week or month, got none",
        ),
        (
            "quotas: [{name: q, counts: cost, kind: prepaid}]",
            "prices: must be given where quotas[0].counts is cost, got none",
        ),
        (
            "prices: [{model: a, input: 1}]",
            "prices[0].output: must be a price for a million tokens, got none",
        ),
        ("prices: [{model: a, input: 1, output: x}]", "prices[0].output: must be 0..1000000, got \"x\""),
        (
            "prices: [{model: 'a*b', input: 1, output: 1}]",
            "prices[0].model: must be a model's name of 1..256 bytes, or the beginning of some with one * at its \
             end, got \"a*b\"",
        ),
        (
            "models: [{model: a}]",
            "models[0]: must be an expectation: output_tokens or bytes_per_token, got neither",
        ),
        (
            "models: [{model: a, bytes_per_token: 0}]",
            "models[0].bytes_per_token: must be 0.1..100, got \"0\"",
        ),
        ("limit_headers: [z]", "limit_headers[0]: must be ietf or x, got \"z\""),
        ("quota_admins: [a, a]", "quota_admins[1]: must be named once, got \"a\" again"),
        (
            "admin: {tokens: [{name: a, token: hunter2}]}",
            "admin.tokens[0].token: must be 16..1024 printable ASCII characters without blanks, such as `openssl \
             rand -hex 32` makes, got 7 bytes",
        ),
        ("admin: {tokens: [{name: a}]}", "admin.tokens[0]: must be either token or token_file, got neither"),
        (
            "admin: {tokens: [{name: a, token_file: /nowhere/at/all}]}",
            "admin.tokens[0].token_file: must be a file that can be read, got \"/nowhere/at/all\": No such file or \
             directory (os error 2)",
        ),
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

/// Sections of limits and those before them are read in one go, so that nobody mends one fault to meet the next.
#[test]
fn all_faults_at_once() {
    let found = faults(
        "keep_alive_interval: 1ms\nlimits: [{name: a, counts: tokens, amount: x, per: 0s}]\nquotas: [{name: ''}]\n\
         ledger: {retention: 1}",
    );
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[test]
fn at_most_sixteen_may_meet_one_request() {
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
    // One for each route: one request meets one.
    Config::parse(&file(&|i| format!("{{attribute: route, exact: r{i}}}"))).unwrap();
    // An attribute of the key has to be there.
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
fn at_most_as_many_headers_as_gateways_pass_on() {
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
fn what_never_applies_is_warned_of() {
    let warnings = |yaml: &str| Config::parse(yaml).unwrap().warnings;
    let limit = |fields: &str| format!("limits: [{{name: l, counts: tokens, amount: 9, per: 1m, {fields}}}]");
    let exceptions = "when: [{attribute: model, prefix: gpt}], exceptions: [
        {when: [{attribute: model, exact: llama}], amount: 1},
        {when: [{attribute: consumer, prefix: a}], amount: 1},
        {when: [{attribute: consumer, exact: ann}, {attribute: model, exact: gpt-4}], amount: 1}]";
    assert_eq!(
        warnings(&limit(exceptions)),
        [
            "limits[0].exceptions[0]: never applies: the limit itself is only for where model begins with \"gpt\"",
            "limits[0].exceptions[2]: never applies: exceptions[1] comes first wherever it would",
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
        ["prices[1].model: never applies: an earlier one is for what begins with \"a\""]
    );
}

#[test]
fn a_token_may_come_from_a_file_beside_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("token"), "0123456789abcdef\n").unwrap();
    let path = directory.path().join("evenkeel.yaml");
    std::fs::write(&path, "admin: {tokens: [{name: a, token_file: token}]}").unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!(config.admin[0].secret, Secret::new("0123456789abcdef".into()));
    assert_eq!(config.files, [directory.path().join("token")]);
}

#[test]
fn tokens_stay_out_of_faults() {
    for yaml in [
        "admin: {tokens: [{name: a, token: hunter2}]}",
        "admin: {tokens: [{name: a, token: hunter2, x: 1}]}",
        "admin: {tokens: hunter2}",
        "admin: hunter2",
        "admin: {tokens: [hunter2]}",
        "admin: {tokens: [{name: a, token: [hunter2]}]}",
        "admin: {tokens: [{name: a, token: hunter2 with blanks}, {name: b, token: hunter2 with blanks}]}",
        "admin: {tokens: [{name: a, token: hunter2hunter2hunter2}, {name: b, token: hunter2hunter2hunter2}]}",
    ] {
        let found = faults(yaml);
        assert!(found.iter().all(|fault| !fault.contains("hunter2")), "{found:?}");
    }
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
