//! What the doors for administrators lead to.

use std::sync::Arc;

use evenkeel_engine::{
    audit::Audit,
    balancer::drains::DrainBook,
    limiter::{overrides::OverrideBook, quotas::Quotas},
};

use super::auth::Admins;

/// Limits, quotas and drains as administrators see them, and who is one.
pub struct Administration {
    /// Quotas.
    pub quotas: Arc<Quotas>,
    /// Overrides of limits.
    pub overrides: Arc<OverrideBook>,
    /// Drained endpoints.
    pub drains: Arc<DrainBook>,
    /// What was changed.
    pub audit: Arc<Audit>,
    /// Administrators.
    pub admins: Admins,
}
