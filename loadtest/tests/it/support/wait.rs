//! Waits for conditions.

use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until a condition holds, and returns the duration of the wait. After `limit`, panics with the last failure.
pub(crate) async fn within<F>(limit: Duration, what: &str, mut condition: impl FnMut() -> F) -> Duration
where
    F: Future<Output = Result<(), String>>,
{
    let start = Instant::now();
    loop {
        match condition().await {
            Ok(()) => return start.elapsed(),
            Err(last) if start.elapsed() > limit => panic!("not within {limit:?}: {what}; last: {last}"),
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}
