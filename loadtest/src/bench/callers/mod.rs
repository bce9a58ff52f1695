//! The callers for each kind of benchmark target.

pub(super) mod fixed_window;
pub(super) mod gateway;
pub(super) mod http;
pub(super) mod limited_requests;
pub(super) mod pick_script;
pub(super) mod rate_limit_service;
pub(super) mod stream;

/// Number of keys from which callers of counters choose at random.
const COUNTER_KEYS: u32 = 1000;
