//! What the doors for administrators lead to.

use std::sync::Arc;

use evenkeel_engine::{
    balancer::drains::Drains,
    change_log::ChangeLog,
    limiter::{overrides::Overrides, quotas::Quotas},
};

use super::auth::Admins;

/// Limits, quotas and drains as administrators see them, and who is one.
pub struct Administration {
    /// Quotas.
    pub quotas: Arc<Quotas>,
    /// Overrides of limits.
    pub overrides: Arc<Overrides>,
    /// Drained endpoints.
    pub drains: Arc<Drains>,
    /// What was changed.
    pub change_log: Arc<ChangeLog>,
    /// Administrators.
    pub admins: Admins,
}
