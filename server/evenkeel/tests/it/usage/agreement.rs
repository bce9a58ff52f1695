//! Memory, Redis and Redis Cluster report the same usage for any recorded requests.

use evenkeel_domain::usage::Outcome;
use proptest::prelude::*;

use super::*;
use crate::support::redis::Cluster;

/// A request that is recorded in several stores.
#[derive(Clone, Debug)]
struct Request {
    instance: usize,
    hours: u64,
    consumer: usize,
    model: usize,
    session: usize,
    input: u64,
    output: u64,
    estimated: bool,
}

fn request() -> impl Strategy<Value = Request> {
    (0..2_usize, 0..3_u64, 0..8_usize, 0..5_usize, 0..120_usize, 0..5_000_u64, 0..9_u64, any::<bool>())
        .prop_map(|(instance, hours, consumer, model, session, input, output, estimated)| Request {
            instance,
            hours,
            consumer,
            model,
            session,
            input,
            output,
            estimated,
        })
}

/// Some of these names try to break keys, and some are empty.
const CONSUMERS: [&str; 8] = ["alice", "", "b|ob", "{c}", "d%7C", "(other)", "ü\u{7f}", "=1"];
const MODELS: [&str; 5] = ["gpt", "", "m|2", "a\u{1f}b", "claude"];

fn record(ledger: &Ledger, t: &Request) {
    let session = if t.session.is_multiple_of(3) { String::new() } else { format!("s {}|", t.session) };
    ledger.record(&UsageRecord {
        consumer: CONSUMERS[t.consumer],
        model: MODELS[t.model],
        route: "r",
        session: &session,
        tokens: Tokens { input: t.input, output: t.output, cached_input: t.input / 2, reasoning: 1 },
        estimated: t.estimated,
        cost: t.input * 3,
        status: 200,
        outcome: Outcome::Success,
        first_token_ms: 5,
        total_ms: 70,
    });
}

/// Returns everything a ledger reports.
async fn everything(ledger: &Ledger) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut sessions = Vec::new();
    let mut one_by_one = Vec::new();
    for day in 0..10 {
        let day = ledger.today().minus(day);
        let mut token = String::new();
        loop {
            let page = ledger.sessions(day, "", 7, &token).await.unwrap();
            sessions.extend(page.sessions.into_iter().map(|(key, sum)| (day, key, sum)));
            token = page.next;
            if token.is_empty() {
                break;
            }
        }
    }
    for consumer in CONSUMERS {
        for n in 0..120 {
            let found = ledger.session(consumer, &format!("s {n}|")).await;
            one_by_one.push(found.ok().map(|s| (s.key, s.sum, s.turns)));
        }
    }
    (all(ledger).await, sessions, one_by_one)
}

/// The requests exceed every bound, and cover several days.
#[test]
fn memory_and_redis_report_the_same_usage() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, cases) = (Redis::start(), AtomicU64::new(0));
    let config = ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() };
    proptest!(config, |(requests in prop::collection::vec(request(), 1..250))| {
        runtime.block_on(async {
            let prefix = format!("p{}", cases.fetch_add(1, Ordering::Relaxed));
            let options = redis_options(vec![server.url()], false, &prefix);
            let (now, limits) = (Arc::new(AtomicU64::new(NOW)), small());
            let (memory, redis) = (memory_usage(&limits), redis_usage(&options, &limits));
            let ledgers: Vec<[Arc<Ledger>; 2]> = (0..2)
                .map(|_| [&memory, &redis].map(|store| ledger_at(&now, &limits, Arc::clone(store))))
                .collect();
            let mut expected = Usage::default();
            for t in &requests {
                now.fetch_add(t.hours * 3_600_000 + 1, Ordering::Relaxed);
                for ledger in &ledgers[t.instance] {
                    record(ledger, t);
                    // Flush each record alone, because the order of a map must not decide which row gets the last
                    // place.
                    ledger.flush().await.unwrap();
                }
                expected += Usage {
                    requests: 1,
                    estimated: u64::from(t.estimated),
                    tokens: Tokens { input: t.input, output: t.output, cached_input: t.input / 2, reasoning: 1 },
                    cost: t.input * 3,
                };
            }
            let [m, r] = &ledgers[0];
            prop_assert_eq!(everything(m).await, everything(r).await);
            let days = m.today().minus(30)..=m.today();
            let total = m.query(&Query { days, ..query(m, "") }, 1, "").await.unwrap().total;
            prop_assert_eq!(total, expected, "nothing is lost, whatever is folded");
            Ok(())
        })?;
    });
}

#[tokio::test]
async fn redis_cluster_keeps_usage_within_its_bounds() {
    let cluster = Cluster::start();
    let limits = small();
    let options = redis_options(cluster.urls(), true, "");
    let now = Arc::new(AtomicU64::new(NOW));
    let ledgers = [0, 1].map(|_| ledger_at(&now, &limits, redis_usage(&options, &limits)));
    for n in 0..400_u64 {
        let (consumer, session) = (CONSUMERS[n as usize % 8], format!("s{{{}}}", n % 100));
        let tokens = Tokens { input: n, ..Tokens::default() };
        now.fetch_add(1000, Ordering::Relaxed);
        ledgers[n as usize % 2].record(&UsageRecord {
            consumer,
            model: "m",
            session: &session,
            tokens,
            ..UsageRecord::default()
        });
        if n % 20 == 0 {
            for ledger in &ledgers {
                ledger.flush().await.unwrap();
            }
        }
    }
    for ledger in &ledgers {
        ledger.flush().await.unwrap();
    }
    let page = ledgers[0].query(&query(&ledgers[0], "consumer"), 100, "").await.unwrap();
    assert_eq!((page.total.requests, page.total.tokens.input), (400, 400 * 399 / 2));
    let session = ledgers[1].session(CONSUMERS[399 % 8], "s{99}").await.unwrap();
    assert!(session.sum.usage.requests >= 1 && !session.turns.is_empty());
    let kept: usize = cluster
        .nodes
        .iter()
        .map(|node| {
            redis::from_redis_value::<Vec<String>>(node.command(&["KEYS", "*:turns:*"])).unwrap().len()
        })
        .sum();
    assert!(kept <= 48, "{kept}");
}
