//! Waits for conditions instead of for fixed times.

use std::time::{Duration, Instant};

pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A condition did not become true in time.
#[derive(Debug, thiserror::Error)]
#[error("waited {within:?} for {what}")]
pub struct WaitError {
    pub what: String,
    pub within: Duration,
}

/// Polls `condition` until it is true.
///
/// # Errors
/// If the condition is still false after `within`.
pub async fn until(
    what: impl Into<String>,
    within: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> Result<(), WaitError> {
    let start = Instant::now();
    while !condition().await {
        if start.elapsed() > within {
            return Err(WaitError { what: what.into(), within });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
