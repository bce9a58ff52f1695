//! Any interleaving of operations has the same results in memory and on Redis, whether or not Redis keeps rosters in order. In both stores, the load of each endpoint
//! equals the sum over its live leases and is never negative.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_domain::{Roster, choice::Prompt, verdict::Verdict};
use evenkeel_store::{Admit, Held, HeldLease, Pool, Store, memory::MemoryStore, redis::RedisStore};
use proptest::prelude::*;

use crate::support::{
    redis::Redis,
    store::{admission, holder, lease, picked, pool, redis_options, redis_store, roster},
};

const HOLDERS: [&str; 3] = ["g1", "g2", "g3"];
const ENDPOINTS: [&str; 4] = ["a", "b", "c", "d"];

/// One step. Its numbers are reduced to existing items when the step runs.
#[derive(Clone, Debug)]
enum Step {
    Admit {
        holder: usize,
        lease: u64,
        tie: u32,
        roster: usize,
        prompt: Option<Prompt>,
    },
    FirstToken {
        holder: usize,
        lease: u64,
    },
    Settle {
        holder: usize,
        lease: u64,
    },
    /// The holder lists some of the leases 1..=8, each with or without its endpoint, and with or without unread tokens.
    /// Bit n stands for lease n+1.
    KeepAlive {
        holder: usize,
        listed: u8,
        unknown: u8,
        read: u8,
        endpoint: usize,
        through: u64,
    },
    /// The holder sends nothing until its deadline has passed, and is reaped.
    Die {
        holder: usize,
    },
    /// A sidecar reaps a holder that may be alive.
    Reap {
        holder: usize,
    },
    Recount,
    /// Several operations in one script call.
    Batch {
        ops: Vec<BatchOp>,
        roster: usize,
        by_work: bool,
    },
    ForgetScripts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Settle,
    FirstToken,
    Admit,
}

/// In the order in which the script applies them.
const KINDS: [Kind; 3] = [Kind::Settle, Kind::FirstToken, Kind::Admit];

#[derive(Clone, Debug)]
struct BatchOp {
    holder: usize,
    lease: u64,
    tie: u32,
    kind: Kind,
    prompt: Prompt,
}

/// The answer to an operation: whether it released a lease, nothing, or a verdict.
type Answer = Result<Verdict, Option<bool>>;

fn prompt() -> impl Strategy<Value = Prompt> {
    let tokens = prop_oneof![Just(0_u64), 1..2000_u64, Just(1000)];
    // Multiples give equal scores more often.
    let part = prop_oneof![Just(100_u64), Just(1000), 1..3000_u64];
    let cached = prop::collection::btree_map(0..ENDPOINTS.len(), part, 0..3);
    (tokens, cached).prop_map(|(tokens, cached)| Prompt {
        tokens,
        cached: cached.into_iter().map(|(i, part)| (ENDPOINTS[i].into(), part)).collect(),
    })
}

fn step() -> impl Strategy<Value = Step> {
    let (holder, lease) = (0..HOLDERS.len(), 1_u64..=8);
    prop_oneof![
        6 => (holder.clone(), lease.clone(), any::<u32>(), 0..3_usize, prop::option::weighted(0.7, prompt()))
            .prop_map(|(holder, lease, tie, roster, prompt)| Step::Admit { holder, lease, tie, roster, prompt }),
        3 => (holder.clone(), lease.clone()).prop_map(|(holder, lease)| Step::FirstToken { holder, lease }),
        4 => (holder.clone(), lease.clone()).prop_map(|(holder, lease)| Step::Settle { holder, lease }),
        2 => (holder.clone(), any::<[u8; 3]>(), 0..ENDPOINTS.len(), 0_u64..=9)
            .prop_map(|(holder, [listed, unknown, read], endpoint, through)| Step::KeepAlive {
                holder,
                listed,
                unknown,
                read,
                endpoint,
                through,
            }),
        1 => holder.clone().prop_map(|holder| Step::Die { holder }),
        1 => holder.prop_map(|holder| Step::Reap { holder }),
        1 => Just(Step::Recount),
        3 => (prop::collection::vec(batch_op(), 1..12), 0..3_usize, any::<bool>())
            .prop_map(|(ops, roster, by_work)| Step::Batch { ops, roster, by_work }),
        1 => Just(Step::ForgetScripts),
    ]
}

fn batch_op() -> impl Strategy<Value = BatchOp> {
    let kind = prop::sample::select(vec![Kind::Settle, Kind::FirstToken, Kind::Admit, Kind::Admit]);
    (0..HOLDERS.len(), 1_u64..=8, any::<u32>(), kind, prompt())
        .prop_map(|(holder, lease, tie, kind, prompt)| BatchOp { holder, lease, tie, kind, prompt })
}

fn rosters() -> [Arc<Roster>; 3] {
    [
        roster(&[("a", 1.0, 2), ("b", 1.0, 2), ("c", 1.0, 2)]),
        roster(&[("a", 0.3, 0), ("b", 1.7, 0), ("c", 1.0, 3), ("d", 1.0, 1)]),
        roster(&[("d", 1.0, 1)]),
    ]
}

struct Both {
    memory: MemoryStore,
    /// Two sidecars on the same pool, which take turns. The second sends its rosters with each batch.
    sidecars: [Arc<RedisStore>; 2],
    turns: std::cell::Cell<u32>,
    server: Arc<Redis>,
    prefix: String,
    pool: Arc<Pool>,
    rosters: [Arc<Roster>; 3],
}

impl Both {
    fn redis(&self) -> &RedisStore {
        &self.sidecars[(self.turns.get() & 1) as usize]
    }

    async fn step(&self, step: &Step) -> Result<(), TestCaseError> {
        let pool = &self.pool;
        match *step {
            Step::Admit { holder: h, lease: number, tie, roster, ref prompt } => {
                let admit = || Admit {
                    prompt: prompt.clone(),
                    ..admission(pool, &self.rosters[roster], HOLDERS[h], number, tie)
                };
                let (m, r) = (self.memory.admit(admit()).await, self.redis().admit(admit()).await);
                prop_assert_eq!(m.unwrap(), r.unwrap());
            }
            Step::Settle { holder: h, lease: number } => {
                let (h, number) = (holder(HOLDERS[h]), lease(number));
                let m = self.memory.settle(pool, &h, number).await.unwrap();
                prop_assert_eq!(m, self.redis().settle(pool, &h, number).await.unwrap());
            }
            Step::FirstToken { holder: h, lease: number } => {
                let (h, number) = (holder(HOLDERS[h]), lease(number));
                self.memory.first_token(pool, &h, number).await.unwrap();
                self.redis().first_token(pool, &h, number).await.unwrap();
            }
            Step::KeepAlive { holder: h, listed, unknown, read, endpoint, through } => {
                let entry = |bit: u64| HeldLease {
                    id: lease(bit + 1),
                    endpoint: (unknown & (1 << bit) == 0).then(|| ENDPOINTS[endpoint].into()),
                    unread: if read & (1 << bit) == 0 { 500 } else { 0 },
                };
                let bits = (0..8).filter(|bit| listed & (1 << bit) != 0);
                let held =
                    Held { issued_through: through, leases: bits.map(entry).collect(), ..Held::default() };
                let h = holder(HOLDERS[h]);
                let m = self.memory.keep_alive(pool, &h, &held).await.unwrap();
                prop_assert_eq!(m, self.redis().keep_alive(pool, &h, &held).await.unwrap());
            }
            Step::Die { holder: h } => {
                let key = format!("{}:ek2:{{r|c}}:holders", self.prefix);
                self.server.command(&["ZADD", &key, "XX", "1", HOLDERS[h]]);
                self.memory.expire(pool, &holder(HOLDERS[h]));
                self.reap(h).await?;
            }
            Step::Batch { ref ops, roster, by_work } => self.batch(ops, roster, by_work).await?,
            Step::Reap { holder: h } => self.reap(h).await?,
            Step::Recount => prop_assert_eq!(self.redis().recount(pool).await.unwrap(), 0),
            Step::ForgetScripts => drop(self.server.command(&["SCRIPT", "FLUSH"])),
        }
        Ok(())
    }

    /// Runs operations in one batch. All of them are polled before anything else runs, so they all wait when the lane
    /// (the queue that batches calls to Redis) takes its batch.
    async fn batch(&self, ops: &[BatchOp], roster: usize, by_work: bool) -> Result<(), TestCaseError> {
        let mut named = BTreeSet::new();
        let ops: Vec<&BatchOp> = ops.iter().filter(|op| named.insert((op.holder, op.lease))).collect();
        // Admissions of one batch have the tie of the first.
        let tie = ops.iter().find(|op| op.kind == Kind::Admit).map_or(0, |op| op.tie);
        let apply = async |store: &dyn Store, op: &BatchOp| -> Answer {
            let (h, number) = (holder(HOLDERS[op.holder]), lease(op.lease));
            match op.kind {
                Kind::Settle => Err(Some(store.settle(&self.pool, &h, number).await.unwrap())),
                Kind::FirstToken => {
                    store.first_token(&self.pool, &h, number).await.unwrap();
                    Err(None)
                }
                Kind::Admit => {
                    let (roster, who) = (&self.rosters[roster], HOLDERS[op.holder]);
                    let prompt = by_work.then(|| op.prompt.clone());
                    let admit = Admit { prompt, ..admission(&self.pool, roster, who, op.lease, tie) };
                    Ok(store.admit(admit).await.unwrap())
                }
            }
        };
        let answers = futures::future::join_all(ops.iter().map(|op| apply(self.redis(), op))).await;
        // Within each kind, holders are in order of appearance.
        let mut holders: Vec<usize> = Vec::new();
        for op in &ops {
            if !holders.contains(&op.holder) {
                holders.push(op.holder);
            }
        }
        for kind in KINDS {
            for group in &holders {
                for (op, redis) in ops.iter().zip(&answers) {
                    if op.holder == *group && op.kind == kind {
                        prop_assert_eq!(&apply(&self.memory, op).await, redis);
                    }
                }
            }
        }
        Ok(())
    }

    async fn reap(&self, h: usize) -> Result<(), TestCaseError> {
        let h = holder(HOLDERS[h]);
        let m = self.memory.reap(&self.pool, &h).await.unwrap();
        prop_assert_eq!(m, self.redis().reap(&self.pool, &h).await.unwrap());
        Ok(())
    }

    /// Checks that both stores are equal, that each load equals its live leases, and that no number is negative.
    async fn check(&self) -> Result<(), TestCaseError> {
        let memory = summary(&self.memory, &self.pool).await?;
        let redis = summary(self.redis(), &self.pool).await?;
        prop_assert_eq!(memory, redis);
        // table() could hide a negative number, so read the hashes themselves.
        for hash in ["in-flight", "unread"] {
            let key = format!("{}:ek2:{{r|c}}:{hash}", self.prefix);
            let mut raw: BTreeMap<String, String> =
                redis::from_redis_value(self.server.command(&["HGETALL", &key])).unwrap();
            raw.remove(""); // the filler field of such hashes
            prop_assert!(raw.values().all(|n| n.parse::<u64>().is_ok_and(|n| n > 0)), "{}: {:?}", hash, raw);
        }
        Ok(())
    }
}

type Loads = BTreeMap<String, (u64, u64)>;
type Summary = (Loads, BTreeSet<(String, u64, String, u64)>, Vec<String>);

async fn summary(store: &dyn Store, pool: &Arc<Pool>) -> Result<Summary, TestCaseError> {
    let table = store.table(pool).await.unwrap();
    let (mut leases, mut sums) = (BTreeSet::new(), Loads::new());
    for h in HOLDERS {
        for lease in store.leases(pool, &holder(h)).await.unwrap() {
            let (in_flight, unread) = sums.entry(lease.endpoint.to_string()).or_default();
            *in_flight += 1;
            *unread += lease.unread;
            leases.insert((h.to_owned(), lease.id.get(), lease.endpoint.to_string(), lease.unread));
        }
    }
    let loads: Loads =
        table.loads.iter().map(|(e, load)| (e.to_string(), (load.in_flight, load.unread))).collect();
    prop_assert_eq!(&loads, &sums);
    Ok((loads, leases, table.holders.keys().map(ToString::to_string).collect()))
}

#[test]
fn memory_and_redis_agree_on_every_interleaving() {
    let server = Arc::new(Redis::start());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cases = AtomicU64::new(0);
    let options = redis_options(vec![server.url()], false, "");
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    // Lists of at most 8 leases also take steps if a step has few.
    let list_step = prop_oneof![Just(1000_usize), 1..4_usize];
    // From this number of endpoints, Redis keeps a roster in order. There is place for two of the rosters.
    let ordered_min = prop_oneof![1 => Just(1000_usize), 3 => 1..5_usize];
    let sample = (prop::collection::vec(step(), 1..60), list_step, ordered_min, any::<u32>());
    proptest!(config, |((steps, list_step, ordered_min, turns) in sample)| {
        let prefix = format!("case{}", cases.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(async {
            let ttl = Duration::from_secs(600);
            let mut options = options.clone();
            options.key_prefix.clone_from(&prefix);
            let both = Both {
                memory: MemoryStore::new(ttl),
                sidecars: [redis_store(&options, ttl).await, redis_store(&options, ttl).await],
                turns: std::cell::Cell::new(turns),
                server: Arc::clone(&server),
                prefix,
                pool: pool("r", "c"),
                rosters: rosters(),
            };
            both.sidecars.iter().for_each(|sidecar| sidecar.set_list_step(list_step));
            both.sidecars[0].set_ordered_min(ordered_min);
            for step in &steps {
                both.step(step).await?;
                both.check().await?;
                // The order equals the loads after each step.
                prop_assert_eq!(both.redis().recount(&both.pool).await.unwrap(), 0);
                both.turns.set(both.turns.get().rotate_right(1));
            }
            Ok::<(), TestCaseError>(())
        })?;
    });
}

/// Concurrent operations, which share batches, admit and release each lease once.
#[test]
fn concurrent_operations_balance() {
    let server = Redis::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store =
            redis_store(&redis_options(vec![server.url()], false, ""), Duration::from_secs(600)).await;
        let (pool, caps) = (pool("r", "c"), roster(&[("a", 1.0, 40), ("b", 3.0, 40), ("c", 1.0, 40)]));
        let tasks = (0..20_u64).map(|task| {
            let (store, pool, caps) = (Arc::clone(&store), Arc::clone(&pool), Arc::clone(&caps));
            tokio::spawn(async move {
                let name = format!("g{}", task % 4);
                let who = holder(&name);
                let (mut admitted, mut held) = (0, Vec::new());
                for round in 0..200_u64 {
                    let number = 1 + task * 1000 + round;
                    let admit = admission(&pool, &caps, &name, number, (task * 31 + round) as u32);
                    if picked(store.admit(admit).await.unwrap()).is_some() {
                        admitted += 1;
                        held.push(lease(number));
                    }
                    if held.len() > 4 {
                        let number = held.swap_remove(round as usize % held.len());
                        let (once, twice) = tokio::join!(
                            store.settle(&pool, &who, number),
                            store.settle(&pool, &who, number)
                        );
                        assert!(once.unwrap() ^ twice.unwrap());
                    }
                }
                (admitted, held.len() as u64)
            })
        });
        let (mut admitted, mut held) = (0, 0);
        for done in futures::future::join_all(tasks).await {
            let (a, h) = done.unwrap();
            admitted += a;
            held += h;
        }
        let table = store.table(&pool).await.unwrap();
        assert_eq!(table.loads.values().map(|load| load.in_flight).sum::<u64>(), held);
        assert!(table.loads.values().all(|load| load.in_flight <= 40), "{:?}", table.loads);
        assert!(admitted > held, "some were admitted and settled");
        assert_eq!(store.recount(&pool).await.unwrap(), 0);
    });
}
