//! Limits, quotas and the sections that they use as written in the file, before validation. Most values are text, so
//! that validation can report every error with its path. The doc comment of a field is the field's entry in
//! docs/configuration-reference.md.

use std::collections::BTreeMap;

use evenkeel_domain::limit::{Counts, OnStoreFailure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::formats::{Amount, AttributeName, Counted, Decimal, Outage, Period, Span, Text, Whole};

/// The sections about limits. Each limit and quota comes with the path that error messages show for it.
pub(crate) struct RawSections {
    pub(crate) limits: Vec<(String, RawLimit)>,
    pub(crate) quotas: Vec<(String, RawQuota)>,
    pub(crate) prices: Vec<RawPrice>,
    pub(crate) models: Vec<RawModel>,
    pub(crate) limit_headers: Option<Vec<RawLimitHeader>>,
    pub(crate) quota_admins: Vec<String>,
    pub(crate) through_gateway: bool,
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

/// A limit on requests, tokens or cost.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "counts", "amount"]))]
pub(crate) struct RawLimit {
    /// Name in responses, metrics, overrides and store keys; unique among limits and quotas. A renamed limit starts
    /// from zero.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_.-]+$"), extend("x-range" = "1..64 characters of `A-Z a-z 0-9 _ . -`"))]
    pub(crate) name: String,
    /// What the limit counts. `tokens` counts input plus output tokens; `cost` requires `prices`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Counted")]
    pub(crate) counts: Option<Counts>,
    /// Amount allowed per period or, for `concurrency`, number of requests in flight. `0` refuses every request. The
    /// amount of a `cost` limit is in units of the currency, with at most 6 digits after the point: `2.50`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "plainly")]
    #[schemars(with = "Amount")]
    pub(crate) amount: Option<String>,
    /// The period. Required, except for `concurrency`, which has no period. Periods of a fixed duration, such as `1d`,
    /// begin at multiples of the duration since the Unix epoch. `day` begins at midnight, `week` on Monday, and `month`
    /// on the first day.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Period")]
    pub(crate) per: Option<String>,
    /// Time zone in which `day`, `week` and `month` begin, such as `Europe/Berlin`. Allowed only with these periods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "UTC", "x-range" = "a name in the IANA time zone database"))]
    pub(crate) time_zone: Option<String>,
    /// The rate-limit algorithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "fixed_window"))]
    pub(crate) algorithm: Option<RawAlgorithm>,
    /// Capacity of the token bucket, greater than 0. Allowed only with `token_bucket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Amount", extend("exclusiveMinimum" = 0, "x-default" = "the amount"))]
    pub(crate) burst: Option<String>,
    /// Attributes of the key. Each combination of their values has its own counter. A request that lacks one of the
    /// attributes is not counted. Without a key, all requests share one counter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<AttributeName>", length(max = 8))]
    pub(crate) key: Vec<String>,
    /// The limit applies if all of these conditions hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-default" = "always"))]
    pub(crate) when: Vec<RawCondition>,
    /// Different amounts for some requests. The first exception whose `when` holds applies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub(crate) exceptions: Vec<RawException>,
    /// `shadow` counts requests and reports them in metrics, but refuses none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "enforce"))]
    pub(crate) mode: Option<RawMode>,
    /// The response to a refused request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "429 with an error in OpenAI's format"))]
    pub(crate) rejected: Option<RawRejected>,
    /// The sidecar reserves the estimated usage of a request times this factor. Not allowed if `counts` is `requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Decimal", range(min = 1, max = 100), extend("default" = 2))]
    pub(crate) reserve_margin: Option<String>,
    /// Policy while Redis is unavailable. `local`: each sidecar enforces an equal share of the amount on its own.
    /// `open`: the limit refuses no request. `closed`: the limit refuses every request to which it applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Outage", extend("default" = "local"))]
    pub(crate) on_store_failure: Option<OnStoreFailure>,
}

/// A condition: an attribute and one test of its value. An empty value counts as absent.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["attribute"], "minProperties" = 2, "maxProperties" = 2))]
pub(crate) struct RawCondition {
    /// The attribute of the request that the condition tests.
    #[schemars(with = "AttributeName")]
    pub(crate) attribute: String,
    /// The value equals this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) exact: Option<String>,
    /// The value equals one of these texts.
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
    /// `true`: the attribute is present. `false`: the attribute is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) present: Option<bool>,
    /// The attribute is absent, or its value does not match this test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not: Option<RawMatcher>,
}

/// The test under `not`, as in a condition, but without an attribute and without another `not`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub(crate) struct RawMatcher {
    /// The value equals this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Text")]
    pub(crate) exact: Option<String>,
    /// The value equals one of these texts.
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
    /// `true`: the attribute is present. `false`: the attribute is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) present: Option<bool>,
}

/// A different amount for some requests: `when`, and either `amount` or `unlimited: true`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["when"]))]
pub(crate) struct RawException {
    /// The exception applies if all of these conditions hold.
    #[schemars(length(min = 1, max = 32))]
    pub(crate) when: Vec<RawCondition>,
    /// Amount for these requests.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "plainly")]
    #[schemars(with = "Amount", extend("x-default" = "required, unless `unlimited`"))]
    pub(crate) amount: Option<String>,
    /// Capacity of the token bucket for these requests. Allowed only with `token_bucket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Amount", extend("exclusiveMinimum" = 0, "x-default" = "the amount"))]
    pub(crate) burst: Option<String>,
    /// Whether these requests are exempt from the limit and not counted.
    #[schemars(extend("default" = false))]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unlimited: bool,
}

/// The response to a refused request.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawRejected {
    /// HTTP status of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599), extend("default" = 429))]
    pub(crate) status: Option<u16>,
    /// Headers of the response. A value has at most 1024 bytes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Text>", extend("maxProperties" = 16))]
    pub(crate) headers: BTreeMap<String, String>,
    /// Body of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), extend("x-range" = "at most 4096 bytes", "x-default" = "an error in OpenAI's format"))]
    pub(crate) body: Option<String>,
}

/// A quota: a balance or budget for each consumer.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "counts", "kind"]))]
pub(crate) struct RawQuota {
    /// Name in responses, metrics and records; unique among limits and quotas.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_.-]+$"), extend("x-range" = "1..64 characters of `A-Z a-z 0-9 _ . -`"))]
    pub(crate) name: String,
    /// What the quota counts. `tokens` counts input plus output tokens; `cost` requires `prices`.
    #[schemars(with = "Counted")]
    pub(crate) counts: Option<Counts>,
    /// `prepaid`: each consumer has a balance, which administrators top up and requests use up. `budget`: each consumer
    /// has an amount per period.
    pub(crate) kind: Option<RawQuotaKind>,
    /// The period. Required for `budget`, not allowed for `prepaid`.
    #[schemars(with = "Period")]
    pub(crate) per: Option<String>,
    /// Time zone in which `day`, `week` and `month` begin, such as `Europe/Berlin`. Allowed only with these periods.
    #[schemars(extend("default" = "UTC", "x-range" = "a name in the IANA time zone database"))]
    pub(crate) time_zone: Option<String>,
    /// Balance, or amount per period, of consumers without a quota record. Without a default, requests from these
    /// consumers are refused.
    #[schemars(with = "Amount", extend("x-default" = "none"))]
    pub(crate) default: Option<String>,
    /// The quota applies if all of these conditions hold.
    #[schemars(length(max = 32), extend("x-default" = "always"))]
    pub(crate) when: Vec<RawCondition>,
    /// `shadow` counts requests and reports them in metrics, but refuses none.
    #[schemars(extend("default" = "enforce"))]
    pub(crate) mode: Option<RawMode>,
    /// The response to a refused request.
    #[schemars(extend("x-default" = "429 with an error in OpenAI's format"))]
    pub(crate) rejected: Option<RawRejected>,
    /// The sidecar reserves the estimated usage of a request times this factor. Not allowed if `counts` is `requests`.
    #[schemars(with = "Decimal", range(min = 1, max = 100), extend("default" = 2))]
    pub(crate) reserve_margin: Option<String>,
    /// Policy while Redis is unavailable. `local`: each sidecar admits requests up to an equal share of what the consumer
    /// had left when the sidecar last saw it, or of `default`. It refuses consumers of whom it knows neither. `open`: the
    /// quota refuses no request. `closed`: the quota refuses every request to which it applies. Whatever is admitted is
    /// charged once Redis is back.
    #[schemars(with = "Outage", extend("default" = "local"))]
    pub(crate) on_store_failure: Option<OnStoreFailure>,
}

/// Prices of a model per million tokens. All prices are in the same currency.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["model", "input", "output"]))]
pub(crate) struct RawPrice {
    /// A model's name, or a prefix followed by `*`. The entry for `"*"` is the default price, of all models without an
    /// entry of their own. Without it, requests to these models cost nothing, and requests whose model is unknown cost
    /// as much as with the dearest entry.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^*]*\*?$"))]
    pub(crate) model: String,
    /// Price per million input tokens.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000))]
    pub(crate) input: Option<String>,
    /// Price per million output tokens.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000))]
    pub(crate) output: Option<String>,
    /// Price per million input tokens that were read from a prompt cache.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000), extend("x-default" = "the price of `input`"))]
    pub(crate) cached_input: Option<String>,
    /// Price per million output tokens that were spent on reasoning.
    #[schemars(with = "Decimal", range(min = 0, max = 1000000), extend("x-default" = "the price of `output`"))]
    pub(crate) reasoning: Option<String>,
}

/// Initial estimates of the tokens that requests to a model use. At least one of `output_tokens` and `bytes_per_token`
/// is required.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["model"], "minProperties" = 2))]
pub(crate) struct RawModel {
    /// A model's name, or a prefix followed by `*`.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^*]*\*?$"))]
    pub(crate) model: String,
    /// Estimated output tokens per request.
    #[schemars(with = "Decimal", range(min = 1, max = 1000000), extend("x-default" = "the request's `max_tokens` or 512, until learned"))]
    pub(crate) output_tokens: Option<String>,
    /// Estimated bytes of the prompt per input token.
    #[schemars(with = "Decimal", range(min = 0.1, max = 100), extend("x-default" = "4, until learned"))]
    pub(crate) bytes_per_token: Option<String>,
}

/// The usage ledger, which records tokens and cost by day, consumer, model and route.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawLedger {
    /// Whether the sidecar records usage.
    #[schemars(extend("default" = true))]
    pub(crate) enabled: Option<bool>,
    /// How long usage is stored.
    #[schemars(with = "Span", extend("default" = "35d", "x-range" = "1h..400d"))]
    pub(crate) retention: Option<String>,
    /// Maximum number of sessions in the list of a day, and of sessions stored with their requests.
    #[schemars(with = "Whole", range(min = 100, max = 1000000), extend("default" = 10000))]
    pub(crate) sessions_max: Option<String>,
    /// Maximum number of usage rows per day. Further usage is added to rows named `(other)`.
    #[schemars(with = "Whole", range(min = 100, max = 1000000), extend("default" = 100000))]
    pub(crate) rows_max: Option<String>,
}
