//! The clock of this machine. Decisions that several sidecars must agree on use the store's clock instead.

use std::time::{SystemTime, UNIX_EPOCH};

pub const DAY_MS: u64 = 86_400_000;

/// Returns the current time, in ms since the Unix epoch.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
