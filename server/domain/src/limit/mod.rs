//! Limits and quotas as configured: what is counted, how much, for whom, and when. See [`rule`] for how a counter
//! works, [`facts`] for what a request is looked at for, [`matcher`] for when a limit applies.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub mod facts;
pub mod matcher;
pub mod period;
pub mod price;
pub mod rule;

pub use facts::{Attribute, Facts, Key};
pub use matcher::{Condition, Matcher};
pub use period::{CalendarUnit, Period};
pub use price::Prices;
pub use rule::{AMOUNT_MAX, Bucket, Meter, Rule, Window};

/// Longest name of a limit or quota, in bytes.
pub const LIMIT_NAME_BYTES_MAX: usize = 64;
/// Most limits and quotas that count one request.
pub const METERS_MAX: usize = 16;

/// What a limit or quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    /// Requests.
    Requests,
    /// Input and output tokens together.
    Tokens,
    /// Input tokens, those read from a cache included.
    InputTokens,
    /// Output tokens, reasoning included.
    OutputTokens,
    /// Cost, in millionths of the price table's currency.
    Cost,
}

impl Counts {
    /// Returns what one request amounts to. `cost` is called where cost counts.
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
    /// All of it at the start of each period.
    FixedWindow,
    /// Never more than the amount in any window as long as the period. Kept in slots of 1/16 of the period: what
    /// was used becomes free up to one slot late, never early.
    SlidingWindow,
    /// A steady rate of amount per period, and as much as `burst` at once (GCRA).
    TokenBucket {
        /// Most at once.
        burst: u64,
    },
    /// Requests running at the same time.
    Concurrency,
}

/// What is done while the store is unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnOutage {
    /// Each sidecar counts by itself, up to the amount divided by the number of sidecars alive.
    #[default]
    Local,
    /// Nothing is counted, nothing refused.
    Open,
    /// Everything it applies to is refused.
    Closed,
}

/// The answer to a request over a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// HTTP status.
    pub status: u16,
    /// Headers beside the ones that tell of the limit.
    pub headers: BTreeMap<String, String>,
    /// Body; `None` for an error in OpenAI's shape.
    pub body: Option<String>,
}

/// Another amount where conditions hold: the first that matches applies.
#[derive(Clone, Debug)]
pub struct Exception {
    /// All must hold.
    pub when: Vec<Condition>,
    /// The amount instead; `None`: unlimited.
    pub amount: Option<u64>,
    /// The burst instead, for a token bucket.
    pub burst: Option<u64>,
}

/// A limit.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Unique name: in answers, metrics and keys. 1 to 64 bytes of `[A-Za-z0-9_.-]`.
    pub name: Arc<str>,
    /// What it counts.
    pub counts: Counts,
    /// How much per period, or at the same time; at most 10^15. 0 refuses all.
    pub amount: u64,
    /// The period; of no meaning for concurrency.
    pub period: Period,
    /// How.
    pub algorithm: Algorithm,
    /// Each combination of these attributes' values is counted apart; none: one counter for all. A request that
    /// lacks one is not limited.
    pub key: Key,
    /// When it applies: all must hold.
    pub when: Vec<Condition>,
    /// Other amounts for some.
    pub exceptions: Vec<Exception>,
    /// Counted and told, never refused.
    pub shadow: bool,
    /// The answer when refused.
    pub rejected: Rejected,
    /// How much more than the estimate is reserved, as a factor of at least 1.
    pub margin: f64,
    /// While the store is unavailable.
    pub on_outage: OnOutage,
}

impl Limit {
    /// Returns the burst for another amount, in proportion.
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

/// Where the balances of a quota come from.
#[derive(Clone, Debug, PartialEq)]
pub enum QuotaKind {
    /// A balance that administrators fill and requests use up.
    Prepaid,
    /// An amount per period.
    Budget(Period),
}

/// A quota: a balance or budget of each consumer.
#[derive(Clone, Debug)]
pub struct QuotaRule {
    /// Unique name among limits and quotas.
    pub name: Arc<str>,
    /// What it counts.
    pub counts: Counts,
    /// Prepaid or per period.
    pub kind: QuotaKind,
    /// Balance or amount of consumers without a record; `None`: they are refused.
    pub default: Option<u64>,
    /// When it applies: all must hold. Requests without a consumer are not counted.
    pub when: Vec<Condition>,
    /// Counted and told, never refused.
    pub shadow: bool,
    /// The answer when refused.
    pub rejected: Rejected,
    /// How much more than the estimate is reserved, as a factor of at least 1.
    pub margin: f64,
    /// While the store is unavailable.
    pub on_outage: OnOutage,
}

/// Headers that tell a client of the limits it is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitHeaders {
    /// `RateLimit` and `RateLimit-Policy` of the IETF draft.
    pub ietf: bool,
    /// `X-RateLimit-Limit`, `-Remaining`, `-Reset`.
    pub x: bool,
}

/// What is expected of a model before anything is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSeed {
    /// Which models.
    pub model: Matcher,
    /// Output tokens of a request.
    pub output_tokens: Option<f64>,
    /// Bytes of prompt for one input token.
    pub bytes_per_token: Option<f64>,
}

/// Everything about limits that can change while running.
#[derive(Clone, Debug)]
pub struct LimitRules {
    /// Limits, in order.
    pub limits: Vec<Arc<Limit>>,
    /// Quotas, in order.
    pub quotas: Vec<Arc<QuotaRule>>,
    /// Price table.
    pub prices: Prices,
    /// Expectations.
    pub models: Vec<ModelSeed>,
    /// Headers of answers.
    pub headers: LimitHeaders,
    /// Name of the header that consumers of the path-based quota administration are recognised by: those consumers.
    pub quota_admins: Vec<String>,
}

impl LimitRules {
    /// A fingerprint: FNV-1a of all that they say. Sidecars that differ in it enforce different limits.
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
    /// 429 with the default body.
    #[must_use]
    pub fn with_status(status: u16) -> Self {
        Self { status, headers: BTreeMap::new(), body: None }
    }
}

/// Shortest and longest period.
pub const PERIOD_MIN: Duration = Duration::from_secs(1);
/// A year, as envoyproxy/ratelimit has one.
pub const PERIOD_MAX: Duration = Duration::from_secs(366 * 86_400);
