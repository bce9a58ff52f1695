use evenkeel_domain::settings::Source;

use super::*;

pub(crate) fn faults(yaml: &str) -> Vec<String> {
    Config::parse(yaml).expect_err("accepted").0
}

#[test]
fn an_empty_file_is_a_configuration() {
    let config = Config::parse("").unwrap();
    assert_eq!(config.listen.grpc.unwrap().to_string(), "127.0.0.1:9190");
    assert_eq!(config.listen.http.to_string(), "127.0.0.1:9191");
    assert!(matches!(config.store, StoreConfig::Memory));
    assert!(config.unlisted.is_some());
    assert_eq!(config.holder_ttl(), Duration::from_secs(3));
}

#[test]
fn the_documented_example_is_accepted() {
    let config = Config::parse(include_str!("../../../docs/evenkeel.example.yaml")).unwrap();
    assert_eq!(config.pools.len(), 4);
}

#[test]
fn endpoints_inherit_the_pools_defaults() {
    let config = Config::parse(
        "pools: [{cluster: llm, weight: 2, cap: 8, endpoints: [{address: 'a:1'}, {address: 'b:1', weight: 4, cap: 0}]}]",
    )
    .unwrap();
    let Source::Static(endpoints) = &config.pools[0].source else { panic!("{:?}", config.pools[0].source) };
    assert_eq!((endpoints[0].weight, endpoints[0].cap), (2.0, 8));
    assert_eq!((endpoints[1].weight, endpoints[1].cap), (4.0, 0));
}

#[test]
fn all_faults_are_reported_at_once() {
    let found = faults(
        "keep_alive_interval: 10ms\n\
         listen: {grpc: here, grpc_socket_mode: '999'}\n\
         store: {type: redis, cluster: true, url: 'http://x', key_prefix: 'a{'}\n\
         pools:\n\
         - {cluster: llm, weight: 0, endpoints: [{address: 'a:1'}, {address: 'a:1'}]}\n\
         - {cluster: '', higress_table: true, full_retry_after: 0s}\n\
         - {cluster: llm, dns: {name: x, port: 0}}\n",
    );
    let expected = [
        "keep_alive_interval: must be 100ms..60s, got 10ms",
        "store.url: must be a redis:// or rediss:// URL, got something else",
        "store.key_prefix: must be at most 64 bytes without { and }, got \"a{\"",
        "pools[0].weight: must be 0.001..1000, got 0",
        "pools[0].endpoints[0].weight: must be 0.001..1000, got 0",
        "pools[0].endpoints[1].address: must be named once, got \"a:1\" again",
        "pools[0].endpoints[1].weight: must be 0.001..1000, got 0",
        "pools[1].cluster: must be a name of 1..256 bytes without control characters, got \"\"",
        "pools[1].higress_table: must be false on Redis Cluster: Higress's key has no hash tag, got true",
        "pools[1].per_route: must be true if higress_table is: Higress keeps a table for each route, got false",
        "pools[1].full_retry_after: must be 1s..3600s, got 0ns",
        "pools[2].dns.port: must be 1..65535, got 0",
        "pools[2]: must be unique in cluster and route, got those of pools[0]",
        "listen.grpc: must be an IP address and port such as 127.0.0.1:9190, got \"here\"",
        "listen.grpc_socket_mode: must be an octal file mode such as \"0660\", got \"999\"",
    ];
    assert_eq!(found, expected);
}

/// Errors of parsing do not hide errors of validation.
#[test]
fn faults_of_parsing_are_reported_with_all_others() {
    let found = faults(
        "xyz: 1\n\
         keep_alive_interval: 1h\n\
         shutdown_delay: [1s]\n\
         log: loud\n\
         pools:\n\
         - {cluster: llm, capp: 3, weight: 0}\n\
         - {cluster: a, cap: many, endpoints: [{address: 'a:1'}, {weight: 2}], dns: {name: x, prt: 1}}\n\
         - 7\n\
         - {cluster: llm}\n\
         limits:\n\
         - {name: l, counts: requests, amount: {a: b}, per: 0s, kay: [consumer], when: [{attribute: ip, exat: 1}]}\n\
         higress_rules: [{plugin: ai-token-ratelimit, file: /nowhere}]\n",
    );
    let starts = [
        "xyz: must be one of listen, tls, keep_alive_interval, ",
        "pools[0].capp: must be one of cluster, route, ",
        "pools[1].dns.prt: must be one of name, port, refresh, nameserver, got a field of another name",
        "limits[0].kay: must be one of name, counts, ",
        "limits[0].when[0].exat: must be one of attribute, exact, ",
        "shutdown_delay: ",
        "log: ",
        "pools[1].cap: ",
        "pools[1].endpoints[1]: missing field",
        "pools[1].dns: missing field",
        "pools[2]: ",
        "limits[0].amount: ",
        "keep_alive_interval: must be 100ms..60s, got 3600s",
        "higress_rules[0]",
        "limits[0].per: must be 1s..31d",
        "limits[0].when[0]: must ",
        "pools[0].weight: must be 0.001..1000, got 0",
        "pools[3]: must be unique in cluster and route, got those of pools[0]",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (fault, start) in found.iter().zip(starts) {
        assert!(fault.starts_with(start), "{start}: {found:#?}");
    }
}

#[test]
fn every_wrong_name_of_an_enum_is_reported() {
    let found = faults(
        "log: {format: xml}\nstore: {type: 'redis://u:hunter2@h'}\nlimit_headers: [z, ietf, 7]\n\
         unlisted_pools: {on_store_failure: maybe}",
    );
    let expected = [
        "log.format: must be text or json, got \"xml\"",
        "store.type: must be memory, redis or sentinel, got \"redis://***@h\"",
        "unlisted_pools.on_store_failure: must be local, open or closed, got \"maybe\"",
        "limit_headers[0]: must be ietf or x, got \"z\"",
        "limit_headers[2]: must be ietf or x, got \"7\"",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(expected.iter().all(|fault| found.iter().any(|one| one == fault)), "{found:#?}");
}

#[test]
fn a_file_that_is_not_a_configuration_has_one_fault() {
    for yaml in ["7", "[a]", "a: [", "a: 1\na: 2"] {
        assert_eq!(faults(yaml).len(), 1, "{yaml}");
    }
    assert!(Config::parse("# nothing\n").is_ok());
    // Parsing terminates even if a key contains a dot.
    assert_eq!(
        faults("limits: [{rejected: {headers: {a.b: []}}}]").iter().filter(|f| f.contains("a.b")).count(),
        1
    );
    let many = format!("pools: [{}]", "7, ".repeat(300));
    assert_eq!(faults(&many).len(), 101);
}

#[test]
fn secrets_stay_out_of_faults() {
    let found = faults("store: {type: redis, url: 'rediz://u:hunter2@h'}");
    assert!(found.iter().all(|fault| !fault.contains("hunter2")), "{found:?}");
}

/// Guards against errors of the YAML parser that quote a line with a password.
#[test]
fn secrets_stay_out_of_syntax_faults() {
    for yaml in [
        "store: {url: 'redis://u:hunter2@h', clusterr: true}",
        "store: {url: 'redis://u:hunter2@h', cluster: maybe}",
        "store: {urls: 'redis://u:hunter2@h'}",
        "store: 'redis://u:hunter2@h'",
        "store: {timeout: 'redis://u:hunter2@h'}",
        "store: {url: redis://u:hunter2@h, url: redis://u:hunter2@h}",
        "store:\n  url: redis://u:hunter2@h\n urls: [",
        "redis://u:hunter2@h: 3",
    ] {
        let found = faults(yaml);
        assert!(found.iter().all(|fault| !fault.contains("hunter2")), "{found:?}");
    }
    assert_eq!(
        redact("got \"redis://u:p@@h/0\" and rediss://:p@h, not http://h/ a@b"),
        "got \"redis://***@h/0\" and rediss://***@h, not http://h/ a@b"
    );
}

#[test]
fn a_field_without_effect_is_a_fault() {
    assert_eq!(
        faults("store: {key_prefix: a, cluster: true, timeout: 1s}\npools: [{cluster: a, route: r}]"),
        [
            "store.type: must be redis if store.cluster is given, got memory",
            "store.type: must be redis if store.key_prefix is given, got memory",
            "store.type: must be redis if store.timeout is given, got memory",
            "pools[0].per_route: must be true if route is given: routes that share a table share its rule, \
             got false",
        ]
    );
    assert!(
        Config::parse("pools: [{cluster: a, route: '*'}, {cluster: b, route: r, per_route: true}]").is_ok()
    );
    assert_eq!(faults("shutdown_delay: 6m"), ["shutdown_delay: must be 0ns..300s, got 360s"]);
}

#[test]
fn secrets_stay_out_of_debug() {
    let config = Config::parse("store: {type: redis, url: 'redis://u:hunter2@h'}").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

/// Guards against a list of unknown fields where one sentence says what the file is.
#[test]
fn a_file_of_another_format_is_named_with_the_remedy() {
    for (yaml, expected) in [
        (
            "apiVersion: v1\nkind: ConfigMap\ndata: {a: b}",
            "a Kubernetes ConfigMap: give the text of the entry in its data",
        ),
        (
            "domain: d\ndescriptors: []",
            "a file of limits of Envoy's rate limit service: name it in rate_limit_service.config",
        ),
        (
            "- {namespace: a, max_value: 1, seconds: 1}",
            "a file of Limitador's limits: convert it with evenkeel",
        ),
        (
            "apiVersion: v1\nkind: WasmPlugin\nspec: {pluginConfig: {a: b}}",
            "a pluginConfig of Istio's WasmPlugin: ",
        ),
        ("admin_consumer: a", "a configuration of Higress's plugin ai-quota: "),
        (
            "domain: d\ndescriptors: []\n---\ndomain: e\ndescriptors: []",
            "a file of limits of Envoy's rate limit service: ",
        ),
        ("node: {id: a}\ndynamic_resources: {}", "a configuration of Envoy: "),
    ] {
        let faults = Config::parse(yaml).unwrap_err().0;
        let start = format!("must be a configuration of Evenkeel, got {expected}");
        assert!(faults.len() == 1 && faults[0].starts_with(&start), "{faults:?}");
    }
    let faults = Config::parse("store: {type: memory}\n---\nlisten: {}").unwrap_err().0;
    assert_eq!(faults, ["must be one YAML document, got 2"]);
    let faults = Config::parse("store: {type: memory}\nprovider: x\ndomain: d").unwrap_err().0;
    assert!(faults.len() == 2 && faults[0].starts_with("provider: must be one of "), "{faults:?}");
}

#[test]
fn one_anchor_may_serve_many_limits() {
    let mut yaml = "limits:\n".to_owned();
    let limit = "counts: requests, amount: 1, per: 1m, rejected:";
    for i in 0..200 {
        let rejected = if i == 0 { "&r {status: 403}" } else { "*r" };
        yaml +=
            &format!("- {{name: l{i}, when: [{{attribute: cluster, exact: c{i}}}], {limit} {rejected}}}\n");
    }
    assert_eq!(Config::parse(&yaml).unwrap().rules.limits.len(), 200);
}

#[test]
fn a_value_of_the_wrong_kind_is_named_in_words() {
    for (yaml, expected) in [
        ("listen: 7", "listen: must be a map at line 1, column 9"),
        ("pools: 7", "pools: must be a list at line 1, column 8"),
        ("log: {level: [1]}", "log.level: must be a text at line 1, column 14"),
        ("- a", "must be a map at line 1, column 1"),
    ] {
        assert_eq!(Config::parse(yaml).unwrap_err().0, [expected]);
    }
}

/// Guards against advice about the parser's options, which a file's author cannot set.
#[test]
fn errors_do_not_name_the_parsers_api() {
    for yaml in
        ["log: {}\nlog: {}", "log: {}\n---\nlog: {}", "log: *x", "log: {level: !!binary /w==}", "log: ["]
    {
        for fault in Config::parse(yaml).unwrap_err().0 {
            for word in ["Options", "Policy", "from_", "Option<", "struct ", "Visitor"] {
                assert!(!fault.contains(word), "{yaml}: {fault}");
            }
        }
    }
}
