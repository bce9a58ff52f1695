//! Keeping up with what administrators have set: read as it changes, the last that was seen while the store is away.

use std::{future::Future, time::Duration};

use evenkeel_domain::StoreError;
use tokio::{sync::Notify, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Calls `refresh` at once, four times a `keep_alive_interval` and whenever this sidecar has `changed` something
/// itself, until `end`. That `what` cannot be read is told once, and once that it can be again.
pub(crate) async fn follow<F: Future<Output = Result<(), StoreError>>>(
    what: &str,
    keep_alive_interval: Duration,
    changed: &Notify,
    end: &CancellationToken,
    refresh: impl Fn() -> F,
) {
    let mut tick = tokio::time::interval(keep_alive_interval / 4);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = changed.notified() => {}
            () = end.cancelled() => return,
        }
        let refreshed = tokio::select! {
            refreshed = refresh() => refreshed,
            () = end.cancelled() => return,
        };
        match (std::mem::replace(&mut failing, refreshed.is_err()), refreshed) {
            (false, Err(error)) => warn!(%error, "{what} cannot be read: the last ones seen stay in force"),
            (true, Ok(())) => info!("{what} can be read again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Guards against one that stops at a store that is away, looks too often, or outlives its token.
    #[tokio::test(start_paused = true)]
    async fn looks_four_times_an_interval_and_when_told_until_the_end() {
        let (calls, changed, end) = (AtomicU32::new(0), Notify::new(), CancellationToken::new());
        let refresh = || {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                let away = StoreError::Unavailable("away".to_owned());
                if call == 1 { Err(away) } else { Ok(()) }
            }
        };
        let story = async {
            tokio::time::sleep(Duration::from_millis(3100)).await;
            assert_eq!(calls.load(Ordering::Relaxed), 4, "at once and each second");
            changed.notify_one();
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(calls.load(Ordering::Relaxed), 5);
            end.cancel();
        };
        tokio::join!(follow("drains", Duration::from_secs(4), &changed, &end, refresh), story);
        assert_eq!(calls.load(Ordering::Relaxed), 5);
    }

    /// Guards against an end that waits for a store that does not answer.
    #[tokio::test(start_paused = true)]
    async fn ends_amid_a_call() {
        let (changed, end) = (Notify::new(), CancellationToken::new());
        let story = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            end.cancel();
        };
        let followed = follow("drains", Duration::from_secs(4), &changed, &end, std::future::pending);
        let both = async { tokio::join!(followed, story) };
        tokio::time::timeout(Duration::from_secs(1), both).await.unwrap();
    }
}
