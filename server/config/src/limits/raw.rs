//! Limits, quotas and their tables as written, before validation. Most values are text, so that validation reports every
//! fault with its path. The doc comment of a field is its entry in docs/configuration-reference.md.

use std::collections::BTreeMap;

use evenkeel_domain::limit::{Counts, OnOutage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::formats::{Amount, AttributeName, Counted, Decimal, Outage, Period, Span, Text, Whole};

/// The sections about limits. Each limit and quota has the path that names it in faults.
pub(crate) struct RawSections {
    pub(crate) limits: Vec<(String, RawLimit)>,
    pub(crate) quotas: Vec<(String, RawQuota)>,
    pub(crate) prices: Vec<RawPrice>,
    pub(crate) models: Vec<RawModel>,
    pub(crate) limit_headers: Option<Vec<RawLimitHeader>>,
    pub(crate) quota_admins: Vec<String>,
    pub(crate) admin: RawAdmin,
    pub(crate) ledger: RawLedger,
}

/// Serializes an amount without quotes if it is a number.
fn plainly<S: Serializer>(amount: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    match amount.as_deref().map(str::parse::<u64>) {
        Some(Ok(number)) => serializer.serialize_u64(number),
        _ => amount.serialize(serializer),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(crate) enum RawAlgorithm {
    FixedWindow,
    SlidingWindow,
    TokenBucket,
    Concurrency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(crate) enum RawMode {
    Enforce,
    Shadow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(crate) enum RawQuotaKind {
    Prepaid,
    Budget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(crate) enum RawLimitHeader {
    Ietf,
    X,
}

/// A limit.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "counts", "amount"]))]
pub(crate) struct RawLimit {
    /// The name in responses, metrics, overrides and store keys; unique among limits and quotas. A limit with a new name
    /// starts from zero.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_.-]+$"), extend("x-range" = "1..64 of `A-Z a-z 0-9 _ . -`"))]
    pub(crate) name: String,
    /// What the limit counts; `tokens` is input plus output tokens, `cost` needs `prices`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Counted")]
    pub(crate) counts: Option<Counts>,
    /// How much is allowed per period. `0` refuses every request. A `cost` is in units of the currency, with at most 6
    /// digits after the point: `2.50`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "plainly")]
    #[schemars(with = "Amount")]
    pub(crate) amount: Option<String>,
    /// The period; required, except for `concurrency`, which has none. Periods of a length such as `1d` begin at multiples
    /// of it since the Unix epoch; `day`, `week` and `month` begin at midnight, on Monday and on the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Period")]
    pub(crate) per: Option<String>,
    /// The time zone in which `day`, `week` and `month` begin, such as `Europe/Berlin`; only with these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "UTC", "x-range" = "a name of the IANA database"))]
    pub(crate) time_zone: Option<String>,
    /// The rate-limit algorithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "fixed_window"))]
    pub(crate) algorithm: Option<RawAlgorithm>,
    /// Capacity of the token bucket, more than 0; only with `token_bucket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Amount", extend("exclusiveMinimum" = 0, "x-default" = "the amount"))]
    pub(crate) burst: Option<String>,
    /// Attributes. Each combination of their values has its own counter. A request that lacks one of them is not counted.
    /// Without a key, all requests share one counter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<AttributeName>", length(max = 8))]
    pub(crate) key: Vec<String>,
    /// Applies if all of these conditions hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-default" = "always"))]
    pub(crate) when: Vec<RawCondition>,
    /// Other amounts for some requests: the first exception whose `when` holds applies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub(crate) exceptions: Vec<RawException>,
    /// `shadow` counts and reports in metrics, but refuses nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "enforce"))]
    pub(crate) mode: Option<RawMode>,
    /// The response to a refused request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "429 with an error in OpenAI's format"))]
    pub(crate) rejected: Option<RawRejected>,
    /// Factor by which the reservation exceeds the estimate; not for `requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Decimal", range(min = 1, max = 100), extend("default" = 2))]
    pub(crate) reserve_margin: Option<String>,
    /// While Redis is unavailable: each sidecar enforces its share alone (`local`), nothing is refused (`open`), or every
    /// request that it applies to is refused (`closed`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Outage", extend("default" = "local"))]
    pub(crate) on_outage: Option<OnOutage>,
}

/// A condition: an attribute and a test of its value. An empty value counts as absent.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["attribute"], "minProperties" = 2, "maxProperties" = 2))]
pub(crate) struct RawCondition {
    /// The attribute.
    #[schemars(with = "AttributeName")]
    pub(crate) attribute: String,
    /// The value is this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) exact: Option<String>,
    /// The value is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<Text>", length(min = 1, max = 1024))]
    pub(crate) one_of: Option<Vec<String>>,
    /// The value begins with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) prefix: Option<String>,
    /// The whole value matches this regular expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) regex: Option<String>,
    /// The value is an address in one of these networks, such as `10.0.0.0/8` or `fd00::/8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub(crate) cidr: Option<Vec<String>>,
    /// `true`: the attribute is present. `false`: it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) present: Option<bool>,
    /// The attribute is absent, or its value does not match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not: Option<RawMatcher>,
}

/// The test under `not`: as in a condition, without an attribute and without another `not`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub(crate) struct RawMatcher {
    /// The value is this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) exact: Option<String>,
    /// The value is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<Text>", length(min = 1, max = 1024))]
    pub(crate) one_of: Option<Vec<String>>,
    /// The value begins with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) prefix: Option<String>,
    /// The whole value matches this regular expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) regex: Option<String>,
    /// The value is an address in one of these networks, such as `10.0.0.0/8` or `fd00::/8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub(crate) cidr: Option<Vec<String>>,
    /// `true`: the attribute is present. `false`: it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) present: Option<bool>,
}

/// Another amount for some requests: `when`, and either `amount` or `unlimited: true`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["when"]))]
pub(crate) struct RawException {
    /// Applies if all of these conditions hold.
    #[schemars(length(min = 1, max = 32))]
    pub(crate) when: Vec<RawCondition>,
    /// The amount for these requests.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "plainly")]
    #[schemars(with = "Amount", extend("x-default" = "required, unless `unlimited`"))]
    pub(crate) amount: Option<String>,
    /// Capacity of the token bucket for these requests; only with `token_bucket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Amount", extend("exclusiveMinimum" = 0, "x-default" = "the amount"))]
    pub(crate) burst: Option<String>,
    /// Do not count these requests.
    #[schemars(extend("default" = false))]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unlimited: bool,
}

/// The response to a refused request.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawRejected {
    /// The HTTP status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599), extend("default" = 429))]
    pub(crate) status: Option<u16>,
    /// Headers of the response; values of at most 1024 bytes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Text>", extend("maxProperties" = 16))]
    pub(crate) headers: BTreeMap<String, String>,
    /// The response's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), extend("x-range" = "at most 4096 bytes", "x-default" = "an error in OpenAI's format"))]
    pub(crate) body: Option<String>,
}

/// A quota.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "counts", "kind"]))]
pub(crate) struct RawQuota {
    /// The name in responses, metrics and records; unique among limits and quotas.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_.-]+$"), extend("x-range" = "1..64 of `A-Z a-z 0-9 _ . -`"))]
    pub(crate) name: String,
    /// What the quota counts; `tokens` is input plus output tokens, `cost` needs `prices`.
    #[schemars(with = "Counted")]
    pub(crate) counts: Option<Counts>,
    /// `prepaid`: a balance that administrators fill and requests use up. `budget`: an amount per period.
    pub(crate) kind: Option<RawQuotaKind>,
    /// The period; required for `budget`, absent for `prepaid`.
    #[schemars(with = "Period")]
    pub(crate) per: Option<String>,
    /// The time zone in which `day`, `week` and `month` begin, such as `Europe/Berlin`; only with these.
    #[schemars(extend("default" = "UTC", "x-range" = "a name of the IANA database"))]
    pub(crate) time_zone: Option<String>,
    /// Balance or amount of consumers without a record. Without a default, their requests are refused.
    #[schemars(with = "Amount", extend("x-default" = "none"))]
    pub(crate) default: Option<String>,
    /// Applies if all of these conditions hold.
    #[schemars(length(max = 32), extend("x-default" = "always"))]
    pub(crate) when: Vec<RawCondition>,
    /// `shadow` counts and reports in metrics, but refuses nothing.
    #[schemars(extend("default" = "enforce"))]
    pub(crate) mode: Option<RawMode>,
    /// The response to a refused request.
    #[schemars(extend("x-default" = "429 with an error in OpenAI's format"))]
    pub(crate) rejected: Option<RawRejected>,
    /// Factor by which the reservation exceeds the estimate; not for `requests`.
    #[schemars(with = "Decimal", range(min = 1, max = 100), extend("default" = 2))]
    pub(crate) reserve_margin: Option<String>,
    /// While Redis is unavailable: each sidecar enforces its share alone (`local`), nothing is refused (`open`), or every
    /// request that it applies to is refused (`closed`).
    #[schemars(with = "Outage", extend("default" = "local"))]
    pub(crate) on_outage: Option<OnOutage>,
}

/// Prices of a model for a million tokens, all in the same currency.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["model", "input", "output"]))]
pub(crate) struct RawPrice {
    /// A model's name, or a prefix followed by `*`. Requests to a model without a price cost nothing; `"*"` at the end of
    /// the list catches the rest.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^*]*\*?$"))]
    pub(crate) model: String,
    /// Price of a million input tokens.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000))]
    pub(crate) input: Option<String>,
    /// Price of a million output tokens.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000))]
    pub(crate) output: Option<String>,
    /// Price of a million input tokens read from a prompt cache.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000), extend("x-default" = "the price of `input`"))]
    pub(crate) cached_input: Option<String>,
    /// Price of a million output tokens spent on reasoning.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000), extend("x-default" = "the price of `output`"))]
    pub(crate) reasoning: Option<String>,
}

/// Estimates for a model, at least one of the two.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["model"], "minProperties" = 2))]
pub(crate) struct RawModel {
    /// A model's name, or a prefix followed by `*`.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^*]*\*?$"))]
    pub(crate) model: String,
    /// Estimated output tokens of a request.
    #[schemars(with = "Decimal", range(min = 1, max = 1000000), extend("x-default" = "512, until learned"))]
    pub(crate) output_tokens: Option<String>,
    /// Estimated bytes of a prompt per input token.
    #[schemars(with = "Decimal", range(min = 0.1, max = 100), extend("x-default" = "4, until learned"))]
    pub(crate) bytes_per_token: Option<String>,
}

/// Administrators, who may change quotas and overrides and drain endpoints through the sidecar's API. Without tokens,
/// nobody may.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawAdmin {
    /// The administrators' tokens, each with a `name` and either `token` or `token_file`.
    #[schemars(length(max = 64))]
    pub(crate) tokens: Vec<RawAdminToken>,
}

/// An administrator.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"], "minProperties" = 2, "maxProperties" = 2))]
pub(crate) struct RawAdminToken {
    /// The administrator's name in the change log; each once.
    #[schemars(length(min = 1, max = 256))]
    pub(crate) name: String,
    /// The bearer token; `openssl rand -hex 32` makes one.
    #[schemars(length(min = 16, max = 1024), regex(pattern = "^[!-~]*$"), extend("x-range" = "16..1024 printable ASCII characters without blanks", "x-default" = "none"))]
    pub(crate) token: Option<String>,
    /// A file that holds the token, such as a mounted secret. A relative path starts at the configuration's directory.
    #[schemars(extend("x-default" = "none"))]
    pub(crate) token_file: Option<String>,
}

impl std::fmt::Debug for RawAdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawAdminToken").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Which usage is recorded.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawLedger {
    /// Whether usage is recorded.
    #[schemars(extend("default" = true))]
    pub(crate) enabled: Option<bool>,
    /// How long usage is kept.
    #[schemars(with = "Span", extend("default" = "35d", "x-range" = "1h..400d"))]
    pub(crate) retention: Option<String>,
    /// Most sessions in a day's list, and most sessions kept with their turns.
    #[schemars(with = "Whole", range(min = 100, max = 1000000), extend("default" = 10000))]
    pub(crate) sessions_max: Option<String>,
    /// Most rows of a day; further usage is added to one common row.
    #[schemars(with = "Whole", range(min = 100, max = 1000000), extend("default" = 100000))]
    pub(crate) rows_max: Option<String>,
}
