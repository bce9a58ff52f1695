//! The operators' API. Each operation is one async method that takes a request message and returns a response message.
//! The gRPC and HTTP layers only decode the request, call the method and encode the response.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use evenkeel_domain::{DomainError, StoreError, limit::LimitRules};
use evenkeel_engine::{
    activity::{History, report::About},
    balancer::{Balancer, drains::Drains, sweep::Views},
    change_log::ChangeLog,
    ledger::Ledger,
    limiter::{LimitRequest, Limiter, overrides::Overrides, quotas::Quotas},
};
use evenkeel_proto::v1 as pb;
use tokio::sync::Semaphore;

mod activity;
mod auth;
mod convert;
pub mod csv;
mod drains;
mod error;
mod gateways;
mod limits;
mod overview;
mod pools;
mod quotas;
mod usage;
mod watch;

pub use auth::{Access, Administrator, Caller, Shown};
pub use error::{ApiError, Code};
pub use watch::WATCHERS_MAX;

pub type Result<T> = std::result::Result<T, ApiError>;

/// The parts of the engine that the operations use.
pub struct Api {
    pub about: About,
    /// Start time, in ms since the Unix epoch.
    pub started_at_ms: u64,
    pub keep_alive_interval: Duration,
    /// The reports of all sidecars.
    pub history: History,
    /// Pools as of the last sweep.
    pub views: Arc<Views>,
    pub balancer: Arc<Balancer>,
    pub limiter: Arc<Limiter>,
    pub rules: Arc<ArcSwap<LimitRules>>,
    pub quotas: Arc<Quotas>,
    pub overrides: Arc<Overrides>,
    pub drains: Arc<Drains>,
    pub change_log: Arc<ChangeLog>,
    pub access: Arc<Access>,
    pub ledger: Arc<Ledger>,
    /// Converts a gateway's request into the input of the limits.
    pub limit_request: fn(pb::AdmitRequest, pb::Pool) -> LimitRequest,
    pub watchers: Arc<Semaphore>,
    /// The overview that all watches share.
    pub watched: watch::Watched,
}

impl Api {
    /// Reads reports of all sidecars. Fails without a call to the store while the store is unavailable.
    async fn reported<T>(
        &self,
        read: impl Future<Output = std::result::Result<T, StoreError>>,
    ) -> std::result::Result<T, DomainError> {
        let away = || StoreError::Unavailable("circuit open after earlier failures".to_owned());
        let reported = if self.balancer.store.is_up() { read.await } else { Err(away()) };
        reported.map_err(DomainError::store("reading what sidecars reported"))
    }
}
