use super::*;

fn ok(text: &str) -> Config {
    Config::parse(text.as_bytes()).unwrap()
}

fn faults(text: &str) -> Vec<String> {
    Config::parse(text.as_bytes()).unwrap_err()
}

#[test]
fn an_empty_configuration_is_all_defaults() {
    for text in ["", "  \n", "{}", "{\"sidecar\":null}"] {
        let config = ok(text);
        assert_eq!(config.sidecar_clusters, ["evenkeel"]);
        assert_eq!(config.deadline_ms, 50);
        assert_eq!(config.on_error, OnError::Open);
        assert_eq!(config.apply, Apply::OverrideHost { header: ENDPOINT_HEADER.into() });
        assert_eq!(config.consumer, Source::Header("x-mse-consumer".into()));
        assert_eq!(
            (config.session_headers.len(), config.session_headers[0].as_str()),
            (7, "x-openclaw-session-key")
        );
        assert!(config.descriptors.is_empty() && config.admin_paths.is_empty());
        assert!(config.read_usage && config.uncompressed_responses && !config.include_usage);
        assert!(
            !config.read_body && !config.count_helper_calls && config.on_unread_body == OnUnreadBody::Admit
        );
        assert_eq!((config.body_bytes_max, config.body_wait_ms, config.keep_alive_ms), (983_040, 1000, 1000));
        assert_eq!(config.report_header, None);
    }
}

#[test]
fn every_option_is_read() {
    let config = ok(r#"{
        "sidecar": {"cluster": "side"}, "deadline_ms": 20.0, "on_error": "closed", "open_per_second": 7,
        "apply": {"mode": "name", "header": "X-Provider"},
        "candidates": [{"address": "a", "weight": 2, "cap": 3}, {"address": "b"}],
        "pool": {"route": "r", "cluster": "c"}, "consumer_header": "X-User",
        "pass_headers": ["X-Tenant"], "read_body": true, "on_unread_body": "refuse", "body_bytes_max": 10,
        "body_wait_ms": 100, "count_helper_calls": true, "keep_alive_ms": 500, "report_header": "X-Placed",
        "session_headers": ["X-Chat"], "admin_paths": ["/quota", "/quota/delta"], "read_usage": true,
        "accept_encoding": "remove", "include_usage": true, "descriptors": {
            "tenant": {"header": "X-Tenant"}, "org": {"metadata": ["envoy.filters.http.jwt_authn", "payload", "org"]},
            "sni": {"property": ["connection", "requested_server_name"]}, "region": {"value": "eu"}}}"#);
    assert_eq!(
        config,
        Config {
            sidecar_clusters: vec!["side".into()],
            deadline_ms: 20,
            on_error: OnError::Closed,
            open_per_second: Some(7),
            apply: Apply::Name { header: "x-provider".into() },
            candidates: vec![
                Candidate { address: "a".into(), weight: 2.0, cap: 3 },
                Candidate { address: "b".into(), weight: 0.0, cap: 0 },
            ],
            pool_route: Some("r".into()),
            pool_cluster: Some("c".into()),
            consumer: Source::Header("x-user".into()),
            pass_headers: vec!["x-tenant".into()],
            session_headers: vec!["x-chat".into()],
            descriptors: vec![
                (
                    "org".into(),
                    Source::Metadata(vec![
                        "envoy.filters.http.jwt_authn".into(),
                        "payload".into(),
                        "org".into()
                    ])
                ),
                ("region".into(), Source::Value("eu".into())),
                ("sni".into(), Source::Property(vec!["connection".into(), "requested_server_name".into()])),
                ("tenant".into(), Source::Header("x-tenant".into())),
            ],
            admin_paths: vec!["/quota".into(), "/quota/delta".into()],
            read_usage: true,
            uncompressed_responses: true,
            include_usage: true,
            read_body: true,
            on_unread_body: OnUnreadBody::Refuse,
            body_bytes_max: 10,
            body_wait_ms: 100,
            count_helper_calls: true,
            keep_alive_ms: 500,
            report_header: Some("x-placed".into()),
        }
    );
}

#[test]
fn each_fault_names_its_field() {
    let cases = [
        ("[]", "configuration: must be an object, got a list"),
        (r#"{"sidecar":"x"}"#, "sidecar: must be an object, got a string"),
        (
            r#"{"sidecar":{"cluster":""}}"#,
            "sidecar.cluster: must be a cluster name of 1 to 256 bytes without control characters, got \"\"",
        ),
        (
            r#"{"sidecar":{"cluster":["a",""]}}"#,
            "sidecar.cluster[1]: must be a cluster name of 1 to 256 bytes without control characters, got \"\"",
        ),
        (r#"{"sidecar":{"adress":"x"}}"#, "sidecar.adress: unknown field; must be one of cluster"),
        (r#"{"deadline_ms":0}"#, "deadline_ms: must be a whole number from 1 to 10000, got 0"),
        (r#"{"deadline_ms":1.5}"#, "deadline_ms: must be a whole number from 1 to 10000, got 1.5"),
        (r#"{"deadline_ms":"5ms"}"#, "deadline_ms: must be a whole number from 1 to 10000, got \"5ms\""),
        (r#"{"open_per_second":-1}"#, "open_per_second: must be a whole number from 0 to 1000000, got -1"),
        (r#"{"on_error":"maybe"}"#, "on_error: must be \"open\" or \"closed\", got \"maybe\""),
        (
            r#"{"apply":{"mode":"x"}}"#,
            "apply.mode: must be \"override_host\", \"original_dst\", \"name\" or \"higress\", got \"x\"",
        ),
        (r#"{"apply":{"header":"a b"}}"#, "apply.header: must be an HTTP header name, got \"a b\""),
        (
            r#"{"apply":{"mode":"original_dst","header":"h"}}"#,
            "apply.header: unknown field; must be one of mode",
        ),
        (
            r#"{"apply":{"mode":"name"},"pool":{"cluster":"c"}}"#,
            "apply.header: must be set in apply.mode \"name\"",
        ),
        (
            r#"{"apply":{"mode":"name","header":"h"}}"#,
            "pool.cluster: must be set in apply.mode \"name\", in which no cluster is matched yet",
        ),
        (
            r#"{"read_body":true,"on_unread_body":"x"}"#,
            "on_unread_body: must be \"admit\" or \"refuse\", got \"x\"",
        ),
        (r#"{"on_unread_body":"refuse"}"#, "on_unread_body: \"refuse\" requires read_body true"),
        (r#"{"candidates":{}}"#, "candidates: must be a list, got an object"),
        (r#"{"candidates":[{}]}"#, "candidates[0].address: must be set"),
        (
            r#"{"candidates":[{"address":"a"},{"address":"a"}]}"#,
            "candidates[1].address: \"a\" is listed twice",
        ),
        (
            r#"{"candidates":[{"address":"a","weight":-1}]}"#,
            "candidates[0].weight: must be 0 or a number from 0.001 to 1000, got -1",
        ),
        (
            r#"{"candidates":[{"address":"a","weight":0.0009}]}"#,
            "candidates[0].weight: must be 0 or a number from 0.001 to 1000, got 0.0009",
        ),
        (
            r#"{"candidates":[{"address":"a","weight":1001}]}"#,
            "candidates[0].weight: must be 0 or a number from 0.001 to 1000, got 1001",
        ),
        (
            r#"{"candidates":[{"address":"a\u0007"}]}"#,
            "candidates[0].address: must be an address or name of 1 to 256 bytes without control characters, got \"a\\u{7}\"",
        ),
        (
            r#"{"candidates":[{"address":""}]}"#,
            "candidates[0].address: must be an address or name of 1 to 256 bytes without control characters, got \"\"",
        ),
        (
            r#"{"pool":{"cluster":"a\tb"}}"#,
            "pool.cluster: must be a cluster name of 1 to 256 bytes without control characters, got \"a\\tb\"",
        ),
        (
            r#"{"pool":{"cluster":""}}"#,
            "pool.cluster: must be a cluster name of 1 to 256 bytes without control characters, got \"\"",
        ),
        (
            r#"{"pool":{"route":"\u009f"}}"#,
            "pool.route: must be a route name of at most 256 bytes without control characters, got \"\\u{9f}\"",
        ),
        (r#"{"pass_headers":[":path"]}"#, "pass_headers[0]: must be an HTTP header name, got \":path\""),
        (r#"{"read_body":"yes"}"#, "read_body: must be true or false, got a string"),
        (r#"{"session_headers":["a b"]}"#, "session_headers[0]: must be an HTTP header name, got \"a b\""),
        (r#"{"consumer":"x"}"#, "consumer: must be an object, got a string"),
        (r#"{"consumer":{}}"#, "consumer: must have exactly one of header or metadata"),
        (
            r#"{"consumer":{"header":"a","metadata":["b"]}}"#,
            "consumer: must have exactly one of header or metadata",
        ),
        (
            r#"{"consumer":{"header":"a"},"consumer_header":"b"}"#,
            "consumer: must not be set together with consumer_header",
        ),
        (r#"{"consumer":{"header":"a b"}}"#, "consumer.header: must be an HTTP header name, got \"a b\""),
        (
            r#"{"consumer":{"metadata":[]}}"#,
            "consumer.metadata: must be a list of 1 to 16 names of 1 to 256 bytes, got []",
        ),
        (
            r#"{"consumer":{"metadata":["a",7]}}"#,
            "consumer.metadata: must be a list of 1 to 16 names of 1 to 256 bytes, got [\"a\",7]",
        ),
        (r#"{"descriptors":[]}"#, "descriptors: must be an object, got a list"),
        (
            r#"{"descriptors":{"a":{}}}"#,
            "descriptors.a: must have exactly one of header, metadata, property or value",
        ),
        (
            r#"{"descriptors":{"":{"value":"x"}}}"#,
            "descriptors: must have names of 1 to 64 bytes without control characters, got \"\"",
        ),
        (
            r#"{"admin_paths":["/"]}"#,
            "admin_paths[0]: must be a path suffix of 2 to 256 bytes that starts with a slash and has no query, got \"/\"",
        ),
        (r#"{"accept_encoding":"gzip"}"#, "accept_encoding: must be \"remove\" or \"keep\", got \"gzip\""),
        (r#"{"include_usage":true}"#, "include_usage: requires read_body true"),
        (
            r#"{"include_usage":true,"read_body":true,"read_usage":false}"#,
            "include_usage: requires read_usage true",
        ),
        (
            r#"{"include_usage":true,"read_body":true,"accept_encoding":"keep"}"#,
            "include_usage: requires accept_encoding \"remove\"",
        ),
        (r#"{"keep_alive_ms":1}"#, "keep_alive_ms: must be a whole number from 100 to 60000, got 1"),
    ];
    for (text, expected) in cases {
        assert_eq!(faults(text), [expected], "{text}");
    }
}

#[test]
fn names_and_weights_are_bounded() {
    let (at, over) = ("é".repeat(128), "é".repeat(128) + "b");
    let pool =
        |route: &str, cluster: &str| format!(r#"{{"pool":{{"route":"{route}","cluster":"{cluster}"}}}}"#);
    let candidate = |address: &str| format!(r#"{{"candidates":[{{"address":"{address}"}}]}}"#);
    ok(&pool(&at, &at));
    ok(&candidate(&at));
    assert_eq!(ok(&pool("", "c")).pool_route.as_deref(), Some(""), "one table for all routes");
    assert_eq!(faults(&pool(&over, &over)).len(), 2);
    assert_eq!(faults(&candidate(&over)).len(), 1);
    for weight in ["0", "0.0", "0.001", "1000", "1e3"] {
        let text = format!(r#"{{"candidates":[{{"address":"a","weight":{weight}}}]}}"#);
        assert_eq!(ok(&text).candidates[0].weight.to_string().parse::<f64>(), weight.parse());
    }
}

#[test]
fn every_fault_is_reported_at_once() {
    let faults = faults(r#"{"deadline_ms":0,"on_error":1,"typo":true,"candidates":[7]}"#);
    assert_eq!(faults.len(), 4, "{faults:?}");
    assert!(faults[3].starts_with("typo: unknown field; must be one of sidecar, apply, "), "{faults:?}");
}

#[test]
fn invalid_json_is_reported() {
    assert!(faults("{")[0].starts_with("configuration: must be JSON: "));
}

#[test]
fn mode_higress_requires_the_higress_build() {
    let result = Config::parse(br#"{"apply":{"mode":"higress"}}"#);
    if cfg!(feature = "higress") {
        assert_eq!(result.unwrap().apply, Apply::Higress);
    } else {
        assert!(result.unwrap_err()[0].starts_with("apply.mode: \"higress\" requires the Higress module"));
    }
}

#[test]
fn several_sidecar_clusters_are_listed() {
    let config = Config::parse(br#"{"sidecar":{"cluster":["a","b"]}}"#).unwrap();
    assert_eq!(config.sidecar_clusters, ["a", "b"]);
    let config = Config::parse(br#"{"sidecar":{"cluster":[]}}"#).unwrap();
    assert_eq!(config.sidecar_clusters, ["evenkeel"]);
}
