//! The time of day, where this machine's own will do. What decides anything shared goes by the store's clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Length of a day.
pub const DAY_MS: u64 = 86_400_000;

/// Now, in ms of the Unix epoch.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
