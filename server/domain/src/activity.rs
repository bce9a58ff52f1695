//! What has happened: what became of requests over time, why some were refused, which tables were repaired, and what
//! each sidecar tells of itself. In these shapes it is kept in the store, shared by all sidecars.

use serde::{Deserialize, Serialize};

/// What became of a request for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(usize)]
pub enum AdmitResult {
    /// Admitted from the shared table.
    Shared,
    /// Admitted from local knowledge.
    Local,
    /// Let through unchosen.
    Open,
    /// Refused: every endpoint at its cap.
    PoolFull,
    /// Refused: no endpoints.
    NoEndpoints,
    /// Refused by a limit.
    Limit,
    /// Refused by a quota.
    Quota,
    /// Refused: the store was away.
    StoreUnavailable,
}

/// Number of [`AdmitResult`]s.
pub const ADMIT_RESULTS: usize = AdmitResult::ALL.len();

/// Requests by [`AdmitResult`].
pub type Counts = [u64; ADMIT_RESULTS];

impl AdmitResult {
    /// All of them, as they are counted in [`Counts`].
    pub const ALL: [Self; 8] = [
        Self::Shared,
        Self::Local,
        Self::Open,
        Self::PoolFull,
        Self::NoEndpoints,
        Self::Limit,
        Self::Quota,
        Self::StoreUnavailable,
    ];

    /// Its name in JSON and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Open => "open",
            Self::PoolFull => "pool_full",
            Self::NoEndpoints => "no_endpoints",
            Self::Limit => "limit",
            Self::Quota => "quota",
            Self::StoreUnavailable => "store_unavailable",
        }
    }

    /// Whether the request went on.
    #[must_use]
    pub fn is_admitted(self) -> bool {
        matches!(self, Self::Shared | Self::Local | Self::Open)
    }
}

/// Adds to counts.
pub fn add(sum: &mut Counts, more: &Counts) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// How many of them were admitted, and how many refused.
#[must_use]
pub fn admitted_and_refused(counts: &Counts) -> (u64, u64) {
    AdmitResult::ALL.iter().zip(counts).fold((0, 0), |(admitted, refused), (result, n)| {
        if result.is_admitted() { (admitted + n, refused) } else { (admitted, refused + n) }
    })
}

/// Steps of a page.
pub const STEPS: u64 = 12;

/// How finely time is divided. Steps are kept in pages of [`STEPS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// Steps of 10 s, for the last hour.
    Fine,
    /// Steps of 5 min, for the last two days.
    Coarse,
}

impl Resolution {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Fine, Self::Coarse];

    /// Length of a step in ms.
    #[must_use]
    pub fn step_ms(self) -> u64 {
        match self {
            Self::Fine => 10_000,
            Self::Coarse => 300_000,
        }
    }

    /// Length of a page in ms.
    #[must_use]
    pub fn page_ms(self) -> u64 {
        self.step_ms() * STEPS
    }

    /// Longest span that is told in these steps, in ms.
    #[must_use]
    pub fn span_max_ms(self) -> u64 {
        match self {
            Self::Fine => 3_600_000,
            Self::Coarse => 48 * 3_600_000,
        }
    }

    /// Its name in keys.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "10s",
            Self::Coarse => "5m",
        }
    }

    /// Start of the page a moment lies in, and its step there.
    #[must_use]
    pub fn place(self, at_ms: u64) -> (u64, usize) {
        let page = at_ms / self.page_ms() * self.page_ms();
        (page, ((at_ms - page) / self.step_ms()) as usize)
    }
}

/// What one sidecar counted in one pool in the steps of one page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSteps {
    /// Name of the route.
    pub route: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Steps in which anything happened, by their place in the page.
    pub steps: Vec<(usize, Counts)>,
}

/// One key of a limit, as the last request counted in it saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nearest {
    /// Name of the limit.
    pub limit: String,
    /// Its key: the part that decides where it is kept, and the rest.
    pub tag: String,
    /// See `tag`.
    pub rest: String,
    /// Amount in force for the key.
    pub amount: u64,
    /// Used, reservations included.
    pub used: u64,
    /// When it has room again by itself, ms of the Unix epoch; 0 when unknown.
    pub reset_at_ms: u64,
    /// Counted and told, never refused.
    pub shadow: bool,
    /// When it was seen so, ms of the Unix epoch.
    pub seen_at_ms: u64,
}

impl Nearest {
    /// Part of the amount that is used.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.used as f64 / self.amount.max(1) as f64
    }

    /// The key in one text, such as "consumer=alice".
    #[must_use]
    pub fn key(&self) -> String {
        if self.rest.is_empty() { self.tag.clone() } else { format!("{}|{}", self.tag, self.rest) }
    }
}

/// What one sidecar charged one consumer's quota lately, and how it last saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burn {
    /// Name of the quota.
    pub quota: String,
    /// Whose.
    pub consumer: String,
    /// What is left, as last seen.
    pub balance: u64,
    /// Amount per period of a budget; 0 where prepaid.
    pub amount: u64,
    /// When a budget's period ends, ms of the Unix epoch; 0 where prepaid.
    pub reset_at_ms: u64,
    /// When it was seen so, ms of the Unix epoch.
    pub seen_at_ms: u64,
    /// Charged by step: the step's start, ms of the Unix epoch, and how much. Of the last hour.
    pub charged: Vec<(u64, u64)>,
}

/// What a sidecar counts in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// Its own memory.
    #[default]
    Memory,
    /// One Redis.
    Redis,
    /// A Redis Cluster.
    RedisCluster,
}

/// What a sidecar tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SidecarStatus {
    /// Random id of the process.
    pub id: String,
    /// Where it runs.
    pub name: String,
    /// Release.
    pub version: String,
    /// When it was started, ms of the Unix epoch.
    pub started_at_ms: u64,
    /// When it told this, ms of the Unix epoch by the store's clock, which fills it in.
    #[serde(default)]
    pub seen_at_ms: u64,
    /// Time between two such reports, in ms.
    pub interval_ms: u64,
    /// It takes no new work.
    pub draining: bool,
    /// This is the last it tells.
    #[serde(default)]
    pub ended: bool,
    /// What it counts in.
    pub store: StoreKind,
    /// Times it has lost the store.
    pub store_losses: u64,
    /// Gateway workers it heard of lately.
    pub holders: u64,
    /// Requests admitted since it was started.
    pub admitted: u64,
    /// Requests refused since it was started.
    pub refused: u64,
    /// Fingerprint of the limits in force.
    pub limits_revision: String,
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Random, so that one that is written twice is told once.
    #[serde(default)]
    pub id: u64,
    /// The gateway's id of it; empty where it gave none.
    pub request_id: String,
    /// When, ms of the Unix epoch.
    pub at_ms: u64,
    /// Which route it was for.
    pub route: String,
    /// Which cluster it was for.
    pub cluster: String,
    /// Why.
    pub reason: AdmitResult,
    /// In words.
    pub why: String,
    /// The HTTP status it was answered with.
    pub status: u16,
    /// When to try again, as it was told; 0: not told.
    pub retry_after_ms: u64,
    /// Whose it was; empty when unknown.
    pub consumer: String,
    /// The model it asked for.
    pub model: String,
    /// The limit or quota that refused it; empty where none did.
    pub limit: String,
    /// The key it is counted in there.
    pub key: String,
    /// Amount in force.
    pub amount: u64,
    /// Used at that time.
    pub used: u64,
    /// What the request would have reserved.
    pub cost: u64,
    /// Name of the sidecar that refused it.
    pub sidecar: String,
}

/// How a table was repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairKind {
    /// Leases put back that the table lacked.
    Restored,
    /// Leases given back that a gateway no longer had.
    Dropped,
    /// Leases moved to the endpoint they are really on.
    Moved,
    /// Leases of a dead holder given back.
    Reaped,
    /// Counts that were not the sum of their leases, counted anew.
    Recounted,
}

impl RepairKind {
    /// Its name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Dropped => "dropped",
            Self::Moved => "moved",
            Self::Reaped => "reaped",
            Self::Recounted => "recounted",
        }
    }
}

/// One repair of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Random, so that one that is written twice is told once.
    #[serde(default)]
    pub id: u64,
    /// When, ms of the Unix epoch.
    pub at_ms: u64,
    /// How.
    pub kind: RepairKind,
    /// Name of the pool's route.
    pub route: String,
    /// Name of the pool's cluster.
    pub cluster: String,
    /// Whose leases; empty where of no one holder.
    pub holder: String,
    /// How many.
    pub count: u64,
    /// Name of the sidecar that made it.
    pub sidecar: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_by_the_order_of_fates() {
        for (i, result) in AdmitResult::ALL.iter().enumerate() {
            assert_eq!(*result as usize, i);
            assert_eq!(serde_json::to_value(result).unwrap(), result.name());
        }
        assert_eq!(admitted_and_refused(&[1, 2, 3, 4, 5, 6, 7, 8]), (6, 30));
    }

    #[test]
    fn moments_have_their_place() {
        assert_eq!(Resolution::Fine.place(0), (0, 0));
        assert_eq!(Resolution::Fine.place(119_999), (0, 11));
        assert_eq!(Resolution::Fine.place(120_000), (120_000, 0));
        assert_eq!(Resolution::Coarse.place(3_600_000 + 299_999), (3_600_000, 0));
    }
}
