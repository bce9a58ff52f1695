//! Where it is kept what has happened. Everything but refusals and repairs is written by one sidecar only and replaces
//! what that sidecar wrote before, so that a call may be repeated. [`super::memory_activity`] and [`super::redis`] give the
//! same answers.

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    activity::{Burn, Nearest, PoolSteps, Refused, Repair, Resolution, SidecarStatus},
};

/// How long what a sidecar last told is kept, in ms.
pub const REPORT_KEPT_MS: u64 = 3_600_000;
/// How long a refusal can be looked up by its request's id, in ms.
pub const REFUSAL_KEPT_MS: u64 = 3_600_000;
/// Refusals listed.
pub const REFUSALS_MAX: usize = 1000;
/// Repairs listed.
pub const REPAIRS_MAX: usize = 200;

/// How long a page is kept after it was last written, in ms.
#[must_use]
pub fn page_kept_ms(resolution: Resolution) -> u64 {
    resolution.span_max_ms() + 2 * resolution.page_ms()
}

/// What a sidecar tells of at short intervals; what is `None` stays as it was told before.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Of itself.
    pub status: Option<SidecarStatus>,
    /// Keys of limits.
    pub nearest: Option<Vec<Nearest>>,
    /// Quotas.
    pub burns: Option<Vec<Burn>>,
}

/// The memory of what has happened.
#[async_trait]
pub trait ActivityStore: Send + Sync + 'static {
    /// Puts a sidecar's report in place of its last one.
    async fn report(&self, sidecar: &str, report: &Report) -> Result<(), StoreError>;

    /// What each sidecar last told of itself, those included that ended within [`REPORT_KEPT_MS`].
    async fn statuses(&self) -> Result<Vec<SidecarStatus>, StoreError>;

    /// What each sidecar last told of limits.
    async fn nearest(&self) -> Result<Vec<Vec<Nearest>>, StoreError>;

    /// What each sidecar last told of quotas.
    async fn burns(&self) -> Result<Vec<Vec<Burn>>, StoreError>;

    /// Forgets what sidecars told that ended long ago.
    async fn forget(&self, sidecars: &[String]) -> Result<(), StoreError>;

    /// Puts a sidecar's counts of one page in place of those it wrote before.
    async fn put_page(
        &self,
        sidecar: &str,
        resolution: Resolution,
        page_ms: u64,
        pools: &[PoolSteps],
    ) -> Result<(), StoreError>;

    /// The counts of one page, of each sidecar that wrote some.
    async fn page(&self, resolution: Resolution, page_ms: u64) -> Result<Vec<Vec<PoolSteps>>, StoreError>;

    /// Keeps refusals, newest last.
    async fn add_refusals(&self, refusals: &[Refused]) -> Result<(), StoreError>;

    /// A refusal by its request's id.
    async fn refusal(&self, request_id: &str) -> Result<Option<Refused>, StoreError>;

    /// The last [`REFUSALS_MAX`], newest first.
    async fn refusals(&self) -> Result<Vec<Refused>, StoreError>;

    /// Keeps repairs, newest last.
    async fn add_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError>;

    /// The last [`REPAIRS_MAX`], newest first.
    async fn repairs(&self) -> Result<Vec<Repair>, StoreError>;
}
