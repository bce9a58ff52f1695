//! Tests the conversion with configurations from the plugins' documentation.

use std::collections::HashMap;

use evenkeel_domain::limit::{Attributes, Limit, LimitRules};

use super::{Plugin, convert};
use crate::Config;

const TOKENS: Plugin = Plugin::AiTokenRatelimit;

/// Converts a plugin's configuration to YAML and parses its limits.
fn rules(matching: Option<&str>, yaml: &str) -> (LimitRules, Vec<String>) {
    let (converted, warnings) = convert(TOKENS, matching, "x.yaml", yaml).unwrap();
    let config = Config::parse(&converted).unwrap_or_else(|faults| panic!("{faults}\n{converted}"));
    ((*config.rules).clone(), warnings)
}

fn faults(yaml: &str) -> Vec<String> {
    convert(TOKENS, None, "x.yaml", yaml).expect_err("accepted").0
}

/// Returns the limits that count a request, and their amounts.
fn counted(rules: &LimitRules, facts: &Attributes) -> Vec<(String, u64)> {
    let holds = |limit: &Limit| {
        limit.when.iter().all(|condition| condition.holds(facts))
            && limit.key.bucket(facts, &limit.name).is_some()
    };
    let amount = |limit: &Limit| {
        let exception =
            limit.exceptions.iter().find(|e| e.when.iter().all(|condition| condition.holds(facts)));
        exception.map_or(limit.amount, |exception| exception.amount.unwrap_or(u64::MAX))
    };
    rules
        .limits
        .iter()
        .filter(|limit| holds(limit))
        .map(|limit| (limit.name.to_string(), amount(limit)))
        .collect()
}

fn consumer(name: &str) -> Attributes {
    Attributes { consumer: name.into(), ..Attributes::default() }
}

fn header(name: &str, value: &str) -> Attributes {
    Attributes { headers: HashMap::from([(name.to_owned(), value.to_owned())]), ..Attributes::default() }
}

fn on_route(route: &str) -> Attributes {
    Attributes { route: route.into(), consumer: "c".into(), ..Attributes::default() }
}

/// Formats the limits that apply to a request.
fn meets(rules: &LimitRules, facts: &Attributes) -> String {
    let list = counted(rules, facts).into_iter().map(|(name, amount)| format!("{name}={amount}"));
    list.collect::<Vec<_>>().join(" ")
}

const CONSUMERS: &str = "rule_name: default_rule
rule_items:
  - limit_by_consumer: ''
    limit_keys:
      - {key: consumer1, token_per_second: 10}
      - {key: consumer2, token_per_hour: 100}
  - limit_by_per_consumer:
    limit_keys:
      - {key: 'regexp:^a.*', token_per_second: 10}
      - {key: 'regexp:^b.*', token_per_minute: 100}
      - {key: '*', token_per_hour: 1000}
redis: {service_name: redis.static}
";

#[test]
fn by_default_the_first_matching_item_counts() {
    let (rules, warnings) = rules(None, CONSUMERS);
    let cases = [
        ("consumer1", "default_rule.tokens.0.second=10"),
        ("consumer2", "default_rule.tokens.0.hour=100"),
        ("ann", "default_rule.tokens.1.second=10"),
        ("bob", "default_rule.tokens.1.minute=100"),
        ("carl", "default_rule.tokens.1.hour=1000"),
        ("", ""),
    ];
    for (name, expected) in cases {
        assert_eq!(meets(&rules, &consumer(name)), expected, "{name}");
    }
    assert_eq!(
        warnings,
        [
            "x.yaml: redis: is ignored: Evenkeel keeps counters in its own store",
            "x.yaml: rule_items: are read as in Higress until June 2026: of the items that match a request, the \
             first counts; set matching to all, or to first to confirm"
        ]
    );
}

#[test]
fn with_all_every_matching_item_counts() {
    let (rules, _) = rules(Some("all"), CONSUMERS);
    assert_eq!(
        meets(&rules, &consumer("consumer1")),
        "default_rule.tokens.0.second=10 default_rule.tokens.1.hour=1000"
    );
    assert_eq!(meets(&rules, &consumer("bob")), "default_rule.tokens.1.minute=100");
    let both = "rule_name: r\nglobal_threshold: {token_per_minute: 1000}\nrule_items:\n- limit_by_per_header: X-Team\n  \
                limit_keys: [{key: '*', token_per_minute: 10}]";
    let (rules, _) = self::rules(None, both);
    assert_eq!(meets(&rules, &header("x-team", "red")), "r.tokens.global.minute=1000 r.tokens.0.minute=10");
    assert_eq!(meets(&rules, &Attributes::default()), "r.tokens.global.minute=1000");
}

#[test]
fn many_values_of_one_period_are_one_limit() {
    let (rules, _) = rules(
        None,
        "rule_name: r\nrule_items:\n- limit_by_header: x-ca-key\n  limit_keys:\n  - {key: 102234, token_per_minute: 10}\n  \
         - {key: 308239, token_per_minute: 20}\n  - {key: 0042, token_per_minute: 20}\n  - {key: '308239', \
         token_per_hour: 1}\n",
    );
    assert_eq!(rules.limits.len(), 1);
    for (key, amount) in [("102234", 10), ("308239", 20), ("0042", 20)] {
        assert_eq!(meets(&rules, &header("x-ca-key", key)), format!("r.tokens.0.minute={amount}"));
    }
    assert_eq!(meets(&rules, &header("x-ca-key", "42")), "");
}

#[test]
fn addresses() {
    let (rules, _) = rules(
        None,
        "rule_name: r\nrule_items:\n- limit_by_per_ip: from-header-X-Forwarded-For\n  limit_keys:\n  - {key: 1.1.1.1, \
         token_per_day: 10}\n  - {key: 1.1.1.0/24, token_per_day: 100}\n  - {key: 0.0.0.0/0, token_per_hour: 1000}\n",
    );
    let from = |list| meets(&rules, &header("x-forwarded-for", list));
    assert_eq!(from("1.1.1.1, 10.0.0.1"), "r.tokens.0.day=10");
    assert_eq!(from("1.1.1.2:80"), "r.tokens.0.day=100");
    assert_eq!(from("2.1.1.1"), "r.tokens.0.hour=1000");
    assert_eq!(rules.limits[0].key.attributes()[0].to_string(), "ip:x-forwarded-for");
    assert_eq!(from("nonsense"), "");
}

#[test]
fn queries_and_cookies() {
    let (rules, warnings) = rules(
        Some("first"),
        "rule_name: r\nrule_items:\n- limit_by_per_param: apikey\n  limit_keys: [{key: 'regexp:^a|z$', token_per_second: 1}, \
         {key: 'regexp:^[0-9]+$', token_per_second: 2}]\n- limit_by_param: apikey\n  limit_keys: [{key: abc, \
         token_per_day: 1}, {key: c, token_per_day: 1}]\n- limit_by_cookie: sid\n  limit_keys: [{key: s, token_per_day: \
         7, limit_type: request}]\n",
    );
    let query = |value| Attributes { path: format!("/v1?apikey={value}"), ..Attributes::default() };
    assert_eq!(meets(&rules, &query("a1")), "r.tokens.0.second=1");
    assert_eq!(meets(&rules, &query("42")), "r.tokens.0.second=2");
    assert_eq!(meets(&rules, &query("c")), "r.tokens.1.day=1");
    // The first item also matches "abc", and only the first match counts.
    assert_eq!(meets(&rules, &query("abc")), "r.tokens.0.second=1");
    assert_eq!(
        warnings,
        ["x.yaml: rule_items[1].limit_keys[0]: never applies: an earlier item matches first"]
    );
    assert_eq!(meets(&rules, &header("cookie", "sid=s")), "r.requests.2.day=7");
}

#[test]
fn items_after_one_that_matches_everything_never_apply() {
    let (rules, warnings) = rules(
        Some("first"),
        "rule_name: r\nrule_items:\n- limit_by_per_consumer: ''\n  limit_keys: [{key: '*', token_per_second: 1}, {key: \
         'regexp:^a', token_per_second: 2}]\n- limit_by_consumer: ''\n  limit_keys: [{key: ann, token_per_day: 1}]\n- \
         limit_by_per_consumer: ''\n  limit_keys: [{key: 'regexp:^b', token_per_second: 1}]\n",
    );
    assert_eq!(meets(&rules, &consumer("ann")), "r.tokens.0.second=1");
    assert_eq!(rules.limits.len(), 1);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
}

#[test]
fn a_wasm_plugin_with_rules_for_routes_and_domains() {
    let settings = |name: &str, amount| {
        format!(
            "rule_name: {name}\n      global_threshold: {{token_per_minute: {amount}}}\n      redis: {{service_name: r}}"
        )
    };
    let yaml = format!(
        "apiVersion: networking.higress.io/v1\nkind: McpBridge\nmetadata: {{name: default}}\nspec: {{registries: []}}\n---
apiVersion: extensions.higress.io/v1alpha1
kind: WasmPlugin
spec:
  url: oci://registry/plugins/ai-token-ratelimit:1.0.0
  defaultConfig:
      {}
  matchRules:
  - ingress: [route-a, route-b]
    config:
      {}
  - ingress: [route-c]
    config:
      {}
  - domain: ['*.example.com', test.com]
    config:
      {}
  - ingress: [off]
    configDisable: true
    config:
      {}
",
        settings("all", 4),
        settings("ab", 1),
        settings("ab", 1),
        settings("domain", 3),
        settings("off", 9)
    );
    let (rules, _) = rules(None, &yaml);
    // Higress counts rules that have the same name and configuration together.
    for route in ["route-a", "route-b", "route-c"] {
        assert_eq!(meets(&rules, &on_route(route)), "ab.tokens.global.minute=1", "{route}");
    }
    assert_eq!(meets(&rules, &on_route("other")), "all.tokens.global.minute=4");
    assert_eq!(meets(&rules, &on_route("off")), "all.tokens.global.minute=4");
    for host in ["api.example.com", "API.example.com:8443", "test.com"] {
        assert_eq!(meets(&rules, &header("host", host)), "domain.tokens.global.minute=3", "{host}");
    }
    let on_both = Attributes { route: "route-a".into(), ..header("host", "test.com") };
    assert_eq!(meets(&rules, &on_both), "ab.tokens.global.minute=1");
    assert_eq!(meets(&rules, &header("host", "example.org")), "all.tokens.global.minute=4");
}

#[test]
fn rules_within_the_configuration() {
    let (rules, _) = rules(
        None,
        "_rules_:\n- _match_service_: ['qwen.dns:443']\n  rule_name: s\n  global_threshold: {token_per_day: 1}\n- \
         _match_route_prefix_: [api-]\n  rule_name: p\n  global_threshold: {token_per_day: 2}\n",
    );
    let facts = |route: &str, cluster: &str| Attributes {
        route: route.into(),
        cluster: cluster.into(),
        ..Attributes::default()
    };
    assert_eq!(meets(&rules, &facts("api-x", "outbound|443||qwen.dns")), "s.tokens.global.day=1");
    assert_eq!(meets(&rules, &facts("api-x", "other")), "p.tokens.global.day=2");
    assert_eq!(meets(&rules, &facts("x", "other")), "");
}

#[test]
fn refusals_are_converted() {
    let rejected = |extra: &str| {
        let (rules, _) =
            rules(None, &format!("rule_name: r\nglobal_threshold: {{token_per_day: 1}}\n{extra}"));
        rules.limits[0].rejected.clone()
    };
    let plain = rejected("");
    assert_eq!((plain.status, plain.body.as_deref()), (429, Some("Too many requests")));
    let other = rejected("rejected_code: 200\nrejected_msg: '{\"code\":-1}'");
    assert_eq!((other.status, other.body.as_deref()), (200, Some("{\"code\":-1}")));
}

#[test]
fn each_fault_names_file_and_path() {
    let item = |item: &str| format!("rule_name: r\nrule_items: [{{{item}}}]");
    let rate = "a rate with one of token_per_second, token_per_minute, token_per_hour, token_per_day";
    let cases = [
        ("rule_items: []".to_owned(), "x.yaml: rule_name: must be the rule's name, got none".to_owned()),
        (
            "rule_name: r".to_owned(),
            "x.yaml: rule_items: must be given if global_threshold is not, got none".to_owned(),
        ),
        (
            "rule_name: r\nglobal_threshold: {tokens_per_day: 3}".to_owned(),
            format!("x.yaml: global_threshold: must be {rate}, got 0 of them"),
        ),
        (
            "rule_name: r\nglobal_threshold: {token_per_day: 3, token_per_hour: 3}".to_owned(),
            format!("x.yaml: global_threshold: must be {rate}, got 2 of them"),
        ),
        (
            "rule_name: r\nglobal_threshold: {token_per_day: 0}".to_owned(),
            "x.yaml: global_threshold.token_per_day: must be a whole number from 1 to 10^15, got \"0\"".to_owned(),
        ),
        (
            item("limit_keys: [{key: a, token_per_day: 1}]"),
            "x.yaml: rule_items[0]: must be an item with one of limit_by_*, got 0 of them".to_owned(),
        ),
        (
            item("limit_by_header: a, limit_by_param: b, limit_keys: [{key: a, token_per_day: 1}]"),
            "x.yaml: rule_items[0]: must be an item with one of limit_by_*, got 2 of them".to_owned(),
        ),
        (
            item("limit_by_header: a"),
            "x.yaml: rule_items[0].limit_keys: must be one key at least, got none".to_owned(),
        ),
        (
            item("limit_by_header: a, limit_keys: [{token_per_day: 1}]"),
            "x.yaml: rule_items[0].limit_keys[0].key: must be the value to match, got none".to_owned(),
        ),
        (
            item("limit_by_per_header: a, limit_keys: [{key: b, token_per_day: 1}]"),
            "x.yaml: rule_items[0].limit_keys[0].key: must be * or regexp: and a regular expression, got \"b\""
                .to_owned(),
        ),
        (
            item("limit_by_per_header: a, limit_keys: [{key: 'regexp:(', token_per_day: 1}]"),
            "x.yaml: rule_items[0].limit_keys[0].key: must be regexp: and a regular expression, got \"regexp:(\""
                .to_owned(),
        ),
        (
            item("limit_by_per_ip: from-nowhere, limit_keys: [{key: 1.1.1.1, token_per_day: 1}]"),
            "x.yaml: rule_items[0].limit_by_per_ip: must be from-remote-addr, or from-header- and the name of a \
             header, got \"from-nowhere\""
                .to_owned(),
        ),
        (
            item("limit_by_per_ip: from-remote-addr, limit_keys: [{key: 1.1.1.1.1, token_per_day: 1}]"),
            "x.yaml: rule_items[0].limit_keys[0].key: must be an address or network such as 10.0.0.0/8, got \
             \"1.1.1.1.1\""
                .to_owned(),
        ),
        (
            "rule_name: r\nglobal_threshold: {token_per_day: 1}\nrejected_code: 1".to_owned(),
            "x.yaml: rejected_code: must be 200..599, got \"1\"".to_owned(),
        ),
        (
            "_rules_: [{rule_name: r, global_threshold: {token_per_day: 1}}]".to_owned(),
            "x.yaml: _rules_[0]: must be a rule with one of ingress (_match_route_), domain, service or a route's prefix, got \
             0 of them"
                .to_owned(),
        ),
        (
            "kind: WasmPlugin\nspec: {url: oci://x/ai-proxy, defaultConfig: {rule_name: r}}".to_owned(),
            "x.yaml: must contain a configuration of ai-token-ratelimit, got none: document 0 has the url \
             \"oci://x/ai-proxy\", which names ai-proxy: Evenkeel does not replace it: keep it in the gateway"
                .to_owned(),
        ),
    ];
    for (yaml, expected) in cases {
        assert_eq!(faults(&yaml)[0], expected, "{yaml}");
    }
    assert_eq!(
        convert(
            TOKENS,
            Some("first"),
            "x.yaml",
            "rule_name: r\nglobal_threshold: {token_per_day: 1}\nrule_items: []"
        )
        .unwrap_err()
        .0
        .last()
        .unwrap(),
        "x.yaml: matching: must be all if global_threshold and rule_items are both given, got first"
    );
}

#[test]
fn rules_are_added_to_the_limits_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("tokens.yaml", "rule_name: r\nglobal_threshold: {token_per_day: 5}");
    write(
        "requests.yaml",
        "rule_name: r\nglobal_threshold: {query_per_day: 5}\nshow_limit_quota_header: true",
    );
    write(
        "evenkeel.yaml",
        "limits: [{name: own, counts: requests, amount: 1, per: 1s}]
higress_rules:
- {plugin: ai-token-ratelimit, file: tokens.yaml}
- {plugin: cluster-key-rate-limit, file: requests.yaml}
- {plugin: ai-token-ratelimit, file: tokens.yaml}",
    );
    let config = Config::load(&directory.path().join("evenkeel.yaml")).unwrap();
    let names: Vec<&str> = config.rules.limits.iter().map(|limit| &*limit.name).collect();
    let expected = ["own", "r.tokens.global.day", "r.requests.global.day", "r.tokens.global.day-2"];
    assert_eq!(names, expected);
    assert_eq!(config.files, [directory.path().join("tokens.yaml"), directory.path().join("requests.yaml")]);
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);

    write("tokens.yaml", "rule_name: r\nglobal_threshold: {token_per_day: 0}");
    write("requests.yaml", "rule_name: r\n  - x");
    let found = Config::load(&directory.path().join("evenkeel.yaml")).unwrap_err().0;
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].starts_with("tokens.yaml: global_threshold.token_per_day: must be "), "{found:?}");
    assert!(found[1].starts_with("requests.yaml: "), "{found:?}");
}

/// Guards against a mirrored image: its url names no plugin, and the error did not say so.
#[test]
fn a_mirrored_image_is_recognized_by_its_configuration() {
    let plugin = |url: &str, config: &str| {
        format!(
            "apiVersion: x/v1\nkind: WasmPlugin\nspec: {{url: '{url}', defaultConfig: {{rule_name: r, {config}}}}}"
        )
    };
    let tokens = "global_threshold: {token_per_day: 1}";
    for url in ["oci://mirror.example:5000/p/a1b2:1.0", "oci://m/ratelimit", ""] {
        let (rules, warnings) = rules(None, &plugin(url, tokens));
        assert_eq!(rules.limits.len(), 1, "{url}");
        let named =
            format!("x.yaml: document 0: is read as ai-token-ratelimit, which its url {url:?} does not name");
        assert_eq!(warnings, [named], "{url}");
    }
    for (yaml, expected) in [
        (plugin("oci://m/a1b2", "query: 1"), "document 0 has the url \"oci://m/a1b2\", which names no known plugin, and its configuration has no limits"),
        (plugin("oci://m/a1b2", "global_threshold: {query_per_day: 1}"), "and its configuration is a configuration of Higress's plugin cluster-key-rate-limit"),
        (plugin("oci://m/ai-quota:1", tokens), "which names ai-quota: it has no limits to convert: set quotas"),
        ("apiVersion: x/v1\nkind: WasmPlugin\nspec: {url: oci://m/ai-token-ratelimit, pluginConfig: {rule_name: r}}".to_owned(), "a pluginConfig of Istio's WasmPlugin"),
        ("apiVersion: x/v1\nkind: Deployment\nspec: {}".to_owned(), "document 0 is a Kubernetes Deployment"),
    ] {
        let found = faults(&yaml);
        assert!(found[0].starts_with("x.yaml: must contain a configuration of ai-token-ratelimit, got none: "), "{found:?}");
        assert!(found[0].contains(expected), "{found:?}");
    }
}

#[test]
fn a_file_of_another_format_is_named_with_the_remedy() {
    for (yaml, kind, remedy) in [
        ("pluginConfig: {rule_name: r}", "pluginConfig", "below pluginConfig"),
        ("redis_key_prefix: 'chat_quota:'\nadmin_consumer: a", "ai-quota", "set quotas and quota_admins"),
        ("lb_policy: global_least_request", "ai-load-balancer", "set pools"),
        ("provider: {type: qwen}", "ai-proxy", "keep it in the gateway"),
        ("- {namespace: n, max_value: 1, seconds: 60}", "Limitador", "convert-limitador"),
        ("domain: d\ndescriptors: []", "rate limit service", "rate_limit_service.config"),
        (
            "rule_name: r\nrule_items: [{limit_by_header: x, limit_keys: [{key: a, query_per_day: 1}]}]",
            "cluster-key-rate-limit",
            "--plugin cluster-key-rate-limit",
        ),
        ("static_resources: {}", "Envoy", "leave it in the gateway"),
    ] {
        let found = faults(yaml);
        assert!(
            found[0].starts_with("x.yaml: must be a configuration of ai-token-ratelimit, got "),
            "{found:?}"
        );
        assert!(found[0].contains(kind) && found[0].contains(remedy), "{found:?}");
    }
}

/// `kubectl get -o yaml` prints a list, whose items have no kind of their own if it is a typed list.
#[test]
fn the_objects_of_a_list_are_read() {
    let object = "{apiVersion: x/v1, kind: WasmPlugin, spec: {url: oci://x/ai-token-ratelimit, defaultConfig: {rule_name: r, \
                  global_threshold: {token_per_day: 1}}}}";
    let service = "{apiVersion: v1, kind: Service, spec: {}}";
    for (list, item) in [
        (format!("apiVersion: v1\nkind: List\nitems: [{object}, {service}]"), ""),
        (
            format!(
                "apiVersion: x/v1\nkind: WasmPluginList\nitems: [{}]",
                object.replace("kind: WasmPlugin, ", "")
            ),
            "",
        ),
        (
            format!("apiVersion: v1\nkind: List\nitems: [{service}]"),
            "document 0: items[0] is a Kubernetes Service",
        ),
    ] {
        match convert(Plugin::AiTokenRatelimit, None, "x.yaml", &list) {
            Ok((yaml, _)) => assert!(item.is_empty() && yaml.contains("r.tokens.global.day"), "{yaml}"),
            Err(found) => assert!(!item.is_empty() && found.0[0].contains(item), "{list}: {found:?}"),
        }
    }
}

#[test]
fn plugins_without_limits_have_a_remedy() {
    let error = |name: &str| name.parse::<Plugin>().unwrap_err();
    assert!(error("ai-quota").contains("docs/migrating-from-higress.md#quotas"), "{}", error("ai-quota"));
    assert!(error("ai-load-balancer").contains("set pools"), "{}", error("ai-load-balancer"));
    assert!(error("ai-proxy").contains("keep it in the gateway"), "{}", error("ai-proxy"));
    assert_eq!(error("x"), "must be ai-token-ratelimit or cluster-key-rate-limit, got \"x\"");
    let faults = Config::parse("higress_rules: [{plugin: ai-quota, file: /nowhere}]").unwrap_err().0;
    assert!(
        faults[0].starts_with("higress_rules[0].plugin: must be ") && faults[0].contains("#quotas"),
        "{faults:?}"
    );
}
