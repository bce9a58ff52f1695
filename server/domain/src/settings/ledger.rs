//! What the usage ledger keeps.

use std::time::Duration;

/// What is kept, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerOptions {
    /// Whether usage is kept at all.
    pub enabled: bool,
    /// How long after its end a day is kept, and how long a session that is not heard of.
    pub retention: Duration,
    /// Most sessions in a day's list, and about the most kept with their turns.
    pub sessions_max: usize,
    /// Most rows of a day.
    pub rows_max: usize,
    /// Most turns kept of a session; at most 1000.
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
