//! Memory and Redis agree on every sequence of changes and requests.

use std::sync::Arc;

use evenkeel_domain::limit::{CounterRule, Window};
use evenkeel_store::{
    counters::CounterState,
    records::{Action, Edited, Record},
};

use super::{Subject, TTL};
use crate::support::{
    redis::Redis,
    store::{redis_options, redis_store},
};

#[tokio::test]
async fn memory_and_redis_agree() {
    use rand::{Rng as _, SeedableRng as _};
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let shared = Subject::redis(&store, "r");
    let local = Subject::memory(&Arc::default(), "r");
    // This window does not end while the test runs.
    let window = Window::Length(1_000_000_000_000_000);
    let rules = [
        CounterRule::Prepaid { default: None },
        CounterRule::Prepaid { default: Some(40) },
        CounterRule::Budget { default: None, window },
        CounterRule::Budget { default: Some(60), window },
    ];
    for seed in 0..8 {
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let mut open = Vec::new();
        for step in 0..150 {
            let at = random.random_range(0..rules.len());
            let account = shared.account(&format!("s{seed}"), &format!("q{at}"), rules[at]);
            let done = match random.random_range(0..8) {
                0 => "settle a request",
                1..=3 => {
                    let number = seed * 1000 + step + 1;
                    let cost = random.random_range(0..30);
                    let pair = (
                        shared.reserve(&account, number, cost).await,
                        local.reserve(&account, number, cost).await,
                    );
                    // Times depend on the clock of each store, so they are not compared.
                    let [one, other] = [&pair.0.0, &pair.1.0].map(|verdict| {
                        let state = verdict.states[0];
                        (verdict.admitted, CounterState { reset_ms: 0, retry_ms: 0, ..state })
                    });
                    assert_eq!(one, other, "seed {seed} step {step}: reserve {cost}");
                    if pair.0.0.admitted {
                        open.push((account.clone(), pair));
                    }
                    "reserve"
                }
                action => {
                    let action = match action {
                        4 => Action::Set(random.random_range(0..100)),
                        5 | 6 => Action::Adjust(random.random_range(-80..80)),
                        _ => Action::Delete,
                    };
                    let id = random.random_range(0..120).to_string();
                    let pair =
                        (shared.edit(&account, action, &id).await, local.edit(&account, action, &id).await);
                    let known = |edited: Option<Edited>| {
                        edited.map(|e| Edited { record: Record { reset_ms: 0, ..e.record }, ..e })
                    };
                    assert_eq!(known(pair.0), known(pair.1), "seed {seed} step {step}: {action:?} {id}");
                    "edit"
                }
            };
            if done == "settle a request" && !open.is_empty() {
                let (account, pair) = open.swap_remove(random.random_range(0..open.len()));
                let actual = random.random_range(0..50);
                shared.settle(&account, pair.0, actual).await;
                local.settle(&account, pair.1, actual).await;
            }
            let (one, other) = (shared.read(&account).await, local.read(&account).await);
            let known = |record: Record| Record { reset_ms: 0, ..record };
            assert_eq!(known(one), known(other), "seed {seed} step {step}: {done}");
        }
        for (at, rule) in rules.iter().enumerate() {
            let account = shared.account(&format!("s{seed}"), &format!("q{at}"), *rule);
            let history = async |s: &Subject| {
                let all = s.records.quota_changes(&account).await.unwrap();
                all.into_iter().map(|c| (c.what, c.before, c.after)).collect::<Vec<_>>()
            };
            assert_eq!(history(&shared).await, history(&local).await, "seed {seed}");
        }
    }
}
