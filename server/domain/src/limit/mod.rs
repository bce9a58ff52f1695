//! Limits and quotas as configured: what they count, how much they allow, for whom and when. See [`rule`] for the
//! counters, [`attributes`] for the attributes of a request, and [`condition`] for when a limit applies.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub mod attributes;
pub mod condition;
pub mod period;
pub mod price;
pub mod request_body;
pub mod rule;

pub use attributes::{Attribute, Attributes, Key};
pub use condition::{Condition, Matcher};
pub use period::{CalendarUnit, Period};
pub use price::Prices;
pub use request_body::{Generation, RequestBody, UNKNOWN_MODEL};
pub use rule::{AMOUNT_MAX, Bucket, CounterRule, Meter, Window};

pub use crate::policy::OnStoreFailure;

/// Maximum length of the name of a limit or quota, in bytes.
pub const LIMIT_NAME_BYTES_MAX: usize = 64;
/// Maximum number of limits and quotas that count one request.
pub const METERS_MAX: usize = 16;

/// What a limit or quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    Requests,
    /// Input and output tokens together.
    Tokens,
    /// Input tokens, including cached tokens.
    InputTokens,
    /// Output tokens, including reasoning tokens.
    OutputTokens,
    /// Cost, in millionths of the price table's currency unit.
    Cost,
}

impl Counts {
    /// Returns the amount that one request counts. Calls `cost` only for [`Self::Cost`].
    #[must_use]
    pub fn amount(self, tokens: &price::Tokens, cost: impl FnOnce() -> u64) -> u64 {
        match self {
            Self::Requests => 1,
            Self::Tokens => tokens.total(),
            Self::InputTokens => tokens.input,
            Self::OutputTokens => tokens.output,
            Self::Cost => cost(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The whole amount becomes available at the start of each period.
    FixedWindow,
    /// At most the amount in any window of the period's length. Usage is counted in slots of 1/16 of the period, so a
    /// used amount becomes free up to one slot late, never early.
    SlidingWindow,
    /// A steady rate of the amount per period, and at most `burst` at once.
    TokenBucket { burst: u64 },
    /// A maximum number of requests in flight.
    Concurrency,
}

/// The response to a request over a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub status: u16,
    /// Headers in addition to the headers that report the limit.
    pub headers: BTreeMap<String, String>,
    /// `None`: an error in OpenAI's format.
    pub body: Option<String>,
}

/// A different amount under some conditions. The first exception that matches applies.
#[derive(Clone, Debug)]
pub struct Exception {
    /// All conditions must hold.
    pub when: Vec<Condition>,
    /// `None`: unlimited.
    pub amount: Option<u64>,
    /// Capacity of the token bucket. `None`: in proportion to the amount.
    pub burst: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Limit {
    /// Unique name, which appears in responses, metrics and keys. 1 to 64 bytes of `[A-Za-z0-9_.-]`.
    pub name: Arc<str>,
    pub counts: Counts,
    /// Amount per period, or maximum number of requests in flight. At most 10^15. 0 refuses every request.
    pub amount: u64,
    /// Has no meaning for concurrency.
    pub period: Period,
    pub algorithm: Algorithm,
    /// Each combination of values of these attributes has its own counter. Without attributes, all requests share one
    /// counter. A request that lacks an attribute is not limited.
    pub key: Key,
    /// The limit applies if all conditions hold.
    pub when: Vec<Condition>,
    pub exceptions: Vec<Exception>,
    /// Whether the rule is in shadow mode: it counts requests, but refuses none.
    pub shadow: bool,
    pub rejected: Rejected,
    /// Factor between the estimate and the reserved amount, at least 1.
    pub margin: f64,
    pub on_store_failure: OnStoreFailure,
}

impl Limit {
    /// Returns the burst for a different amount, in proportion to the configured burst and amount.
    #[must_use]
    pub fn burst_for(&self, amount: u64) -> u64 {
        match self.algorithm {
            Algorithm::TokenBucket { burst } if amount == self.amount => burst,
            Algorithm::TokenBucket { burst } => {
                let scaled = u128::from(burst) * u128::from(amount) / u128::from(self.amount.max(1));
                u64::try_from(scaled).unwrap_or(u64::MAX).clamp(u64::from(amount > 0), AMOUNT_MAX)
            }
            _ => 0,
        }
    }
}

/// The kind of a quota.
#[derive(Clone, Debug, PartialEq)]
pub enum QuotaKind {
    /// Administrators top up a balance, and requests use it up.
    Prepaid,
    /// Each consumer has an amount per period.
    Budget(Period),
}

/// A quota: a balance or budget for each consumer.
#[derive(Clone, Debug)]
pub struct QuotaRule {
    /// Unique name among limits and quotas.
    pub name: Arc<str>,
    pub counts: Counts,
    pub kind: QuotaKind,
    /// Balance, or amount per period, of consumers without a quota record. `None`: requests from these consumers are
    /// refused.
    pub default: Option<u64>,
    /// The quota applies if all conditions hold and the request has a consumer.
    pub when: Vec<Condition>,
    /// Whether the rule is in shadow mode: it counts requests, but refuses none.
    pub shadow: bool,
    pub rejected: Rejected,
    /// Factor between the estimate and the reserved amount, at least 1.
    pub margin: f64,
    pub on_store_failure: OnStoreFailure,
}

/// The headers that report limits to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitHeaders {
    /// `RateLimit` and `RateLimit-Policy` of the IETF draft.
    pub ietf: bool,
    /// `X-RateLimit-Limit`, `-Remaining`, `-Reset`.
    pub x: bool,
}

/// The estimates for a model before requests have reported their usage.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSeed {
    pub model: Matcher,
    /// Output tokens per request.
    pub output_tokens: Option<f64>,
    /// Bytes of prompt per input token.
    pub bytes_per_token: Option<f64>,
}

/// All settings of limits that a reload can change.
#[derive(Clone, Debug)]
pub struct LimitRules {
    /// In the order of the configuration.
    pub limits: Vec<Arc<Limit>>,
    /// In the order of the configuration.
    pub quotas: Vec<Arc<QuotaRule>>,
    pub prices: Prices,
    pub models: Vec<ModelSeed>,
    pub headers: LimitHeaders,
    /// Consumers that may administer quotas through the gateway.
    pub quota_admins: Vec<String>,
    /// Whether these consumers may also change quotas there.
    pub quota_changes_through_gateway: bool,
}

impl LimitRules {
    /// Returns whether a price or an entry of `models` names this model, and not only a pattern that it matches.
    #[must_use]
    pub fn names_model(&self, model: &str) -> bool {
        let matchers = self.prices.0.iter().map(|price| &price.model);
        matchers
            .chain(self.models.iter().map(|seed| &seed.model))
            .any(|matcher| matches!(matcher, Matcher::OneOf(names) if names.iter().any(|name| name == model)))
    }

    /// Returns a fingerprint: the FNV-1a hash of all settings. Sidecars with different fingerprints enforce different
    /// limits.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        format!("{self:?}").bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
    }
}

impl Default for LimitRules {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            quotas: Vec::new(),
            prices: Prices::default(),
            models: Vec::new(),
            headers: LimitHeaders { ietf: true, x: false },
            quota_admins: Vec::new(),
            quota_changes_through_gateway: false,
        }
    }
}

impl Rejected {
    /// Returns a response with the default body.
    #[must_use]
    pub fn with_status(status: u16) -> Self {
        Self { status, headers: BTreeMap::new(), body: None }
    }
}

pub const PERIOD_MIN: Duration = Duration::from_secs(1);
/// Maximum period: a year, as in envoyproxy/ratelimit.
pub const PERIOD_MAX: Duration = Duration::from_secs(366 * 86_400);
