//! The scripts for fixed windows, `windows` and `one_window`, have the same results as the counters in memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_domain::limit::{Bucket, CounterRule, Meter, OnStoreFailure, Window};
use evenkeel_store::{
    counters::{Counters, Reserve},
    memory::MemoryCounters,
};
use proptest::prelude::*;

use crate::support::{
    redis::Redis,
    store::{redis_options, redis_store},
};

const START_MS: u64 = 1_800_000_000_000;

/// One request: its keys, each with a cost; whether it only peeks; whether its limits are in shadow mode.
type Request = (Vec<(usize, u64)>, bool, bool);

fn meter(key: usize, cost: u64, shadow: bool) -> Meter {
    let edges = [START_MS - 5000, START_MS, START_MS + 3000, START_MS + 9000];
    let window = if key == 0 { Window::Edges(edges) } else { Window::Length(1000) };
    Meter {
        bucket: Arc::new(Bucket { tag: format!("key={key}"), rest: String::new() }),
        name: "limit".into(),
        rule: CounterRule::Fixed { amount: 10, window },
        cost,
        provisional: false,
        shadow,
        on_store_failure: OnStoreFailure::Local,
    }
}

#[test]
fn windows_count_as_in_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = Redis::start();
    let cases = AtomicU64::new(0);
    let keys =
        prop::collection::btree_map(0_usize..4, 0_u64..12, 1..3).prop_map(|keys| keys.into_iter().collect());
    let requests = prop::collection::vec((keys, any::<bool>(), any::<bool>()), 1..5);
    // The clock passes, or is set back a little.
    let steps = prop::collection::vec((-20_i64..700, requests), 1..40);
    proptest!(ProptestConfig { cases: 48, ..ProptestConfig::default() }, |(steps in steps)| {
        let prefix = format!("case{}", cases.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(async {
            let options = redis_options(vec![server.url()], false, &prefix);
            let redis = redis_store(&options, Duration::from_secs(60)).await;
            let memory = MemoryCounters::default();
            let mut now = START_MS;
            for (pass, requests) in steps {
                now = now.saturating_add_signed(pass);
                memory.set_clock(now);
                redis.set_clock(now);
                let requests: Vec<Request> = requests;
                let ask = async |store: &dyn Counters, (keys, peeks, shadow): &Request| {
                    let meters = keys.iter().map(|(key, cost)| meter(*key, *cost, *shadow)).collect();
                    let verdict = if *peeks {
                        store.peek(meters).await
                    } else {
                        store.reserve(Reserve { id: None, meters }).await
                    };
                    verdict.unwrap()
                };
                // The requests share a script call.
                let answers = futures::future::join_all(requests.iter().map(|request| ask(&*redis, request))).await;
                for (request, answer) in requests.iter().zip(answers) {
                    let expected = ask(&memory, request).await;
                    prop_assert_eq!(expected.admitted, answer.admitted, "{:?}", request);
                    prop_assert_eq!(expected.states, answer.states, "{:?}", request);
                }
            }
            Ok(())
        })?;
    });
    let info: String = redis::from_redis_value(server.command(&["INFO", "memory"])).unwrap();
    // `one_window`, `windows`, and `probe`, which a store runs when it connects. So `count` has not run.
    assert!(info.contains("number_of_cached_scripts:3\r\n"), "{info}");
}
