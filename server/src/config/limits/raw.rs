//! Limits as written in the file: shapes only, and nearly all of them text, so that every fault can be told at once
//! and with its path. docs/configuration.md explains each field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

/// An amount without quotes where it is a number.
fn plainly<S: Serializer>(amount: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    match amount.as_deref().map(str::parse::<u64>) {
        Some(Ok(number)) => serializer.serialize_u64(number),
        _ => amount.serialize(serializer),
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawLimit {
    pub(in crate::config) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) counts: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "plainly")]
    pub(in crate::config) amount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) per: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) time_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) algorithm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) burst: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::config) key: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::config) when: Vec<RawCondition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::config) exceptions: Vec<RawException>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) rejected: Option<RawRejected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) reserve_margin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) on_outage: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawCondition {
    pub(in crate::config) attribute: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) exact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) one_of: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) regex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) cidr: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) present: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) not: Option<RawMatcher>,
}

/// What stands under `not`: the same without an attribute, and without another `not`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawMatcher {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) exact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) one_of: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) regex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) cidr: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) present: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawException {
    pub(in crate::config) when: Vec<RawCondition>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "plainly")]
    pub(in crate::config) amount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) burst: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::config) unlimited: bool,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawRejected {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) status: Option<u16>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(in crate::config) headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) body: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawQuota {
    pub(in crate::config) name: String,
    pub(in crate::config) counts: Option<String>,
    pub(in crate::config) kind: Option<String>,
    pub(in crate::config) per: Option<String>,
    pub(in crate::config) time_zone: Option<String>,
    pub(in crate::config) default: Option<String>,
    pub(in crate::config) when: Vec<RawCondition>,
    pub(in crate::config) mode: Option<String>,
    pub(in crate::config) rejected: Option<RawRejected>,
    pub(in crate::config) reserve_margin: Option<String>,
    pub(in crate::config) on_outage: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawPrice {
    pub(in crate::config) model: String,
    pub(in crate::config) input: Option<String>,
    pub(in crate::config) output: Option<String>,
    pub(in crate::config) cached_input: Option<String>,
    pub(in crate::config) reasoning: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawModel {
    pub(in crate::config) model: String,
    pub(in crate::config) output_tokens: Option<String>,
    pub(in crate::config) bytes_per_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawAdmin {
    pub(in crate::config) tokens: Vec<RawAdminToken>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawAdminToken {
    pub(in crate::config) name: String,
    pub(in crate::config) token: Option<String>,
    pub(in crate::config) token_file: Option<String>,
}

impl std::fmt::Debug for RawAdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawAdminToken").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawLedger {
    pub(in crate::config) enabled: Option<bool>,
    pub(in crate::config) retention: Option<String>,
    pub(in crate::config) sessions_max: Option<String>,
    pub(in crate::config) rows_max: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawHigressRules {
    pub(in crate::config) plugin: String,
    pub(in crate::config) file: String,
    pub(in crate::config) matching: Option<String>,
}
