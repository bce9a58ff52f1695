//! Limits as written in the file: shapes only, and nearly all of them text, so that every fault can be told at once
//! and with its path. What stands above a field is its text in docs/configuration-reference.md.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::schema::{Amount, AttributeName, Decimal, Outage, Period, Span, Text, Whole};

/// What limits and quotas may count.
const COUNTS: [&str; 5] = ["requests", "tokens", "input_tokens", "output_tokens", "cost"];

/// An amount without quotes where it is a number.
fn plainly<S: Serializer>(amount: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    match amount.as_deref().map(str::parse::<u64>) {
        Some(Ok(number)) => serializer.serialize_u64(number),
        _ => amount.serialize(serializer),
    }
}

/// A limit.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "counts", "amount"]))]
pub(crate) struct RawLimit {
    /// In answers, metrics, overrides and keys of the store: a limit with a new name starts from nothing. Unique among
    /// limits and quotas.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_.-]+$"), extend("x-range" = "1..64 of `A-Z a-z 0-9 _ . -`"))]
    pub(crate) name: String,
    /// What of a request is counted; `tokens` is input and output together, `cost` needs `prices`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = COUNTS))]
    pub(crate) counts: Option<String>,
    /// How much. `0` refuses all. Of `cost` in units of currency with at most 6 digits after the point: `2.50`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "plainly")]
    #[schemars(with = "Amount")]
    pub(crate) amount: Option<String>,
    /// How often the amount is given; required, but absent for `concurrency`. A length such as `1d` begins at whole
    /// multiples since the Unix epoch; `day`, `week` and `month` at midnight, on Monday, on the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Period")]
    pub(crate) per: Option<String>,
    /// Where midnight is, such as `Europe/Berlin`; only with `day`, `week` or `month`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "UTC", "x-range" = "a name of the IANA database"))]
    pub(crate) time_zone: Option<String>,
    /// How it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["fixed_window", "sliding_window", "token_bucket", "concurrency"], "default" = "fixed_window"))]
    pub(crate) algorithm: Option<String>,
    /// Most at once, more than 0; only with `token_bucket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Amount", extend("exclusiveMinimum" = 0, "x-default" = "as `amount`"))]
    pub(crate) burst: Option<String>,
    /// Each combination of the values of these attributes is counted apart. A request that lacks one is not counted.
    /// Without a key there is one counter for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<AttributeName>", length(max = 8))]
    pub(crate) key: Vec<String>,
    /// Applies where all of these hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-default" = "always"))]
    pub(crate) when: Vec<RawCondition>,
    /// Other amounts for some: the first whose `when` holds applies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub(crate) exceptions: Vec<RawException>,
    /// `shadow` counts and tells in metrics and never refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["enforce", "shadow"], "default" = "enforce"))]
    pub(crate) mode: Option<String>,
    /// The answer when refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "429 and an error as OpenAI's"))]
    pub(crate) rejected: Option<RawRejected>,
    /// How much more than expected is reserved; not for `requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Decimal", range(min = 1, max = 100), extend("default" = 2))]
    pub(crate) reserve_margin: Option<String>,
    /// While the store is away: each sidecar counts its share by itself, nothing is refused, or everything it applies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Outage", extend("default" = "local"))]
    pub(crate) on_outage: Option<String>,
}

/// A condition: an attribute, and what holds of its value. An empty value counts as absent.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["attribute"], "minProperties" = 2, "maxProperties" = 2))]
pub(crate) struct RawCondition {
    /// What is looked at.
    #[schemars(with = "AttributeName")]
    pub(crate) attribute: String,
    /// The value is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) exact: Option<String>,
    /// The value is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<Text>", length(min = 1, max = 1024))]
    pub(crate) one_of: Option<Vec<String>>,
    /// The value begins so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) prefix: Option<String>,
    /// The value matches as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) regex: Option<String>,
    /// The value is an address in one of these networks, such as `10.0.0.0/8` or `fd00::/8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub(crate) cidr: Option<Vec<String>>,
    /// The value is there, or with `false` absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) present: Option<bool>,
    /// The value is anything else, or absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not: Option<RawMatcher>,
}

/// What stands under `not`: the same without an attribute, and without another `not`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub(crate) struct RawMatcher {
    /// The value is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) exact: Option<String>,
    /// The value is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<Text>", length(min = 1, max = 1024))]
    pub(crate) one_of: Option<Vec<String>>,
    /// The value begins so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) prefix: Option<String>,
    /// The value matches as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) regex: Option<String>,
    /// The value is an address in one of these networks, such as `10.0.0.0/8` or `fd00::/8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub(crate) cidr: Option<Vec<String>>,
    /// The value is there, or with `false` absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) present: Option<bool>,
}

/// Another amount for some requests: `when`, and either `amount` or `unlimited: true`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["when"]))]
pub(crate) struct RawException {
    /// Applies where all of these hold.
    #[schemars(length(min = 1, max = 32))]
    pub(crate) when: Vec<RawCondition>,
    /// The amount for these.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "plainly")]
    #[schemars(with = "Amount", extend("x-default" = "required, unless `unlimited`"))]
    pub(crate) amount: Option<String>,
    /// Most at once for these; only with `token_bucket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Amount", extend("exclusiveMinimum" = 0, "x-default" = "as `amount`"))]
    pub(crate) burst: Option<String>,
    /// These are not counted.
    #[schemars(extend("default" = false))]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unlimited: bool,
}

/// The answer when refused.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawRejected {
    /// The HTTP status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599), extend("default" = 429))]
    pub(crate) status: Option<u16>,
    /// Headers of the answer, of at most 1024 bytes each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Text>", extend("maxProperties" = 16))]
    pub(crate) headers: BTreeMap<String, String>,
    /// Its body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), extend("x-range" = "at most 4096 bytes", "x-default" = "an error as OpenAI's"))]
    pub(crate) body: Option<String>,
}

/// A quota.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "counts", "kind"]))]
pub(crate) struct RawQuota {
    /// In answers, metrics and records. Unique among limits and quotas.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_.-]+$"), extend("x-range" = "1..64 of `A-Z a-z 0-9 _ . -`"))]
    pub(crate) name: String,
    /// What of a request is counted; `tokens` is input and output together, `cost` needs `prices`.
    #[schemars(extend("enum" = COUNTS))]
    pub(crate) counts: Option<String>,
    /// A balance that administrators fill and requests use up, or an amount per period.
    #[schemars(extend("enum" = ["prepaid", "budget"]))]
    pub(crate) kind: Option<String>,
    /// The period; required for `budget`, absent for `prepaid`.
    #[schemars(with = "Period")]
    pub(crate) per: Option<String>,
    /// Where midnight is, such as `Europe/Berlin`; only with `day`, `week` or `month`.
    #[schemars(extend("default" = "UTC", "x-range" = "a name of the IANA database"))]
    pub(crate) time_zone: Option<String>,
    /// Balance or amount of consumers without a record. Without a default they are refused.
    #[schemars(with = "Amount", extend("x-default" = "none"))]
    pub(crate) default: Option<String>,
    /// Applies where all of these hold.
    #[schemars(length(max = 32), extend("x-default" = "always"))]
    pub(crate) when: Vec<RawCondition>,
    /// `shadow` counts and tells in metrics and never refuses.
    #[schemars(extend("enum" = ["enforce", "shadow"], "default" = "enforce"))]
    pub(crate) mode: Option<String>,
    /// The answer when refused.
    #[schemars(extend("x-default" = "429 and an error as OpenAI's"))]
    pub(crate) rejected: Option<RawRejected>,
    /// How much more than expected is reserved; not for `requests`.
    #[schemars(with = "Decimal", range(min = 1, max = 100), extend("default" = 2))]
    pub(crate) reserve_margin: Option<String>,
    /// While the store is away: each sidecar counts its share by itself, nothing is refused, or everything it applies to.
    #[schemars(with = "Outage", extend("default" = "local"))]
    pub(crate) on_outage: Option<String>,
}

/// Prices of a model, for a million tokens, in any one currency.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["model", "input", "output"]))]
pub(crate) struct RawPrice {
    /// Which models: a name, or the beginning of some and `*`. Requests to a model without a price cost nothing: `"*"` at
    /// the end of the list catches the rest.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^*]*\*?$"))]
    pub(crate) model: String,
    /// Of a million input tokens.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000))]
    pub(crate) input: Option<String>,
    /// Of a million output tokens.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000))]
    pub(crate) output: Option<String>,
    /// Of a million input tokens read from a prompt cache.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000), extend("x-default" = "as `input`"))]
    pub(crate) cached_input: Option<String>,
    /// Of a million output tokens spent on reasoning.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000), extend("x-default" = "as `output`"))]
    pub(crate) reasoning: Option<String>,
}

/// What to expect of a model: one of the two at least.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["model"], "minProperties" = 2))]
pub(crate) struct RawModel {
    /// Which models: a name, or the beginning of some and `*`.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^*]*\*?$"))]
    pub(crate) model: String,
    /// Output tokens of a request.
    #[schemars(with = "Decimal", range(min = 1, max = 1000000), extend("x-default" = "512, until learnt"))]
    pub(crate) output_tokens: Option<String>,
    /// Bytes of prompt for one input token.
    #[schemars(with = "Decimal", range(min = 0.1, max = 100), extend("x-default" = "4, until learnt"))]
    pub(crate) bytes_per_token: Option<String>,
}

/// Who may change quotas and overrides, and drain endpoints, through the sidecar's API. Without tokens, nobody may.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawAdmin {
    /// Each with a `name` and either `token` or `token_file`.
    #[schemars(length(max = 64))]
    pub(crate) tokens: Vec<RawAdminToken>,
}

/// An administrator.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"], "minProperties" = 2, "maxProperties" = 2))]
pub(crate) struct RawAdminToken {
    /// Who it is, in records of changes; each once.
    #[schemars(length(min = 1, max = 256))]
    pub(crate) name: String,
    /// What they show; `openssl rand -hex 32` makes one.
    #[schemars(length(min = 16, max = 1024), regex(pattern = "^[!-~]*$"), extend("x-range" = "16..1024 printable ASCII characters without blanks", "x-default" = "none"))]
    pub(crate) token: Option<String>,
    /// A file that holds the token, such as a mounted secret. A relative path is from the configuration's directory on.
    #[schemars(extend("x-default" = "none"))]
    pub(crate) token_file: Option<String>,
}

impl std::fmt::Debug for RawAdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawAdminToken").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is recorded of requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawLedger {
    /// Whether anything is.
    #[schemars(extend("default" = true))]
    pub(crate) enabled: Option<bool>,
    /// How long it is kept.
    #[schemars(with = "Span", extend("default" = "35d", "x-range" = "1h..400d"))]
    pub(crate) retention: Option<String>,
    /// Most sessions in the list of a day, and kept with their turns.
    #[schemars(with = "Whole", range(min = 100, max = 1000000), extend("default" = 10000))]
    pub(crate) sessions_max: Option<String>,
    /// Most rows of a day; what comes beyond is counted together.
    #[schemars(with = "Whole", range(min = 100, max = 1000000), extend("default" = 100000))]
    pub(crate) rows_max: Option<String>,
}

/// The configuration of a plugin of Higress.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["plugin", "file"]))]
pub(crate) struct RawHigressRules {
    /// Whose configuration it is.
    #[schemars(extend("enum" = ["ai-token-ratelimit", "cluster-key-rate-limit"]))]
    pub(crate) plugin: String,
    /// The configuration, bare or as a WasmPlugin resource. A relative path is from the configuration's directory on.
    pub(crate) file: String,
    /// Which of several `rule_items` that match a request count it: the first, as in Higress until June 2026, or all, as
    /// since.
    #[schemars(extend("enum" = ["first", "all"], "x-default" = "`first`; `all` where the file has both `global_threshold` and `rule_items`"))]
    pub(crate) matching: Option<String>,
}
