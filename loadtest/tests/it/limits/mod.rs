//! Tests of limits and quotas with real gateways. They compare the counts with the requests that the mock hosts served.

use std::time::Duration;

mod aborted;
mod burst;
mod busy;
mod changes;
mod failures;
mod fixture;
mod large_bodies;
mod late;
mod request;
mod restarts;
mod unlimited;

use fixture::{Fixture, HostTotals};
use request::{ChatRequest, Reply};

/// Time limit for a wait. It is far longer than any wait takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// The sidecars' KeepAlive interval in tests of what happens within one interval.
const INTERVAL: Duration = Duration::from_secs(1);
/// Tolerance for "within an interval". It covers the measurement itself on a busy machine.
const SLACK: Duration = Duration::from_millis(700);
const HOUR: Duration = Duration::from_secs(3600);
