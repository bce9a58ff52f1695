//! Recognizes files of other formats that are given by mistake, so that an error can name the format and the remedy
//! instead of a field that the file happens to lack.

use std::fmt;

use serde_json::{Map, Value};

/// The names of Higress plugins, from their image URLs, that a file may be for. A plugin whose name contains another
/// plugin's name comes first.
const HIGRESS_PLUGINS: [&str; 36] = [
    "ai-token-ratelimit",
    "cluster-key-rate-limit",
    "key-rate-limit",
    "ai-quota",
    "ai-load-balancer",
    "ai-agent",
    "ai-cache",
    "ai-data-masking",
    "ai-history",
    "ai-intent",
    "ai-json-resp",
    "ai-prompt-decorator",
    "ai-prompt-template",
    "ai-proxy",
    "ai-rag",
    "ai-search",
    "ai-security-guard",
    "ai-statistics",
    "ai-transformer",
    "basic-auth",
    "bot-detect",
    "cors",
    "custom-response",
    "ext-auth",
    "hmac-auth",
    "ip-restriction",
    "jwt-auth",
    "key-auth",
    "mcp-router",
    "mcp-server",
    "model-mapper",
    "model-router",
    "oauth",
    "oidc",
    "request-block",
    "waf",
];

/// A field that only the configuration of one Higress plugin has at its top level.
const HIGRESS_FIELDS: [(&str, &str); 12] = [
    ("admin_consumer", "ai-quota"),
    ("redis_key_prefix", "ai-quota"),
    ("lb_policy", "ai-load-balancer"),
    ("lb_type", "ai-load-balancer"),
    ("providers", "ai-proxy"),
    ("provider", "ai-proxy"),
    ("use_default_attributes", "ai-statistics"),
    ("enableSemanticCache", "ai-cache"),
    ("block_urls", "request-block"),
    ("modelMapping", "model-mapper"),
    ("modelToHeader", "model-router"),
    ("limit_keys", "key-rate-limit"),
];

/// Top-level sections that only the sidecar's configuration has.
const SECTIONS: [&str; 7] =
    ["listen", "store", "pools", "rate_limit_service", "higress_rules", "quota_admins", "limit_headers"];

/// Top-level fields that only the plugin's configuration has.
const PLUGIN_FIELDS: [&str; 8] = [
    "sidecar",
    "apply",
    "deadline_ms",
    "read_body",
    "read_usage",
    "on_unread_body",
    "consumer_header",
    "admin_paths",
];

/// Top-level fields that only configurations of Envoy, and parts of them, have.
const ENVOY_FIELDS: [&str; 8] = [
    "static_resources",
    "dynamic_resources",
    "http_filters",
    "rate_limits",
    "virtual_hosts",
    "typed_config",
    "typed_per_filter_config",
    "@type",
];

/// The format of a file, if it is not the format that its reader expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    Configuration,
    /// The configuration of Evenkeel's plugin.
    PluginSettings,
    /// A file of limits of envoyproxy/ratelimit.
    RateLimits,
    /// The limits of Limitador.
    Limitador,
    ConfigMap,
    /// A `List` of Kubernetes objects.
    List,
    /// A plugin's configuration as Istio's WasmPlugin contains it.
    PluginConfig,
    /// A configuration of this Higress plugin.
    Higress(&'static str),
    /// The configuration of Envoy itself.
    Envoy,
    /// A Kubernetes object of this kind.
    Kubernetes(String),
}

impl FileKind {
    /// Recognizes a document by its fields. `None` if it could be anything.
    #[must_use]
    pub fn of(document: &Value) -> Option<Self> {
        let map = match document {
            Value::Array(items) => {
                let is_limit =
                    |item: &Value| item.get("max_value").is_some() && item.get("seconds").is_some();
                return (!items.is_empty() && items.iter().all(is_limit)).then_some(Self::Limitador);
            }
            Value::Object(map) => map,
            _ => return None,
        };
        let text = |name: &str| map.get(name).and_then(Value::as_str);
        if let (Some(_), Some(kind)) = (text("apiVersion"), text("kind")) {
            return Some(Self::of_kubernetes(kind, map));
        }
        let has = |name: &str| map.contains_key(name);
        let first = |name: &str| map.get(name).and_then(|list| list.get(0));
        let first_limit = first("limits");
        let is_of_limitador = |limit: &Value| limit.get("max_value").is_some();
        // The resources of a response of xDS. Other formats have resources, too.
        let is_typed = |resource: &Value| resource.get("@type").is_some();
        Some(if has("domain") && has("descriptors") {
            Self::RateLimits
        } else if SECTIONS.iter().any(|section| has(section)) {
            Self::Configuration
        } else if PLUGIN_FIELDS.iter().any(|field| has(field)) {
            Self::PluginSettings
        } else if has("pluginConfig") {
            Self::PluginConfig
        } else if has("max_value") && has("seconds") || first_limit.is_some_and(is_of_limitador) {
            Self::Limitador
        } else if first_limit.is_some_and(|limit| limit.get("amount").is_some()) {
            Self::Configuration
        } else if let Some(plugin) = Self::higress_plugin(map) {
            Self::Higress(plugin)
        } else if ENVOY_FIELDS.iter().any(|field| has(field)) || first("resources").is_some_and(is_typed) {
            Self::Envoy
        } else {
            return None;
        })
    }

    fn of_kubernetes(kind: &str, map: &Map<String, Value>) -> Self {
        let spec = map.get("spec").and_then(Value::as_object);
        let has = |name: &str| spec.is_some_and(|spec| spec.contains_key(name));
        match kind {
            "ConfigMap" => Self::ConfigMap,
            kind if kind.ends_with("List") && map.contains_key("items") => Self::List,
            "Limitador" => Self::Limitador,
            "WasmPlugin" if has("pluginConfig") => Self::PluginConfig,
            "WasmPlugin" => {
                let url = spec.and_then(|spec| spec.get("url")).and_then(Value::as_str).unwrap_or_default();
                let config = spec.and_then(|spec| spec.get("defaultConfig")).and_then(Value::as_object);
                let plugin = plugin_of_url(url).or_else(|| config.and_then(Self::higress_plugin));
                plugin.map_or_else(|| Self::Kubernetes(kind.to_owned()), Self::Higress)
            }
            kind => Self::Kubernetes(kind.to_owned()),
        }
    }

    /// Recognizes the configuration of a Higress plugin.
    fn higress_plugin(map: &Map<String, Value>) -> Option<&'static str> {
        let has = |name: &str| map.contains_key(name);
        if has("rule_items") || has("global_threshold") {
            let text = Value::Object(map.clone()).to_string();
            let counts_queries = text.contains("\"query_per_") && !text.contains("\"token_per_");
            return Some(if counts_queries { "cluster-key-rate-limit" } else { "ai-token-ratelimit" });
        }
        if let Some(Value::Array(rules)) = map.get("_rules_") {
            return rules.iter().filter_map(Value::as_object).find_map(Self::higress_plugin);
        }
        if has("limit_keys") && !(has("limit_by_header") || has("limit_by_param")) {
            return None;
        }
        if let Some(Value::Array(consumers)) = map.get("consumers") {
            let of = |field: &str| consumers.iter().any(|consumer| consumer.get(field).is_some());
            let jwt = of("jwks") || of("issuer");
            return (of("name") || of("credential")).then_some(if jwt { "jwt-auth" } else { "key-auth" });
        }
        HIGRESS_FIELDS.iter().find(|(field, _)| has(field)).map(|(_, plugin)| *plugin)
    }

    /// Returns what to do with a file of this kind.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Configuration => "check it with evenkeel check-config FILE",
            Self::PluginSettings => "give it to the plugin in the gateway; see docs/plugin.md",
            Self::RateLimits => {
                "name it in rate_limit_service.config, and check it with evenkeel check-config --rate-limit FILE"
            }
            Self::Limitador => {
                "convert it with evenkeel convert-limitador FILE; see docs/migrating-from-limitador.md"
            }
            Self::ConfigMap => "give the text of the entry in its data",
            Self::List => "give the objects one by one",
            Self::PluginConfig => {
                "it configures a plugin in the gateway; to convert a Higress plugin's limits, give what is below \
                 pluginConfig in a file of its own"
            }
            Self::Higress("ai-token-ratelimit") => {
                "name it in higress_rules, or convert it with evenkeel convert-higress --plugin ai-token-ratelimit FILE"
            }
            Self::Higress("cluster-key-rate-limit") => {
                "name it in higress_rules, or convert it with evenkeel convert-higress --plugin cluster-key-rate-limit \
                 FILE"
            }
            Self::Higress(plugin) => remedy_for(plugin),
            Self::Envoy => "leave it in the gateway, which it configures",
            Self::Kubernetes(_) => {
                "give a file with the settings themselves, or a ConfigMap that contains it"
            }
        }
    }
}

/// Returns the objects of a Kubernetes list. The items of a typed list, such as a ConfigMapList, have no kind of their own.
#[must_use]
pub fn items_of(list: &Value) -> Vec<Value> {
    let kind = list["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).unwrap_or_default();
    let mut items = list["items"].as_array().cloned().unwrap_or_default();
    for item in items.iter_mut().filter_map(Value::as_object_mut).filter(|_| !kind.is_empty()) {
        item.entry("kind").or_insert_with(|| kind.into());
        item.entry("apiVersion").or_insert_with(|| list["apiVersion"].clone());
    }
    items
}

/// Returns what replaces a Higress plugin that has no limits to convert.
#[must_use]
pub fn remedy_for(plugin: &str) -> &'static str {
    match plugin {
        "ai-quota" => {
            "it has no limits to convert: set quotas and quota_admins, and move the balances, as \
             docs/migrating-from-higress.md#quotas describes"
        }
        "ai-load-balancer" => {
            "it has no limits to convert: set pools, as \
             docs/migrating-from-higress.md#settings-and-their-replacements describes"
        }
        "key-rate-limit" => "it counts in each gateway separately: write limits as in docs/limits.md",
        _ => "Evenkeel does not replace it: keep it in the gateway",
    }
}

/// Returns the Higress plugin that an image URL names. The last part of its path that names a plugin counts.
#[must_use]
pub fn plugin_of_url(url: &str) -> Option<&'static str> {
    let path =
        url.split_once("://").map_or(url, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    path.rsplit('/').find_map(|part| HIGRESS_PLUGINS.into_iter().find(|plugin| contains_word(part, plugin)))
}

/// Returns whether a name contains a word between other characters than letters and digits.
fn contains_word(name: &str, word: &str) -> bool {
    let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric());
    name.match_indices(word).any(|(at, _)| {
        is_edge(name[..at].chars().next_back()) && is_edge(name[at + word.len()..].chars().next())
    })
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration => f.write_str("a configuration of Evenkeel"),
            Self::PluginSettings => f.write_str("a configuration of Evenkeel's plugin"),
            Self::RateLimits => f.write_str("a file of limits of Envoy's rate limit service"),
            Self::Limitador => f.write_str("a file of Limitador's limits"),
            Self::ConfigMap => f.write_str("a Kubernetes ConfigMap"),
            Self::List => f.write_str("a list of Kubernetes objects"),
            Self::PluginConfig => f.write_str("a pluginConfig of Istio's WasmPlugin"),
            Self::Higress(plugin) => write!(f, "a configuration of Higress's plugin {plugin}"),
            Self::Envoy => f.write_str("a configuration of Envoy"),
            Self::Kubernetes(kind) => write!(f, "a Kubernetes {kind}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_of_other_formats_are_recognized() {
        let object = |kind: &str, spec: Value| json!({"apiVersion": "v1", "kind": kind, "spec": spec});
        let tokens = json!({"rule_name": "r", "rule_items": [{"limit_keys": [{"token_per_day": 1}]}]});
        let queries = json!({"rule_name": "r", "global_threshold": {"query_per_day": 1}});
        let cases = [
            (json!([{"namespace": "n", "max_value": 1, "seconds": 60}]), "a file of Limitador's limits"),
            (object("Limitador", json!({"limits": []})), "a file of Limitador's limits"),
            (json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {}}), "a Kubernetes ConfigMap"),
            (json!({"apiVersion": "v1", "kind": "List", "items": []}), "a list of Kubernetes objects"),
            (object("EnvoyFilter", json!({})), "a Kubernetes EnvoyFilter"),
            (object("WasmPlugin", json!({"pluginConfig": {}})), "a pluginConfig of Istio's WasmPlugin"),
            (json!({"pluginConfig": {"rule_items": []}}), "a pluginConfig of Istio's WasmPlugin"),
            (object("WasmPlugin", json!({"url": "oci://x/plugins/ai-proxy:1.0.0"})), "ai-proxy"),
            (
                object("WasmPlugin", json!({"url": "oci://x/a1b2", "defaultConfig": queries})),
                "cluster-key-rate-limit",
            ),
            (object("WasmPlugin", json!({"url": "oci://x/a1b2"})), "a Kubernetes WasmPlugin"),
            (tokens.clone(), "ai-token-ratelimit"),
            (
                json!({"_rules_": [{"_match_route_": ["a"], "global_threshold": {"token_per_day": 1}}]}),
                "ai-token-ratelimit",
            ),
            (json!({"redis_key_prefix": "chat_quota:", "admin_consumer": "a"}), "ai-quota"),
            (json!({"lb_policy": "global_least_request"}), "ai-load-balancer"),
            (json!({"limit_by_header": "x", "limit_keys": []}), "key-rate-limit"),
            (json!({"consumers": [{"name": "a", "credential": "b"}], "keys": ["x"]}), "key-auth"),
            (json!({"domain": "d", "descriptors": []}), "a file of limits of Envoy's rate limit service"),
            (json!({"name": "x", "domain": "d", "descriptors": []}), "a file of limits"),
            (json!({"static_resources": {}}), "a configuration of Envoy"),
            (json!({"node": {"id": "a"}, "dynamic_resources": {}}), "a configuration of Envoy"),
            (json!({"resources": [{"@type": "x"}]}), "a configuration of Envoy"),
            (json!({"limits": [{"name": "a", "amount": 1}]}), "a configuration of Evenkeel"),
            (json!({"limits": [{"max_value": 1, "seconds": 60}]}), "a file of Limitador's limits"),
            (json!({"store": {"type": "memory"}}), "a configuration of Evenkeel"),
            (json!({"apply": {"mode": "higress"}}), "a configuration of Evenkeel's plugin"),
        ];
        for (document, expected) in cases {
            let kind = FileKind::of(&document).map(|kind| kind.to_string()).unwrap_or_default();
            assert!(kind.contains(expected), "{document}: {kind}");
        }
        for unknown in [
            json!({"resources": ["b.yaml"]}),
            json!({}),
            json!([]),
            json!({"a": 1}),
            json!("x"),
            json!({"domain": "d"}),
            json!([{"a": 1}]),
        ] {
            assert_eq!(FileKind::of(&unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_url_names_its_plugin() {
        for (url, plugin) in [
            (
                "oci://higress-registry.cn-hangzhou.cr.aliyuncs.com/plugins/ai-token-ratelimit:1.0.0",
                Some("ai-token-ratelimit"),
            ),
            ("oci://r/cluster-key-rate-limit@sha256:00", Some("cluster-key-rate-limit")),
            ("file:///opt/plugins/wasm-go/extensions/ai-quota/plugin.wasm", Some("ai-quota")),
            ("oci://cors.example/mirror/wafer:1.0", None),
            ("oci://r:5000/mirror/key-rate-limit", Some("key-rate-limit")),
            ("oci://r/mirror/p17:1.0", None),
            ("", None),
        ] {
            assert_eq!(plugin_of_url(url), plugin, "{url}");
        }
    }
}
