//! The usage ledger.

use std::time::Duration;

/// Which usage the ledger keeps, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerOptions {
    /// Whether usage is recorded.
    pub enabled: bool,
    /// How long a day is kept after its end, and a session after its last request.
    pub retention: Duration,
    /// Most sessions in a day's list, and approximately the most sessions kept with their turns.
    pub sessions_max: usize,
    /// Most rows of a day.
    pub rows_max: usize,
    /// Most turns kept per session; at most 1000.
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
