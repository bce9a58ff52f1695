//! Limits and quotas as configured: what they count, how much they allow, for whom and when. See [`rule`] for the
//! counters, [`attributes`] for the attributes of a request, and [`condition`] for when a limit applies.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub mod attributes;
pub mod condition;
pub mod period;
pub mod price;
pub mod rule;

pub use attributes::{Attribute, Attributes, Key};
pub use condition::{Condition, Matcher};
pub use period::{CalendarUnit, Period};
pub use price::Prices;
pub use rule::{AMOUNT_MAX, Bucket, CounterRule, Meter, Window};

/// Longest name of a limit or quota, in bytes.
pub const LIMIT_NAME_BYTES_MAX: usize = 64;
/// Most limits and quotas that count one request.
pub const METERS_MAX: usize = 16;

/// What a limit or quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    Requests,
    /// Input and output tokens together.
    Tokens,
    /// Input tokens, cached ones included.
    InputTokens,
    /// Output tokens, reasoning included.
    OutputTokens,
    /// Cost in millionths of the price table's currency.
    Cost,
}

impl Counts {
    /// Returns what one request counts for. Calls `cost` only if the cost counts.
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

/// How a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The whole amount becomes available at the start of each period.
    FixedWindow,
    /// At most the amount in any window of the period's length. Counted in slots of 1/16 of the period: a used amount
    /// becomes free up to one slot late, never early.
    SlidingWindow,
    /// A steady rate of the amount per period, and at most `burst` at once.
    TokenBucket { burst: u64 },
    /// Requests running at the same time.
    Concurrency,
}

/// The policy while the store is unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnOutage {
    /// Each sidecar counts on its own, up to the amount divided by the number of sidecars alive.
    #[default]
    Local,
    /// Nothing is counted and nothing is refused.
    Open,
    /// Every request that the limit applies to is refused.
    Closed,
}

/// The response to a request over a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub status: u16,
    /// Headers in addition to those that show the limit.
    pub headers: BTreeMap<String, String>,
    /// `None`: an error in OpenAI's shape.
    pub body: Option<String>,
}

/// Another amount under some conditions. The first exception that matches applies.
#[derive(Clone, Debug)]
pub struct Exception {
    /// All conditions must hold.
    pub when: Vec<Condition>,
    /// `None`: unlimited.
    pub amount: Option<u64>,
    /// The burst of a token bucket. `None`: in proportion to the amount.
    pub burst: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Limit {
    /// Unique name, which appears in responses, metrics and keys. 1 to 64 bytes of `[A-Za-z0-9_.-]`.
    pub name: Arc<str>,
    pub counts: Counts,
    /// Amount per period, or requests at the same time. At most 10^15. 0 refuses all.
    pub amount: u64,
    /// Has no meaning for concurrency.
    pub period: Period,
    pub algorithm: Algorithm,
    /// Each combination of values of these attributes has its own counter. Without attributes, all requests share one.
    /// A request that lacks an attribute is not limited.
    pub key: Key,
    /// The limit applies if all conditions hold.
    pub when: Vec<Condition>,
    pub exceptions: Vec<Exception>,
    /// Shadow mode: counts, but refuses nothing.
    pub shadow: bool,
    pub rejected: Rejected,
    /// Factor on the estimate for the reserved amount, at least 1.
    pub margin: f64,
    pub on_outage: OnOutage,
}

impl Limit {
    /// Returns the burst for another amount, in proportion to the configured one.
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
    /// Administrators fill a balance, and requests use it up.
    Prepaid,
    /// Each period has an amount.
    Budget(Period),
}

/// A quota: a balance or budget for each consumer.
#[derive(Clone, Debug)]
pub struct QuotaRule {
    /// Unique name among limits and quotas.
    pub name: Arc<str>,
    pub counts: Counts,
    pub kind: QuotaKind,
    /// Balance or amount for consumers without a record. `None`: they are refused.
    pub default: Option<u64>,
    /// The quota applies if all conditions hold and the request has a consumer.
    pub when: Vec<Condition>,
    /// Shadow mode: counts, but refuses nothing.
    pub shadow: bool,
    pub rejected: Rejected,
    /// Factor on the estimate for the reserved amount, at least 1.
    pub margin: f64,
    pub on_outage: OnOutage,
}

/// The headers that show limits to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitHeaders {
    /// `RateLimit` and `RateLimit-Policy` of the IETF draft.
    pub ietf: bool,
    /// `X-RateLimit-Limit`, `-Remaining`, `-Reset`.
    pub x: bool,
}

/// The estimates for a model before requests have reported their use.
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
}

impl LimitRules {
    /// Returns a fingerprint: FNV-1a of all settings. Sidecars with different fingerprints enforce different limits.
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
/// Longest period: a year, as in envoyproxy/ratelimit.
pub const PERIOD_MAX: Duration = Duration::from_secs(366 * 86_400);
