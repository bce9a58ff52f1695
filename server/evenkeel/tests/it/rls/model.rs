//! The rate limiter counts as a simple model does, on the embedded store and on Redis, for any sequence of requests with
//! own hits, looks, negative hits and refusals that the sidecar remembers.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use evenkeel_domain::settings::{LimitFiles, RateLimiterOptions};
use evenkeel_engine::rls::{self, Descriptor, RateLimitMetrics, RateLimitRequest, RateLimiter};
use evenkeel_store::{counters::Counters, memory::MemoryCounters};
use proptest::prelude::*;

use crate::support::{
    redis::Redis,
    store::{redis_options, redis_store},
};

/// No window ends during a test, because the clock stands still.
const NOW_MS: u64 = 1_800_000_000_000;

const LIMITS: &str = "
domain: d
descriptors:
- {key: plain, rate_limit: {unit: hour, requests_per_unit: 10}}
- {key: other, rate_limit: {unit: hour, requests_per_unit: 4}}
- {key: none, rate_limit: {unit: hour, requests_per_unit: 0}}
- {key: shadow, shadow_mode: true, rate_limit: {unit: hour, requests_per_unit: 6}}
- {key: quota, quota_mode: true, rate_limit: {unit: hour, requests_per_unit: 6}}
- {key: free, rate_limit: {unlimited: true}}
";

/// Keys of the file, with the amounts of their limits.
const AMOUNTS: [(&str, u64); 5] = [("plain", 10), ("other", 4), ("none", 0), ("shadow", 6), ("quota", 6)];

/// A descriptor: the index of its key in [`AMOUNTS`], whether its value is the second of two, and its hits.
type Entry = (usize, bool, Hits);

#[derive(Clone, Copy, Debug)]
enum Hits {
    OfRequest,
    Own(u64),
    Negative(u64),
}

/// The used amount of each counter.
#[derive(Default)]
struct Model(BTreeMap<(usize, bool), u64>);

/// What the model expects of a request: whether it is refused, and for each descriptor whether its limit is over.
#[derive(Debug)]
struct Expected {
    over: bool,
    descriptors: Vec<bool>,
    remaining: Vec<u64>,
}

impl Model {
    fn used(&mut self, key: usize, second: bool) -> &mut u64 {
        self.0.entry((key, second)).or_default()
    }

    fn evaluate(&mut self, hits: u32, request: &[Entry]) -> Expected {
        let cost = |hits_of: Hits| match hits_of {
            Hits::OfRequest => u64::from(hits.max(1)),
            Hits::Own(own) => own,
            Hits::Negative(_) => 0,
        };
        let mut costs = BTreeMap::new();
        for &(key, second, hits) in request.iter().filter(|(.., hits)| !matches!(hits, Hits::Negative(_))) {
            *costs.entry((key, second)).or_insert(0) += cost(hits);
        }
        let is_over: BTreeMap<_, _> = costs
            .iter()
            .map(|(&(key, second), cost)| ((key, second), *self.used(key, second) + cost > AMOUNTS[key].1))
            .collect();
        let name = |key: usize| AMOUNTS[key].0;
        let refuses = |(&(key, _), over): (&(usize, bool), &bool)| *over && key < 3;
        let refused = is_over.iter().any(refuses);
        let mut quotas = is_over.iter().filter(|((key, _), _)| name(*key) == "quota").map(|(_, over)| *over);
        let all_quotas = quotas.clone().next().is_some() && quotas.all(|over| over);
        for &(key, second, hits) in request {
            match hits {
                Hits::Negative(_) => {}
                Hits::Own(own) => *self.used(key, second) += own,
                Hits::OfRequest if refused => {}
                Hits::OfRequest => *self.used(key, second) += cost(hits),
            }
        }
        let mut after = BTreeMap::new();
        for &(key, second, _) in request {
            after.insert((key, second), *self.used(key, second));
        }
        let descriptors = request.iter().map(|&(key, second, hits)| match hits {
            Hits::Negative(_) => false,
            _ => is_over[&(key, second)],
        });
        let descriptors: Vec<bool> = descriptors.collect();
        let remaining = request.iter().zip(&descriptors).map(|(&(key, second, hits), over)| {
            let used = if let Hits::Negative(back) = hits {
                let used = self.used(key, second);
                *used = used.saturating_sub(back);
                *used
            } else {
                after[&(key, second)]
            };
            if *over { 0 } else { AMOUNTS[key].1.saturating_sub(used) }
        });
        let remaining = remaining.collect();
        Expected { over: refused || all_quotas, descriptors, remaining }
    }
}

fn limiter(dir: &Path, counters: Arc<dyn Counters>) -> RateLimiter {
    let metrics = RateLimitMetrics::unregistered();
    let files = LimitFiles { path: dir.to_owned(), merge_domains: false };
    let rules = rls::load(&files, &metrics).unwrap();
    RateLimiter::new(
        Arc::new(ArcSwap::from_pointee(rules)),
        counters,
        RateLimiterOptions::default(),
        &metrics,
    )
}

async fn ask(limiter: &RateLimiter, hits: u32, request: &[Entry]) -> rls::Evaluation {
    let descriptor = |&(key, second, hits): &Entry| {
        let (hits, give_back) = match hits {
            Hits::OfRequest => (None, false),
            Hits::Own(own) => (Some(own), false),
            Hits::Negative(back) => (Some(back), true),
        };
        let entries = vec![(AMOUNTS[key].0, if second { "b" } else { "a" })];
        Descriptor { entries, hits, give_back, ..Descriptor::default() }
    };
    let descriptors = request.iter().map(descriptor).collect();
    limiter.evaluate(&RateLimitRequest { domain: "d", hits, descriptors }).await.unwrap()
}

/// Sends a request, and compares the response with the model's.
async fn step(
    limiter: &RateLimiter,
    model: &mut Model,
    hits: u32,
    request: &[Entry],
) -> Result<(), TestCaseError> {
    let found = ask(limiter, hits, request).await;
    let expected = model.evaluate(hits, request);
    prop_assert_eq!(found.over, expected.over, "{} {:?}", hits, request);
    for (i, status) in found.statuses.iter().enumerate() {
        // A remembered refusal does not report the counters of the request's other limits.
        if status.limit.is_none() {
            prop_assert!(found.over, "{:?}", request);
            continue;
        }
        // A limit in shadow mode reports OK.
        let over = expected.descriptors[i] && AMOUNTS[request[i].0].0 != "shadow";
        prop_assert_eq!(status.over, over, "{} {} {:?}", i, hits, request);
        prop_assert_eq!(u64::from(status.remaining), expected.remaining[i], "{} {} {:?}", i, hits, request);
    }
    Ok(())
}

#[test]
fn any_sequence_of_requests_counts_as_in_the_model() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("limits.yaml"), LIMITS).unwrap();
    let hits = prop_oneof![
        3 => Just(Hits::OfRequest),
        2 => Just(Hits::Own(0)),
        4 => (1_u64..9).prop_map(Hits::Own),
        2 => (0_u64..9).prop_map(Hits::Negative),
    ];
    let key = prop_oneof![6 => Just(0_usize), 3 => Just(1), 1 => Just(2), 1 => Just(3), 2 => Just(4)];
    let request = prop::collection::vec((key, prop::bool::weighted(0.2), hits), 1..4);
    let requests = prop::collection::vec((0_u32..4, request), 1..24);
    let mut case = 0;
    let mut run = |requests: Vec<(u32, Vec<Entry>)>| {
        case += 1;
        runtime.block_on(async {
            let options = redis_options(vec![server.url()], false, &format!("case{case}"));
            let redis = redis_store(&options, Duration::from_secs(60)).await;
            redis.set_clock(NOW_MS);
            let memory = MemoryCounters::default();
            memory.set_clock(NOW_MS);
            for counters in [Arc::new(memory) as Arc<dyn Counters>, redis] {
                let limiter = limiter(dir.path(), counters);
                let mut model = Model::default();
                for (hits, request) in &requests {
                    step(&limiter, &mut model, *hits, request).await?;
                }
                // Every counter has the used amount of the model: after its excess is given back, it is just full.
                for (key, second) in model.0.clone().into_keys() {
                    let excess = model.used(key, second).saturating_sub(AMOUNTS[key].1);
                    step(&limiter, &mut model, 1, &[(key, second, Hits::Negative(excess))]).await?;
                    step(&limiter, &mut model, 1, &[(key, second, Hits::Own(0))]).await?;
                    step(&limiter, &mut model, 1, &[(key, second, Hits::Negative(1))]).await?;
                    step(&limiter, &mut model, 1, &[(key, second, Hits::Own(0))]).await?;
                }
            }
            Ok::<(), TestCaseError>(())
        })
    };
    let run = std::cell::RefCell::new(&mut run);
    proptest!(ProptestConfig { cases: 96, ..ProptestConfig::default() }, |(requests in requests)| {
        (run.borrow_mut())(requests)?;
    });
}
