//! Opens the store that the configuration names.

use std::sync::Arc;

use evenkeel_config::{Config, StoreConfig};
use evenkeel_domain::{StoreError, activity::StoreKind, settings::Topology};
use evenkeel_store::{
    Store,
    activity::ActivityStore,
    changes::ChangeStore,
    counters::Counters,
    drains::DRAINS_MAX,
    holders::HolderStore,
    memory::{
        MemoryActivity, MemoryChanges, MemoryCounters, MemoryHolders, MemoryMap, MemoryRecords, MemoryStore,
        MemoryUsage,
    },
    overrides::OVERRIDES_MAX,
    placements::PlacementStore,
    records::RecordStore,
    redis::{Background, RedisActivity, RedisClient, RedisStore, RedisUsage},
    resilient::ResilientStore,
    ticket_keys::TicketKeyStore,
    usage::{UsageBounds, UsageStore},
    versioned::VersionedMap,
};
use evenkeel_telemetry::Metrics;
use tracing::{info, warn};

/// The interfaces to everything in one store, apart from usage and activity.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) counters: Arc<dyn Counters>,
    pub(crate) holders: Arc<dyn HolderStore>,
    pub(crate) records: Arc<dyn RecordStore>,
    pub(crate) drains: Arc<dyn VersionedMap>,
    pub(crate) overrides: Arc<dyn VersionedMap>,
    pub(crate) changes: Arc<dyn ChangeStore>,
    /// `None` if this sidecar shares nothing.
    pub(crate) ticket_keys: Option<Arc<dyn TicketKeyStore>>,
    /// `None` if this sidecar shares nothing.
    pub(crate) placements: Option<Arc<dyn PlacementStore>>,
}

pub(crate) async fn open_store(
    config: &Config,
    metrics: &Arc<Metrics>,
    background: &Background,
) -> anyhow::Result<Opened> {
    let (ttl, metrics) = (config.holder_ttl(), Arc::clone(metrics));
    let Background { tasks, shutdown } = background;
    match &config.store {
        StoreConfig::Memory => {
            metrics.store_up.set(1);
            let (store, counters) = (Arc::new(MemoryStore::new(ttl)), Arc::<MemoryCounters>::default());
            let records = Arc::new(MemoryRecords::new(Arc::clone(&counters)));
            Ok(Opened {
                store,
                counters,
                holders: Arc::<MemoryHolders>::default(),
                records,
                drains: Arc::new(MemoryMap::new(DRAINS_MAX)),
                overrides: Arc::new(MemoryMap::new(OVERRIDES_MAX)),
                changes: Arc::<MemoryChanges>::default(),
                ticket_keys: None,
                placements: None,
            })
        }
        StoreConfig::Redis(options) => {
            let redis = Arc::new(RedisStore::new(options, ttl, Arc::clone(&metrics), background)?);
            let (counters, holders) = (redis.clone(), redis.clone());
            let store =
                ResilientStore::new(redis.clone(), counters, holders, ttl, metrics, tasks, shutdown.clone());
            store.connect().await;
            let check = check_eviction(Arc::clone(&redis));
            tasks.spawn(shutdown.clone().run_until_cancelled_owned(check));
            Ok(Opened {
                counters: store.clone(),
                holders: store.clone(),
                store,
                records: redis.clone(),
                drains: Arc::new(redis.map("drains", DRAINS_MAX)),
                overrides: Arc::new(redis.map("overrides", OVERRIDES_MAX)),
                changes: redis.clone(),
                ticket_keys: Some(redis.clone()),
                placements: Some(redis),
            })
        }
    }
}

/// Logs a warning if Redis may evict keys, as soon as Redis can be asked.
async fn check_eviction(redis: Arc<RedisStore>) {
    let Some(mut found) = redis.found_again() else { return };
    loop {
        match redis.evicting_policy().await {
            Ok(None) => return,
            Ok(Some(policy)) => {
                warn!(
                    policy,
                    "Redis may evict keys when its memory is full: set maxmemory-policy to noeviction"
                );
                return;
            }
            Err(error @ (StoreError::Script { .. } | StoreError::Corrupt { .. })) => {
                info!(%error, "Redis does not say whether it may evict keys: its maxmemory-policy must be noeviction");
                return;
            }
            Err(_) => {
                if found.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Opens the stores of usage and activity. They share connections of their own to Redis, so that a query over a month of
/// usage does not delay a KeepAlive.
pub(crate) fn open_usage_and_activity(
    config: &Config,
    metrics: &Arc<Metrics>,
    background: &Background,
) -> anyhow::Result<(Arc<dyn UsageStore>, Arc<dyn ActivityStore>)> {
    let bounds = UsageBounds::from(&config.ledger);
    Ok(match &config.store {
        StoreConfig::Memory => (Arc::new(MemoryUsage::new(bounds)), Arc::new(MemoryActivity::default())),
        StoreConfig::Redis(options) => {
            let client = Arc::new(RedisClient::new(options, Arc::clone(metrics), background)?);
            (Arc::new(RedisUsage::new(Arc::clone(&client), bounds)), Arc::new(RedisActivity::new(client)))
        }
    })
}

/// Returns the kind of store that operators see on the page and in `evenkeel sidecars`.
pub(crate) fn store_kind(config: &StoreConfig) -> StoreKind {
    match config {
        StoreConfig::Memory => StoreKind::Memory,
        StoreConfig::Redis(options) if options.topology == Topology::Cluster => StoreKind::RedisCluster,
        StoreConfig::Redis(_) => StoreKind::Redis,
    }
}
