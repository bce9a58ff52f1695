//! Shares the placements of all pools with the other sidecars, through the store.

use std::{sync::Arc, time::Duration};

use evenkeel_store::placements::PlacementStore;
use futures::{StreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Balancer;

/// Time between two exchanges of a pool. A placement is known everywhere within twice this time and two calls.
const INTERVAL: Duration = Duration::from_millis(400);
/// A pool without requests for this time is not exchanged until its next request.
const IDLE: Duration = Duration::from_secs(60);
/// Maximum number of pools exchanged at the same time.
const CONCURRENCY: usize = 16;

/// Exchanges placements until `shutdown`. `sidecar` distinguishes this process from all other sidecars.
pub async fn run(
    balancer: Arc<Balancer>,
    store: Arc<dyn PlacementStore>,
    sidecar: u64,
    shutdown: CancellationToken,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let used_since = Instant::now() - IDLE;
        let pools = balancer.directory.all();
        let used = pools.iter().filter_map(|entry| Some((&entry.pool, entry.prefixes.as_ref()?)));
        let used = used.filter(|(_, prefixes)| prefixes.is_used_since(used_since));
        let (store, failed) = (&*store, &balancer.metrics.prefixes.exchanges_failed);
        stream::iter(used)
            .for_each_concurrent(CONCURRENCY, |(pool, prefixes)| async move {
                if let Err(error) = prefixes.exchange(pool, store, sidecar).await {
                    debug!(%error, pool = %pool.id, "placements wait for the store");
                    failed.inc();
                }
            })
            .await;
    }
}
