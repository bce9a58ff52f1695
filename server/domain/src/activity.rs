//! Activity: results of requests over time, refusals, repairs of tables, and the status of each sidecar. The store
//! keeps these types, and all sidecars share them.

use serde::{Deserialize, Serialize};

/// The result of a request for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(usize)]
pub enum AdmitResult {
    /// Admitted by the shared table.
    Shared,
    /// Admitted by this sidecar's local table, while the store was unavailable.
    Local,
    /// Admitted without a chosen endpoint, while the store was unavailable.
    Open,
    /// Refused: every endpoint at its cap.
    PoolFull,
    NoEndpoints,
    /// Refused by a limit.
    Limit,
    /// Refused by a quota.
    Quota,
    /// Refused: the store was unavailable.
    StoreUnavailable,
}

/// Number of [`AdmitResult`]s.
pub const ADMIT_RESULTS: usize = AdmitResult::ALL.len();

/// Requests by [`AdmitResult`].
pub type Counts = [u64; ADMIT_RESULTS];

impl AdmitResult {
    /// All results, in the order of [`Counts`].
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

    /// Returns the name in JSON and metrics.
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

    #[must_use]
    pub fn is_admitted(self) -> bool {
        matches!(self, Self::Shared | Self::Local | Self::Open)
    }
}

/// Adds counts to a sum.
pub fn add(sum: &mut Counts, more: &Counts) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// Sums up the counts of admitted and of refused requests.
#[must_use]
pub fn admitted_and_refused(counts: &Counts) -> (u64, u64) {
    AdmitResult::ALL.iter().zip(counts).fold((0, 0), |(admitted, refused), (result, n)| {
        if result.is_admitted() { (admitted + n, refused) } else { (admitted, refused + n) }
    })
}

/// Steps in a page.
pub const STEPS: u64 = 12;

/// The length of time steps. Steps are kept in pages of [`STEPS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// Steps of 10 s, for the last hour.
    Fine,
    /// Steps of 5 min, for the last two days.
    Coarse,
}

impl Resolution {
    pub const ALL: [Self; 2] = [Self::Fine, Self::Coarse];

    /// Returns the length of a step, in ms.
    #[must_use]
    pub fn step_ms(self) -> u64 {
        match self {
            Self::Fine => 10_000,
            Self::Coarse => 300_000,
        }
    }

    /// Returns the length of a page, in ms.
    #[must_use]
    pub fn page_ms(self) -> u64 {
        self.step_ms() * STEPS
    }

    /// Returns the longest span that is shown in these steps, in ms.
    #[must_use]
    pub fn span_max_ms(self) -> u64 {
        match self {
            Self::Fine => 3_600_000,
            Self::Coarse => 48 * 3_600_000,
        }
    }

    /// Returns the name in keys of the store.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "10s",
            Self::Coarse => "5m",
        }
    }

    /// Returns the start of the page that contains `at_ms`, and the index of the step in it.
    #[must_use]
    pub fn place(self, at_ms: u64) -> (u64, usize) {
        let page = at_ms / self.page_ms() * self.page_ms();
        (page, ((at_ms - page) / self.step_ms()) as usize)
    }
}

/// The counts of one sidecar for one pool in one page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSteps {
    /// Name of the route.
    pub route: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Indexes and counts of the steps with any requests.
    pub steps: Vec<(usize, Counts)>,
}

/// One key of a limit, as of its last request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FullestKey {
    pub limit: String,
    /// The part of the key that selects the Redis slot.
    pub tag: String,
    /// The rest of the key.
    pub rest: String,
    /// Amount in force for the key.
    pub amount: u64,
    pub used: u64,
    /// When the whole amount is free again, in ms of the Unix epoch. 0: unknown.
    pub reset_at_ms: u64,
    /// Shadow mode: the limit counts, but refuses nothing.
    pub shadow: bool,
    /// When the last request saw it, in ms of the Unix epoch.
    pub seen_at_ms: u64,
}

impl FullestKey {
    /// Returns the used share of the amount.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.used as f64 / self.amount.max(1) as f64
    }

    /// Returns the whole key, such as `consumer=alice`.
    #[must_use]
    pub fn key(&self) -> String {
        if self.rest.is_empty() { self.tag.clone() } else { format!("{}|{}", self.tag, self.rest) }
    }
}

/// What one sidecar charged to one consumer's quota in the last hour, and the quota's state at its last request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaCharges {
    pub quota: String,
    pub consumer: String,
    pub balance: u64,
    /// A budget's amount per period. 0 for a prepaid quota.
    pub amount: u64,
    /// When a budget's period ends, in ms of the Unix epoch. 0 for a prepaid quota.
    pub reset_at_ms: u64,
    /// When the last request saw it, in ms of the Unix epoch.
    pub seen_at_ms: u64,
    /// The start of each step, in ms of the Unix epoch, and the amount charged in it.
    pub charged: Vec<(u64, u64)>,
}

/// Where a sidecar counts requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// In its own memory.
    #[default]
    Memory,
    Redis,
    /// In a Redis Cluster.
    RedisCluster,
}

/// The status that a sidecar reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SidecarStatus {
    /// Random id of the process.
    pub id: String,
    /// Name of the pod or host.
    pub name: String,
    pub version: String,
    /// When the sidecar started, in ms of the Unix epoch.
    pub started_at_ms: u64,
    /// When it reported this, in ms of the Unix epoch. The store sets it.
    #[serde(default)]
    pub seen_at_ms: u64,
    /// Time between two reports, in ms.
    pub interval_ms: u64,
    /// The sidecar is stopping and takes no new work.
    pub draining: bool,
    /// This is its last report.
    #[serde(default)]
    pub ended: bool,
    pub store: StoreKind,
    /// How often it has lost the store.
    pub store_losses: u64,
    /// Gateway workers that are alive at this sidecar.
    pub holders: u64,
    /// Requests admitted since the start.
    pub admitted: u64,
    /// Requests refused since the start.
    pub refused: u64,
    /// Fingerprint of the limits in force.
    pub limits_revision: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// A random id, which removes duplicates of repeated writes.
    #[serde(default)]
    pub id: u64,
    /// The gateway's id of the request. May be empty.
    pub request_id: String,
    /// In ms of the Unix epoch.
    pub at_ms: u64,
    pub route: String,
    pub cluster: String,
    pub reason: AdmitResult,
    /// The explanation for operators.
    pub why: String,
    /// HTTP status of the response.
    pub status: u16,
    /// The `retry-after` of the response. 0: none.
    pub retry_after_ms: u64,
    pub consumer: String,
    pub model: String,
    /// The limit or quota that refused the request. Empty if none did.
    pub limit: String,
    /// The key under which the limit counts the request.
    pub key: String,
    pub amount: u64,
    pub used: u64,
    /// What the request would have reserved.
    pub cost: u64,
    /// Name of the sidecar that refused it.
    pub sidecar: String,
}

/// The kind of a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairKind {
    /// Leases that the table lacked were put back.
    Restored,
    /// Leases that the gateway no longer had were returned.
    Dropped,
    /// Leases were moved to the endpoint they are really on.
    Moved,
    /// Leases of a dead holder were returned.
    Reaped,
    /// Counts that differed from the number of leases were corrected.
    Recounted,
}

impl RepairKind {
    /// Returns the name in JSON.
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
    /// A random id, which removes duplicates of repeated writes.
    #[serde(default)]
    pub id: u64,
    /// In ms of the Unix epoch.
    pub at_ms: u64,
    pub kind: RepairKind,
    pub route: String,
    pub cluster: String,
    /// The holder of the leases. Empty for a recount.
    pub holder: String,
    /// Number of leases, or of corrected counts.
    pub count: u64,
    /// Name of the sidecar that made the repair.
    pub sidecar: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_in_the_order_of_results() {
        for (i, result) in AdmitResult::ALL.iter().enumerate() {
            assert_eq!(*result as usize, i);
            assert_eq!(serde_json::to_value(result).unwrap(), result.name());
        }
        assert_eq!(admitted_and_refused(&[1, 2, 3, 4, 5, 6, 7, 8]), (6, 30));
    }

    #[test]
    fn a_time_has_its_page_and_step() {
        assert_eq!(Resolution::Fine.place(0), (0, 0));
        assert_eq!(Resolution::Fine.place(119_999), (0, 11));
        assert_eq!(Resolution::Fine.place(120_000), (120_000, 0));
        assert_eq!(Resolution::Coarse.place(3_600_000 + 299_999), (3_600_000, 0));
    }
}
