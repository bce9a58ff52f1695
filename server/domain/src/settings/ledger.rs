//! Settings of the usage ledger.

use std::time::Duration;

/// Which usage the ledger stores, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerOptions {
    /// Whether the sidecar records usage.
    pub enabled: bool,
    /// How long a day is stored after its end, and a session after its last request.
    pub retention: Duration,
    /// Maximum number of sessions in a day's list, and approximate maximum of sessions stored with their turns.
    pub sessions_max: usize,
    /// Maximum number of usage rows per day.
    pub rows_max: usize,
    /// Maximum number of turns stored per session; at most 1000.
    pub turns_max: usize,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            retention: Duration::from_secs(35 * 86_400),
            sessions_max: 10_000,
            rows_max: 100_000,
            turns_max: 200,
        }
    }
}
