//! Results of requests over time, refusals, repairs of tables, and the status of each sidecar. Each sidecar writes
//! these types to the store, and all sidecars read them.

use serde::{Deserialize, Serialize};

use crate::gateway::GatewayStatus;

/// The result of an Admit call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(usize)]
pub enum AdmitResult {
    /// Admitted based on the table that all sidecars share.
    Shared,
    /// Admitted based on this sidecar's local table, because the store was unavailable.
    Local,
    /// Admitted without a chosen endpoint, because the store was unavailable.
    Open,
    /// Refused because every endpoint was at its cap.
    PoolFull,
    NoEndpoints,
    /// Refused by a limit.
    Limit,
    /// Refused by a quota.
    Quota,
    /// Refused because the store was unavailable.
    StoreUnavailable,
}

/// Number of [`AdmitResult`]s.
pub const ADMIT_RESULTS: usize = AdmitResult::ALL.len();

/// Number of requests by [`AdmitResult`].
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

    /// Returns the result's name in JSON and metrics.
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

/// Number of steps in a page.
pub const STEPS: u64 = 12;

/// The duration of time steps. The store has pages of [`STEPS`] steps each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// Steps of 10 s, stored for the last hour.
    Fine,
    /// Steps of 5 min, stored for the last two days.
    Coarse,
}

impl Resolution {
    pub const ALL: [Self; 2] = [Self::Fine, Self::Coarse];

    /// Returns the duration of a step, in ms.
    #[must_use]
    pub fn step_ms(self) -> u64 {
        match self {
            Self::Fine => 10_000,
            Self::Coarse => 300_000,
        }
    }

    /// Returns the duration of a page, in ms.
    #[must_use]
    pub fn page_ms(self) -> u64 {
        self.step_ms() * STEPS
    }

    /// Returns the maximum time span that is shown in these steps, in ms.
    #[must_use]
    pub fn span_max_ms(self) -> u64 {
        match self {
            Self::Fine => 3_600_000,
            Self::Coarse => 48 * 3_600_000,
        }
    }

    /// Returns the resolution's name in store keys.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "10s",
            Self::Coarse => "5m",
        }
    }

    /// Returns the start of the page that contains `at_ms`, and the index of the step within the page.
    #[must_use]
    pub fn place(self, at_ms: u64) -> (u64, usize) {
        let page = at_ms / self.page_ms() * self.page_ms();
        (page, ((at_ms - page) / self.step_ms()) as usize)
    }
}

/// The counts of one sidecar for one pool in one page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSteps {
    pub route: String,
    pub cluster: String,
    /// Index and counts of each step that has requests.
    pub steps: Vec<(usize, Counts)>,
}

/// A key of a limit, as of its last request. Sidecars report the fullest keys: those that have used the largest
/// fraction of their amount.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FullestKey {
    pub limit: String,
    /// The part of the key that selects the Redis slot.
    pub tag: String,
    /// The rest of the key.
    pub rest: String,
    /// Amount that applies to the key.
    pub amount: u64,
    pub used: u64,
    /// Time when the whole amount is available again, in ms since the Unix epoch. 0: time alone frees nothing.
    pub reset_at_ms: u64,
    /// Whether the limit is in shadow mode: it counts requests, but refuses none.
    pub shadow: bool,
    /// Time of the last request, in ms since the Unix epoch.
    pub seen_at_ms: u64,
}

impl FullestKey {
    /// Returns the used fraction of the amount.
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

/// The amounts that one sidecar charged to one consumer's quota in the last hour, and the state of the quota at the
/// last request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaCharges {
    pub quota: String,
    pub consumer: String,
    pub balance: u64,
    /// Amount per period of a budget. 0 for a prepaid quota.
    pub amount: u64,
    /// End of the budget's period, in ms since the Unix epoch. 0 for a prepaid quota.
    pub reset_at_ms: u64,
    /// Time of the last request, in ms since the Unix epoch.
    pub seen_at_ms: u64,
    /// Start of each step, in ms since the Unix epoch, and the amount charged in the step.
    pub charged: Vec<(u64, u64)>,
}

/// The kind of a sidecar's store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// The sidecar's own memory.
    #[default]
    Memory,
    Redis,
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
    /// Time when the sidecar started, in ms since the Unix epoch.
    pub started_at_ms: u64,
    /// Time of the report, in ms since the Unix epoch. The store sets this field.
    #[serde(default)]
    pub seen_at_ms: u64,
    /// Time between two reports, in ms.
    pub interval_ms: u64,
    /// Whether the sidecar is shutting down and takes no new work.
    pub shutting_down: bool,
    /// Whether this is the sidecar's last report.
    #[serde(default)]
    pub ended: bool,
    pub store: StoreKind,
    /// Number of times that the sidecar has lost the store.
    pub store_losses: u64,
    /// Number of gateway workers that recently sent a KeepAlive to this sidecar.
    pub holders: u64,
    /// Number of requests admitted since the start.
    pub admitted: u64,
    /// Number of requests refused since the start.
    pub refused: u64,
    /// Fingerprint of the active limits.
    pub limits_revision: String,
    /// Gateways that use the sidecar.
    #[serde(default)]
    pub gateways: Vec<GatewayStatus>,
    /// Number of gateways that are not in `gateways`, because there are too many.
    #[serde(default)]
    pub gateways_unlisted: u64,
    /// Time when the sidecar's certificate expires, in ms since the Unix epoch. 0: the sidecar has no TLS.
    #[serde(default)]
    pub certificate_expires_at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// A random id, by which readers recognize duplicates from repeated writes.
    #[serde(default)]
    pub id: u64,
    /// The gateway's request id. May be empty.
    pub request_id: String,
    /// Time of the refusal, in ms since the Unix epoch.
    pub at_ms: u64,
    pub route: String,
    pub cluster: String,
    pub reason: AdmitResult,
    /// Explains the refusal to operators.
    pub why: String,
    /// HTTP status of the response.
    pub status: u16,
    /// The `retry-after` of the response. 0: the response has none.
    pub retry_after_ms: u64,
    pub consumer: String,
    pub model: String,
    /// Name of the limit or quota that refused the request. Empty for other reasons.
    pub limit: String,
    /// Key under which the limit or quota counts the request.
    pub key: String,
    pub amount: u64,
    pub used: u64,
    /// Amount that the request would have reserved.
    pub cost: u64,
    /// Name of the sidecar that refused the request.
    pub sidecar: String,
}

/// The kind of a repair of a pool's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairKind {
    /// Leases that the table lacked were restored.
    Restored,
    /// Leases that the gateway no longer had were released.
    Dropped,
    /// Leases were moved to the endpoint that the gateway reported.
    Moved,
    /// Leases of a dead holder were released.
    Reaped,
    /// Counts that differed from the number of leases were corrected.
    Recounted,
}

impl RepairKind {
    /// Returns the kind's name in JSON.
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

/// One repair of a pool's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// A random id, by which readers recognize duplicates from repeated writes.
    #[serde(default)]
    pub id: u64,
    /// Time of the repair, in ms since the Unix epoch.
    pub at_ms: u64,
    pub kind: RepairKind,
    pub route: String,
    pub cluster: String,
    /// Holder of the leases. Empty for a recount.
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
