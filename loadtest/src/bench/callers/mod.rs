//! The callers of each kind of target.

pub(super) mod fixed_window;
pub(super) mod gateway;
pub(super) mod limited_requests;
pub(super) mod pick_script;
pub(super) mod rate_limit_service;

/// Number of keys among which callers of counters choose at random.
const COUNTER_KEYS: u32 = 1000;
