//! What the doors for administrators lead to.

use std::sync::Arc;

use super::auth::Admins;
use crate::limiter::{overrides::OverrideBook, quotas::Quotas};

/// Limits and quotas as administrators see them, and who is one.
pub struct Administration {
    /// Quotas.
    pub quotas: Quotas,
    /// Overrides of limits.
    pub overrides: Arc<OverrideBook>,
    /// Administrators.
    pub admins: Admins,
}
