//! Limits and quotas through real gateways, compared with what the mock hosts served.

use std::time::Duration;

mod aborted;
mod burst;
mod changes;
mod failures;
mod fixture;
mod request;

use fixture::{Fixture, HostTotals};
use request::{ChatRequest, Reply};

/// Far more than any wait takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// The sidecars' KeepAlive interval in tests of what happens within one.
const INTERVAL: Duration = Duration::from_secs(1);
/// Tolerance of "within an interval": the measurement itself, on a busy machine.
const SLACK: Duration = Duration::from_millis(700);
const HOUR: Duration = Duration::from_secs(3600);
