//! Rosters that Redis keeps in order, because reading all their endpoints for each batch would take long.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_domain::{Endpoint, Roster, choice::Prompt, verdict::Verdict};
use evenkeel_store::{Admit, Pool, Store, memory::MemoryStore, redis::RedisStore};
use futures::future::join_all;

use crate::support::{
    eventually,
    redis::Redis,
    store::{admission, holder, lease, pool, redis_options, redis_store},
};

const TTL: Duration = Duration::from_secs(600);
const ORDER: &str = "ek2:{r|c}:order";

/// Returns a roster of those of `endpoints` addresses that are not drained, with weights in turn.
fn large(endpoints: usize, weights: &[f64], cap: u32, is_drained: impl Fn(usize) -> bool) -> Arc<Roster> {
    let endpoint = |i| Endpoint { address: address(i), weight: weights[i % weights.len()], cap };
    Arc::new(Roster::new((0..endpoints).filter(|i| !is_drained(*i)).map(endpoint).collect()))
}

fn address(i: usize) -> Arc<str> {
    format!("10.0.{}.{}:8000", i / 250, i % 250).into()
}

/// A sequence of numbers that only looks random, so that each run of a test is the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % end as u64) as usize
    }
}

/// Memory and Redis, with the same pool in both.
struct Both {
    memory: MemoryStore,
    server: Redis,
    sidecars: Vec<Arc<RedisStore>>,
    pool: Arc<Pool>,
    last: u64,
    held: Vec<u64>,
}

impl Both {
    async fn start() -> Self {
        let server = Redis::start();
        let options = redis_options(vec![server.url()], false, "");
        let sidecars = vec![redis_store(&options, TTL).await, redis_store(&options, TTL).await];
        let memory = MemoryStore::new(TTL);
        Self { memory, server, sidecars, pool: pool("r", "c"), last: 0, held: Vec::new() }
    }

    /// Admits requests in one batch of a sidecar, and checks that memory chooses the same endpoints.
    async fn admit(&mut self, sidecar: usize, roster: &Arc<Roster>, tie: u32, prompts: &[Option<Prompt>]) {
        let admits: Vec<Admit> = (self.last + 1..)
            .zip(prompts)
            .map(|(number, prompt)| Admit {
                prompt: prompt.clone(),
                ..admission(&self.pool, roster, "h", number, tie)
            })
            .collect();
        let redis = join_all(admits.iter().map(|admit| self.sidecars[sidecar].admit(admit.clone()))).await;
        for (admit, redis) in admits.into_iter().zip(redis) {
            let number = admit.lease.get();
            let redis = redis.unwrap();
            assert_eq!(self.memory.admit(admit).await.unwrap(), redis, "lease {number}");
            if matches!(redis, Verdict::Admitted { .. }) {
                self.held.push(number);
            }
        }
        self.last += prompts.len() as u64;
    }

    /// Settles leases, or records their first tokens, in one batch of a sidecar.
    async fn end(&mut self, sidecar: usize, numbers: &[u64], settle: bool) {
        let (sidecar, pool, h) = (&self.sidecars[sidecar], &self.pool, holder("h"));
        join_all(numbers.iter().map(async |number| {
            for store in [&self.memory as &dyn Store, &**sidecar] {
                if settle {
                    assert!(store.settle(pool, &h, lease(*number)).await.unwrap());
                } else {
                    store.first_token(pool, &h, lease(*number)).await.unwrap();
                }
            }
        }))
        .await;
        self.held.retain(|held| !settle || !numbers.contains(held));
    }

    /// Checks that the loads are those in memory, and that the order equals them.
    async fn check(&self) {
        assert_eq!(self.sidecars[0].recount(&self.pool).await.unwrap(), 0);
        let loads =
            async |store: &dyn Store| -> BTreeMap<_, _> { store.table(&self.pool).await.unwrap().loads };
        assert_eq!(loads(&self.memory).await, loads(&*self.sidecars[0]).await);
    }

    /// Returns the number of endpoints in the order.
    fn ordered(&self) -> usize {
        let members: usize = redis::from_redis_value(self.server.command(&["ZCARD", ORDER])).unwrap();
        members - 1 // the member with the rosters
    }

    /// Returns how many commands of this kind Redis has executed.
    fn executed(&self, command: &str) -> u64 {
        let text: String = redis::from_redis_value(self.server.command(&["INFO", "commandstats"])).unwrap();
        let calls =
            text.split_once(&format!("cmdstat_{command}:calls=")).and_then(|(_, rest)| rest.split_once(','));
        calls.map_or(0, |(calls, _)| calls.parse().unwrap())
    }
}

/// Two sidecars with different rosters at once, as while a configuration or a drain reaches them.
async fn compare(rosters: [Arc<Roster>; 2], by_work: bool, seed: u64) {
    let (mut both, mut numbers) = (Both::start().await, Numbers(seed));
    for step in 0..120 {
        let sidecar = numbers.below(2);
        match numbers.below(4) {
            0 | 1 => {
                let tie = numbers.below(1 << 32) as u32;
                let n = 1 + numbers.below(60);
                let mut prompt = || {
                    // Multiples of 100 give equal scores more often.
                    let tokens = 100 * numbers.below(100) as u64;
                    let hits = if numbers.below(3) == 0 { numbers.below(8) } else { 0 };
                    let hits =
                        (0..hits).map(|_| (address(numbers.below(1010)), 100 * numbers.below(90) as u64));
                    let cached = hits.collect::<BTreeMap<_, _>>().into_iter().collect();
                    Prompt { tokens, cached }
                };
                let mut prompts: Vec<_> = (0..n).map(|_| by_work.then(&mut prompt)).collect();
                if step % 2 == 0 {
                    prompts.iter_mut().flatten().for_each(|prompt| prompt.cached.clear());
                }
                both.admit(sidecar, &rosters[sidecar], tie, &prompts).await;
            }
            kind => {
                let n = numbers.below(60).min(both.held.len());
                let ended: Vec<u64> = (0..n).map(|_| both.held[numbers.below(both.held.len())]).collect();
                let ended: std::collections::BTreeSet<u64> = ended.into_iter().collect();
                both.end(sidecar, &ended.into_iter().collect::<Vec<_>>(), kind == 2).await;
            }
        }
        both.check().await;
    }
    assert_eq!(both.ordered(), rosters.iter().map(|roster| roster.endpoints().len()).sum::<usize>());
    // Only the script for ordered rosters executes it.
    assert!(both.executed("zcount") > 10, "{}", both.executed("zcount"));
}

#[tokio::test]
async fn equal_endpoints_of_a_large_roster_are_chosen_as_in_memory() {
    let rosters = [large(1000, &[1.0], 0, |_| false), large(1000, &[1.0], 0, |i| i % 3 == 0)];
    for (by_work, seed) in [(false, 1), (true, 2)] {
        compare(rosters.clone(), by_work, seed).await;
    }
}

#[tokio::test]
async fn different_endpoints_of_a_large_roster_are_chosen_as_in_memory() {
    let weights = [1.0, 2.0, 0.3, 3.0, 1.7];
    let rosters = [large(1000, &weights, 2, |_| false), large(1000, &weights[..2], 1, |i| i >= 100)];
    for (by_work, seed) in [(false, 3), (true, 4)] {
        compare(rosters.clone(), by_work, seed).await;
    }
}

#[tokio::test]
async fn a_lost_or_wrong_order_is_repaired() {
    let mut both = Both::start().await;
    let roster = large(70, &[1.0, 2.0], 0, |_| false);
    let admit = async |both: &mut Both| {
        for tie in [0, 1 << 30, u32::MAX] {
            both.admit(0, &roster, tie, &[None, None]).await;
        }
        assert_eq!(both.ordered(), 70);
    };
    admit(&mut both).await;
    both.check().await;
    let first = format!("0{}", address(0));
    both.server.command(&["ZINCRBY", ORDER, "3", &first]);
    assert_eq!(both.sidecars[1].recount(&both.pool).await.unwrap(), 1);
    both.check().await;
    admit(&mut both).await;

    both.server.command(&["ZREM", ORDER, &first]);
    both.check().await;
    assert_eq!(both.ordered(), 0, "the roster is dropped");
    admit(&mut both).await;

    both.server.command(&["DEL", ORDER]);
    admit(&mut both).await;
    both.check().await;

    both.server.command(&["FLUSHALL"]);
    both.memory = MemoryStore::new(TTL);
    admit(&mut both).await;
    both.check().await;

    // Wrong counts are corrected in the order, too.
    both.server.command(&["DEL", "ek2:{r|c}:in-flight"]);
    assert!(both.sidecars[0].recount(&both.pool).await.unwrap() > 0);
    both.check().await;
    admit(&mut both).await;
}

/// The order has place for two rosters. A third is sent with each batch, until another is no longer used.
#[tokio::test]
async fn a_roster_that_is_no_longer_used_gives_up_its_place() {
    let mut both = Both::start().await;
    let rosters = [70, 80, 90].map(|n| large(n, &[1.0], 0, |_| false));
    for roster in rosters.iter().chain(&rosters) {
        both.admit(0, roster, 7, &[None]).await;
    }
    assert_eq!(both.ordered(), 150);
    let both = tokio::sync::Mutex::new(both);
    eventually(Duration::from_secs(20), "the third roster has a place", || async {
        let mut both = both.lock().await;
        both.admit(0, &rosters[2], 7, &[None]).await;
        both.check().await;
        if both.ordered() == 90 { Ok(()) } else { Err(both.ordered().to_string()) }
    })
    .await;
}
