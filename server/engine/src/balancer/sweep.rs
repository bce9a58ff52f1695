//! The sweep: reads every pool's table four times per KeepAlive interval and gives back the leases of dead holders. If
//! the store fails, this sidecar therefore has a recent table. Every sidecar sweeps every registered pool, because a
//! pool may outlive the sidecar that used it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use evenkeel_domain::{PoolId, StoreError, activity::RepairKind};
use evenkeel_store::Table;
use evenkeel_telemetry::Metrics;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Balancer, pool_entry::PoolEntry, view::PoolView};

/// Maximum number of pools swept concurrently.
const CONCURRENCY: usize = 16;
/// Maximum number of reap calls for one holder in one sweep. The next sweep continues.
const REAPS_MAX: usize = 64;
/// Every n-th sweep (one per KeepAlive interval) also recounts, registers pools and reads the registry of pools.
const SLOW_EVERY: u64 = 4;

/// The views of the last sweep, for readers and for watchers.
pub struct Views {
    views: ArcSwap<BTreeMap<PoolId, Arc<PoolView>>>,
    changed: watch::Sender<Instant>,
}

impl Default for Views {
    fn default() -> Self {
        Self { views: ArcSwap::default(), changed: watch::Sender::new(Instant::now()) }
    }
}

impl Views {
    /// Returns all pools as of the last sweep.
    #[must_use]
    pub fn all(&self) -> Arc<BTreeMap<PoolId, Arc<PoolView>>> {
        self.views.load_full()
    }

    /// Returns a receiver that is notified at the end of each sweep.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Instant> {
        self.changed.subscribe()
    }

    /// Returns when the last sweep ended.
    #[must_use]
    pub fn swept_at(&self) -> Instant {
        *self.changed.borrow()
    }

    /// Returns the time since the end of the last sweep.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.changed.borrow().elapsed()
    }
}

/// Sweeps every `interval` until `shutdown`.
pub async fn run(
    balancer: Arc<Balancer>,
    views: Arc<Views>,
    metrics: Arc<Metrics>,
    interval: Duration,
    shutdown: CancellationToken,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    for sweep in 0_u64.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let slow = sweep % SLOW_EVERY == 0;
        if slow {
            slow_work(&balancer).await;
        }
        let entries = balancer.directory.all();
        let all: BTreeMap<PoolId, Arc<PoolView>> = futures::stream::iter(entries)
            .map(|entry| sweep_pool(&balancer, &metrics, entry, slow))
            .buffer_unordered(CONCURRENCY)
            .filter_map(|view| async { view.map(|view| (view.id.clone(), Arc::new(view))) })
            .collect()
            .await;
        views.views.store(Arc::new(all));
        views.changed.send_replace(Instant::now());
    }
}

async fn slow_work(balancer: &Balancer) {
    balancer.store.forget_silent_holders();
    let used = balancer.directory.all().into_iter().filter(|entry| entry.take_used());
    futures::stream::iter(used)
        .for_each_concurrent(CONCURRENCY, |entry| async move {
            entry.mark_busy();
            if let Err(error) = balancer.store.register(&entry.pool).await {
                debug!(%error, pool = %entry.pool.id, "pool not registered");
                entry.mark_used();
            }
        })
        .await;
    match balancer.store.pools().await {
        Ok(pools) => pools.iter().for_each(|id| drop(balancer.directory.adopt(id))),
        Err(error) => debug!(%error, "cannot read the registry of pools"),
    }
}

async fn sweep_pool(
    balancer: &Balancer,
    metrics: &Metrics,
    entry: Arc<PoolEntry>,
    recount: bool,
) -> Option<PoolView> {
    let store = &balancer.store;
    match sweep_table(balancer, metrics, &entry).await {
        Ok(table) => {
            // A pool that nobody uses has nothing to recount, and many pools may be unused.
            let is_empty = table.holders.is_empty() && table.loads.is_empty();
            if recount && table.current && !is_empty {
                match store.recount(&entry.pool).await {
                    Ok(0) => {}
                    Ok(corrected) => {
                        metrics.repairs.recounted.inc_by(corrected);
                        balancer.recorder.repaired(RepairKind::Recounted, &entry.pool.id, None, corrected);
                        warn!(pool = %entry.pool.id, corrected, "corrected counts that differed from the number of leases");
                    }
                    Err(error) => debug!(%error, pool = %entry.pool.id, "pool not recounted"),
                }
            }
            if !table.current || !is_empty {
                entry.mark_busy();
            }
            Some(PoolView::new(&entry, &table))
        }
        Err(error) => {
            entry.mark_busy();
            debug!(%error, pool = %entry.pool.id, "pool not swept");
            None
        }
    }
}

async fn sweep_table(balancer: &Balancer, metrics: &Metrics, entry: &PoolEntry) -> Result<Table, StoreError> {
    let store = &balancer.store;
    let table = store.table(&entry.pool).await?;
    let dead: Vec<_> = table.holders.iter().filter(|(_, at)| **at <= table.now_ms).collect();
    if dead.is_empty() {
        return Ok(table);
    }
    for (holder, _) in dead {
        let mut leases = 0;
        for _ in 0..REAPS_MAX {
            let reaped = store.reap(&entry.pool, holder).await?;
            leases += reaped.leases;
            if !reaped.more {
                break;
            }
        }
        if leases > 0 {
            metrics.leases_reaped.inc_by(leases);
            balancer.recorder.repaired(RepairKind::Reaped, &entry.pool.id, Some(holder), leases);
            info!(pool = %entry.pool.id, %holder, leases, "returned the leases of a dead holder");
        }
    }
    store.table(&entry.pool).await
}
