//! Stores activity: reports of sidecars, refusals and repairs. Each sidecar replaces its own reports and pages, so that
//! a call may be repeated. Refusals and repairs are appended. [`super::memory`] and [`super::redis`] give the same
//! answers.

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    activity::{FullestKey, PoolSteps, QuotaCharges, Refused, Repair, Resolution, SidecarStatus},
};

/// How long the store retains the last report of a sidecar, in ms.
pub const REPORT_KEPT_MS: u64 = 3_600_000;
/// How long a refusal can be looked up by its request's id, in ms.
pub const REFUSAL_KEPT_MS: u64 = 3_600_000;
/// Maximum number of refusals in the list.
pub const REFUSALS_MAX: usize = 1000;
/// Maximum number of repairs in the list.
pub const REPAIRS_MAX: usize = 200;

/// Returns how long the store retains a page after its last write, in ms.
#[must_use]
pub fn page_kept_ms(resolution: Resolution) -> u64 {
    resolution.span_max_ms() + 2 * resolution.page_ms()
}

/// A sidecar's report. If a field is `None`, the previous value of that field remains.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub status: Option<SidecarStatus>,
    pub fullest_keys: Option<Vec<FullestKey>>,
    pub charges: Option<Vec<QuotaCharges>>,
}

#[async_trait]
pub trait ActivityStore: Send + Sync + 'static {
    /// Replaces a sidecar's report.
    async fn report(&self, sidecar: &str, report: &Report) -> Result<(), StoreError>;

    /// Returns the last status of each sidecar, including those that stopped within [`REPORT_KEPT_MS`].
    async fn statuses(&self) -> Result<Vec<SidecarStatus>, StoreError>;

    /// Returns the fullest keys that each sidecar last reported.
    async fn fullest_keys(&self) -> Result<Vec<Vec<FullestKey>>, StoreError>;

    /// Returns the charges that each sidecar last reported.
    async fn quota_charges(&self) -> Result<Vec<Vec<QuotaCharges>>, StoreError>;

    /// Deletes the reports of sidecars.
    async fn forget(&self, sidecars: &[String]) -> Result<(), StoreError>;

    /// Replaces the counts of one sidecar in one page.
    async fn put_page(
        &self,
        sidecar: &str,
        resolution: Resolution,
        page_ms: u64,
        pools: &[PoolSteps],
    ) -> Result<(), StoreError>;

    /// Returns the counts of one page, for each sidecar that wrote counts in that page.
    async fn page(&self, resolution: Resolution, page_ms: u64) -> Result<Vec<Vec<PoolSteps>>, StoreError>;

    /// Appends refusals. `refusals` starts with the oldest.
    async fn add_refusals(&self, refusals: &[Refused]) -> Result<(), StoreError>;

    /// Returns the refusal with this request id.
    async fn refusal(&self, request_id: &str) -> Result<Option<Refused>, StoreError>;

    /// Returns the last [`REFUSALS_MAX`] refusals, newest first.
    async fn refusals(&self) -> Result<Vec<Refused>, StoreError>;

    /// Appends repairs. `repairs` starts with the oldest.
    async fn add_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError>;

    /// Returns the last [`REPAIRS_MAX`] repairs, newest first.
    async fn repairs(&self) -> Result<Vec<Repair>, StoreError>;
}
