//! The shared store: Lua scripts on Redis or Redis Cluster. Only this module uses the redis crate.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use call::Call;
use evenkeel_domain::{
    HolderId, LeaseId, PoolId, StoreError,
    choice::Load,
    clock::{DAY_MS, unix_ms},
    settings::{RedisOptions, Topology},
    verdict::{Basis, Verdict},
};
use evenkeel_telemetry::{
    Metrics,
    traces::{Database, StoreSpan},
};
use keys::Keys;
use lane::Lane;
use link::Way;
use operation::{Kind, Op, PoolWork};
use orders::Orders;
use parking_lot::RwLock;
use redis::Value;
use script::{PROBE, REAP, RECOUNT, TABLE};
use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;

use super::{
    Admit, Held, Lease, Pool, Reaped, Repairs, Store, Table,
    name_text::{decode_pool, encode_pool},
    verdict,
};

mod access;
mod activity;
mod admission;
mod batch;
mod call;
mod causes;
mod changes;
mod circuit;
mod client;
mod cluster;
mod connections;
mod count;
mod counter_operation;
mod counters;
mod encode;
mod holders;
mod keep_alive;
mod keys;
mod lane;
mod link;
mod node;
mod operation;
mod orders;
mod placements;
mod records;
mod routes;
mod script;
mod sentinel;
mod slot;
mod ticket_keys;
mod usage;
mod versioned;
mod windows;

pub use activity::RedisActivity;
pub use client::RedisClient;
pub use link::Background;
pub use usage::RedisUsage;
pub use versioned::RedisMap;

/// Expiry of a pool's keys. Scripts set it on new keys; KeepAlives and recounts renew it. It removes the keys of an
/// installation whose sidecars are all gone.
const KEY_EXPIRY_MS: u64 = 3_600_000;
/// Approximate maximum number of leases that one reap gives back. It bounds how long the call blocks Redis.
const REAP_MAX: usize = 1000;
/// Maximum number of leases in a pool whose unread tokens are compared with the leases. The comparison reads all leases in
/// one call, about 0.4 µs for each. The tokens of a larger pool are right as long as its keys are not deleted by hand.
const COMPARED_LEASES_MAX: usize = 16_384;
/// How long a pool remains listed after its last registration.
const POOL_LISTED_MS: u64 = DAY_MS;
/// Number of lanes at which creating another lane also drops idle lanes.
const LANES_MAX: usize = 8192;
const POOLS_MAX: isize = 10_000;

/// The tables that all sidecars share.
pub struct RedisStore {
    shared: Arc<Shared>,
    lanes: RwLock<HashMap<Arc<Pool>, Arc<Lane<PoolWork>>>>,
    counters: counters::Lanes,
    /// Maximum number of leases in one call of a KeepAlive.
    list_step: AtomicUsize,
}

/// The state that all lanes share.
struct Shared {
    client: RedisClient,
    holder_ttl_ms: u64,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    clock: Clock,
    database: Database,
    /// Number of endpoints from which a roster is kept in order in Redis.
    ordered_min: AtomicUsize,
}

/// The time for counters, in ms since the Unix epoch. 0: Redis's clock.
#[derive(Default)]
struct Clock(AtomicU64);

impl Clock {
    /// Appends the time as an argument: empty for Redis's clock.
    fn tell(&self, call: &mut Call) {
        match self.0.load(Ordering::Relaxed) {
            0 => call.arg(""),
            set => call.number(set),
        };
    }

    /// Returns the approximate time, for the day under which a reservation is recorded.
    fn about_now_ms(&self) -> u64 {
        match self.0.load(Ordering::Relaxed) {
            0 => unix_ms(),
            set => set,
        }
    }
}

impl Shared {
    /// Like [`RedisClient::run`], for a reply packed into one text.
    async fn run_packed(&self, call: &Call, way: Way) -> Result<call::Numbers, StoreError> {
        let started = Instant::now();
        let reply = call.run_packed(&self.client.link, way).await;
        self.client.observe(call.name(), started, reply.as_ref().err());
        reply
    }

    /// Starts the span of an operation on the request path, if its trace is sampled.
    fn span(&self, name: &'static str, script: &'static str) -> Option<Box<StoreSpan>> {
        StoreSpan::begin(name, script, &self.database)
    }
}

impl RedisStore {
    /// Prepares the store, and starts to connect. A holder counts as dead after `holder_ttl` without a KeepAlive.
    ///
    /// # Errors
    /// If a URL is invalid.
    pub fn new(
        options: &RedisOptions,
        holder_ttl: Duration,
        metrics: Arc<Metrics>,
        background: &Background,
    ) -> Result<Self, StoreError> {
        let client = RedisClient::for_requests(options, Arc::clone(&metrics), background)?;
        let tasks = background.tasks.clone();
        let keys = client.keys.clone();
        let holder_ttl_ms = holder_ttl.as_millis() as u64;
        let shared = Arc::new(Shared {
            client,
            holder_ttl_ms,
            metrics,
            tasks,
            clock: Clock::default(),
            database: Database::Redis(server(options)),
            ordered_min: AtomicUsize::new(orders::ORDERED_MIN),
        });
        let counters = counters::Lanes::new(options.topology == Topology::Cluster, keys, Arc::clone(&shared));
        let list_step = AtomicUsize::new(keep_alive::STEP);
        Ok(Self { shared, lanes: RwLock::default(), counters, list_step })
    }

    /// Makes counters use this time, in ms since the Unix epoch, instead of Redis's clock. For tests on virtual time.
    pub fn set_clock(&self, now_ms: u64) {
        self.shared.clock.0.store(now_ms, Ordering::Relaxed);
    }

    /// Makes KeepAlives take steps of this many leases. For tests of steps with few leases.
    pub fn set_list_step(&self, leases: usize) {
        self.list_step.store(leases, Ordering::Relaxed);
    }

    /// Makes rosters of this many endpoints large. For tests of large rosters with few endpoints.
    pub fn set_ordered_min(&self, endpoints: usize) {
        self.shared.ordered_min.store(endpoints, Ordering::Relaxed);
    }

    fn lane(&self, pool: &Arc<Pool>) -> Arc<Lane<PoolWork>> {
        if let Some(lane) = self.lanes.read().get(pool) {
            return Arc::clone(lane);
        }
        let mut lanes = self.lanes.write();
        // Pools come and go. If no operation of a lane waits or is in progress, only this map references the lane. The
        // next operation of its pool creates the lane again.
        if lanes.len() >= LANES_MAX {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        let lane = lanes.entry(Arc::clone(pool)).or_insert_with(|| {
            let (keys, shared) = (self.keys().pool(pool), Arc::clone(&self.shared));
            let tasks = shared.tasks.clone();
            let orders = Orders::default();
            Lane::new(PoolWork { pool: Arc::clone(pool), keys, shared, orders }, tasks)
        });
        Arc::clone(lane)
    }

    async fn command(&self, operation: &'static str, cmd: &redis::Cmd) -> Result<Value, StoreError> {
        self.shared.client.command(operation, cmd).await
    }

    fn keys(&self) -> &Keys {
        &self.shared.client.keys
    }

    /// Returns Redis's `maxmemory_policy` if that policy allows eviction, to warn operators at start.
    ///
    /// # Errors
    /// If Redis is unavailable.
    pub async fn evicting_policy(&self) -> Result<Option<String>, StoreError> {
        let value = self.command("info", redis::cmd("INFO").arg("memory")).await?;
        let text: String = redis::from_redis_value(value).unwrap_or_default();
        let policy = text.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        Ok(policy.filter(|policy| *policy != "noeviction").map(str::to_owned))
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn admit(&self, admit: Admit) -> Result<Verdict, StoreError> {
        let (answer, answered) = oneshot::channel();
        let Admit { roster, tie, prompt, .. } = admit;
        let kind = Kind::Admit { roster, tie, prompt, answer };
        let span = self.shared.span("evenkeel.store commit", "commit");
        self.lane(&admit.pool).submit(Op { holder: admit.holder, lease: admit.lease, kind, span });
        Ok(verdict(answered.await.unwrap_or_else(|_| Err(stopped()))?, Basis::Shared))
    }

    async fn settle(&self, pool: &Arc<Pool>, holder: &HolderId, lease: LeaseId) -> Result<bool, StoreError> {
        let (answer, answered) = oneshot::channel();
        let span = self.shared.span("evenkeel.store commit", "commit");
        let kind = Kind::Settle { answer };
        self.lane(pool).submit(Op { holder: holder.clone(), lease, kind, span });
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn first_token(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        lease: LeaseId,
    ) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        let kind = Kind::FirstToken { answer };
        self.lane(pool).submit(Op { holder: holder.clone(), lease, kind, span: None });
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn keep_alive(
        &self,
        pool: &Arc<Pool>,
        holder: &HolderId,
        held: &Held,
    ) -> Result<Repairs, StoreError> {
        self.apply_list(pool, holder, held).await
    }

    async fn reap(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Reaped, StoreError> {
        let lane = self.lane(pool);
        let keys = &lane.work.keys;
        let mut call =
            Call::new(&REAP, &[&keys.loads()[..], &[&keys.holders, &keys.leases(holder)]].concat());
        call.arg(holder.as_str()).number(REAP_MAX);
        let mut reply = self.shared.client.run(&call, Way::Beside).await?;
        reply.integer()?;
        Ok(Reaped { leases: reply.count()?, more: reply.count()? == 1 })
    }

    async fn table(&self, pool: &Arc<Pool>) -> Result<Table, StoreError> {
        let lane = self.lane(pool);
        let keys = &lane.work.keys;
        let call = Call::new(&TABLE, &[&keys.loads()[..], &[&keys.holders]].concat());
        let mut reply = self.shared.client.run(&call, Way::Beside).await?;
        let now_ms = reply.count()?;
        // Another writer of a Higress table may leave counts below 0.
        let in_flight = reply.pairs()?.into_iter().filter(|(_, n)| *n > 0.0);
        let mut loads: BTreeMap<Arc<str>, Load> = in_flight
            .map(|(endpoint, n)| (endpoint.into(), Load { in_flight: n as u64, unread: 0 }))
            .collect();
        for (endpoint, tokens) in reply.pairs()? {
            if let Some(load) = loads.get_mut(endpoint.as_str()) {
                load.unread = tokens as u64;
            }
        }
        let holders = reply.pairs()?.into_iter();
        let holders = holders.filter_map(|(id, at)| Some((HolderId::new(&id).ok()?, at as u64))).collect();
        Ok(Table { current: true, now_ms, loads, holders })
    }

    async fn recount(&self, pool: &Arc<Pool>) -> Result<u64, StoreError> {
        if pool.higress_table {
            return Ok(0); // the counts include requests of other gateways, which have no leases
        }
        let table = self.table(pool).await?;
        let lane = self.lane(pool);
        let keys = &lane.work.keys;
        let leases: Vec<String> = table.holders.keys().map(|holder| keys.leases(holder)).collect();
        let all: Vec<&str> = keys
            .loads()
            .into_iter()
            .chain([&*keys.holders])
            .chain(leases.iter().map(String::as_str))
            .collect();
        let mut call = Call::new(&RECOUNT, &all);
        call.number(KEY_EXPIRY_MS).number(self.shared.holder_ttl_ms).number(COMPARED_LEASES_MAX);
        for holder in table.holders.keys() {
            call.arg(holder.as_str());
        }
        let mut reply = self.shared.client.run(&call, Way::Beside).await?;
        reply.integer()?;
        Ok(u64::try_from(reply.integer()?).unwrap_or(0)) // -1: holders came or went, and the next recount corrects
    }

    async fn leases(&self, pool: &Arc<Pool>, holder: &HolderId) -> Result<Vec<Lease>, StoreError> {
        self.read_leases(pool, holder).await
    }

    async fn register(&self, pool: &Arc<Pool>) -> Result<(), StoreError> {
        let (key, now_ms) = (self.keys().pools(), unix_ms());
        let mut add = redis::cmd("ZADD");
        add.arg(&key).arg(now_ms).arg(encode_pool(&pool.id));
        self.command("register", &add).await?;
        let mut expire = redis::cmd("PEXPIRE");
        expire.arg(&key).arg(POOL_LISTED_MS);
        self.command("register", &expire).await.map(drop)
    }

    async fn pools(&self) -> Result<Vec<PoolId>, StoreError> {
        let key = self.keys().pools();
        let mut trim = redis::cmd("ZREMRANGEBYSCORE");
        trim.arg(&key).arg("-inf").arg(unix_ms().saturating_sub(POOL_LISTED_MS));
        self.command("pools", &trim).await?;
        let mut list = redis::cmd("ZREVRANGE");
        list.arg(&key).arg(0).arg(POOLS_MAX - 1);
        let value = self.command("pools", &list).await?;
        let names: Vec<String> = redis::from_redis_value(value)
            .map_err(|e| StoreError::Corrupt { script: "pools", detail: e.to_string() })?;
        let mut pools: Vec<PoolId> = names.iter().filter_map(|name| decode_pool(name)).collect();
        pools.sort();
        Ok(pools)
    }

    async fn announce(&self, instance: &str, ttl: Duration) -> Result<usize, StoreError> {
        let (key, now_ms) = (self.keys().sidecars(), unix_ms());
        let mut add = redis::cmd("ZADD");
        add.arg(&key).arg(now_ms + ttl.as_millis() as u64).arg(instance);
        self.command("announce", &add).await?;
        let mut trim = redis::cmd("ZREMRANGEBYSCORE");
        trim.arg(&key).arg("-inf").arg(now_ms);
        self.command("announce", &trim).await?;
        let mut expire = redis::cmd("PEXPIRE");
        expire.arg(&key).arg(KEY_EXPIRY_MS);
        self.command("announce", &expire).await?;
        let alive = self.command("announce", redis::cmd("ZCARD").arg(&key)).await?;
        redis::from_redis_value(alive)
            .map_err(|e| StoreError::Corrupt { script: "announce", detail: e.to_string() })
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.shared.client.link.connect().await?;
        let call = Call::new(&PROBE, &[&self.keys().probe()]);
        self.shared.client.run(&call, Way::Request).await.map(drop)
    }

    fn is_up(&self) -> bool {
        self.shared.client.link.is_up()
    }

    fn losses(&self) -> u64 {
        self.shared.client.link.losses()
    }

    fn found_again(&self) -> Option<watch::Receiver<u64>> {
        Some(self.shared.client.link.found_again())
    }
}

/// Returns the host and port of Redis if it is a single server with a TCP address.
fn server(options: &RedisOptions) -> Option<(Arc<str>, u16)> {
    let ([url], Topology::Single) = (&options.urls[..], &options.topology) else { return None };
    let url = redis::parse_redis_url(url)?;
    Some((url.host_str()?.into(), url.port().unwrap_or(6379)))
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the sidecar is stopping".to_owned())
}

/// Whether the Redis client accepts a URL.
#[must_use]
pub fn is_url(text: &str) -> bool {
    redis::parse_redis_url(text).is_some()
}
