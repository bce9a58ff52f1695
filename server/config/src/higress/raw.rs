//! Configurations of Higress's plugins as written in the file. Higress ignores unknown fields, so this module stores
//! their names for warnings.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

/// A YAML document: a Kubernetes resource, or a bare configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Resource {
    pub(super) kind: Option<String>,
    pub(super) spec: Option<Spec>,
    /// The objects of a list.
    pub(super) items: Option<Vec<Resource>>,
}

/// The relevant fields of a WasmPlugin.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) url: Option<String>,
    pub(super) default_config: Option<Settings>,
    pub(super) default_config_disable: bool,
    pub(super) match_rules: Vec<MatchRule>,
}

/// A configuration that replaces the default one for some requests.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct MatchRule {
    pub(super) ingress: Vec<String>,
    pub(super) domain: Vec<String>,
    pub(super) service: Vec<String>,
    pub(super) config: Option<Settings>,
    pub(super) config_disable: bool,
}

/// Defines structs that store the names of unknown fields.
macro_rules! lenient {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $key:literal: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name {
            $(pub(super) $field: Option<$type>,)*
            pub(super) unknown: Vec<String>,
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;

                impl<'de> Visitor<'de> for Fields {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a mapping")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        let mut read = $name::default();
                        while let Some(key) = map.next_key::<String>()? {
                            match key.as_str() {
                                $($key => read.$field = Some(map.next_value()?),)*
                                _ => {
                                    map.next_value::<IgnoredAny>()?;
                                    read.unknown.push(key);
                                }
                            }
                        }
                        Ok(read)
                    }
                }

                deserializer.deserialize_map(Fields)
            }
        }
    };
}

lenient! {
    /// A plugin's configuration, including `_rules_`.
    Settings {
        rule_name = "rule_name": String,
        global_threshold = "global_threshold": Rate,
        rule_items = "rule_items": Vec<Item>,
        rejected_code = "rejected_code": String,
        rejected_msg = "rejected_msg": String,
        show_limit_quota_header = "show_limit_quota_header": bool,
        redis = "redis": IgnoredAny,
        rules = "_rules_": Vec<Settings>,
        match_route = "_match_route_": Vec<String>,
        match_domain = "_match_domain_": Vec<String>,
        match_service = "_match_service_": Vec<String>,
        match_route_prefix = "_match_route_prefix_": Vec<String>,
    }
}

lenient! {
    /// An entry of `rule_items`.
    Item {
        header = "limit_by_header": String,
        param = "limit_by_param": String,
        consumer = "limit_by_consumer": Option<String>,
        cookie = "limit_by_cookie": String,
        per_header = "limit_by_per_header": String,
        per_param = "limit_by_per_param": String,
        per_consumer = "limit_by_per_consumer": Option<String>,
        per_cookie = "limit_by_per_cookie": String,
        per_ip = "limit_by_per_ip": String,
        limit_keys = "limit_keys": Vec<Rate>,
    }
}

lenient! {
    /// An entry of `limit_keys`, or `global_threshold`.
    Rate {
        key = "key": String,
        limit_type = "limit_type": String,
        token_per_second = "token_per_second": String,
        token_per_minute = "token_per_minute": String,
        token_per_hour = "token_per_hour": String,
        token_per_day = "token_per_day": String,
        query_per_second = "query_per_second": String,
        query_per_minute = "query_per_minute": String,
        query_per_hour = "query_per_hour": String,
        query_per_day = "query_per_day": String,
    }
}
