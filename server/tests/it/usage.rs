//! The usage ledger: whatever fails, what it tells is what was recorded; memory and Redis agree; bounds hold.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel::{
    domain::{
        limit::price::Tokens,
        usage::{Day, NONE, OTHER, Outcome, RowKey, SessionKey, Usage},
    },
    ledger::{
        Clock, Ledger, LedgerOptions, UsageRecord,
        query::{By, Query, Row},
    },
    store::{
        memory_usage::MemoryUsage,
        redis::{RedisOptions, RedisStore},
        usage::{DayBatch, FlushId, SessionUpdate, UsageStore, session_part},
    },
    telemetry::Metrics,
};
use evenkeel_proto::v1 as pb;
use proptest::prelude::*;
use tokio_util::task::TaskTracker;

use crate::{
    contract::redis_options,
    support::{
        eventually,
        proxy::{Mode, Proxy},
        redis::{Cluster, Redis},
        sidecar::{Sidecar, pool},
    },
};

/// 2026-11-18, 11:06 UTC.
const NOW: u64 = 1_795_000_000_000;
const DAY_MS: u64 = 86_400_000;
const LIMIT: Duration = Duration::from_secs(20);

fn small() -> LedgerOptions {
    LedgerOptions { sessions_max: 48, rows_max: 20, turns_max: 5, ..LedgerOptions::default() }
}

fn redis_usage(options: &RedisOptions, ledger: &LedgerOptions) -> Arc<dyn UsageStore> {
    let ttl = Duration::from_secs(60);
    let store = RedisStore::new(options, ttl, Metrics::new().unwrap(), TaskTracker::new()).unwrap();
    Arc::new(store.usage(ledger.bounds()))
}

fn memory_usage(ledger: &LedgerOptions) -> Arc<dyn UsageStore> {
    Arc::new(MemoryUsage::new(ledger.bounds()))
}

/// A ledger whose clock stands where it is put.
pub(crate) fn ledger_at(
    now: &Arc<AtomicU64>,
    options: &LedgerOptions,
    store: Arc<dyn UsageStore>,
) -> Arc<Ledger> {
    let now = Arc::clone(now);
    let clock: Clock = Arc::new(move || now.load(Ordering::Relaxed));
    Ledger::with_clock(options.clone(), store, Metrics::new().unwrap(), clock)
}

fn query(ledger: &Ledger, by: &str) -> Query {
    let days = ledger.today().minus(10)..=ledger.today();
    Query {
        days,
        by: By::parse(by).unwrap(),
        consumer: String::new(),
        model: String::new(),
        route: String::new(),
    }
}

/// All rows by all dimensions.
async fn all(ledger: &Ledger) -> Vec<Row> {
    ledger.query(&query(ledger, "day,consumer,model,route"), 10_000, "").await.unwrap().rows
}

fn usage(requests: u64, input: u64, output: u64) -> Usage {
    Usage { requests, tokens: Tokens { input, output, ..Tokens::default() }, ..Usage::default() }
}

/// One step of a story told to several stores.
#[derive(Clone, Debug)]
struct Told {
    instance: usize,
    hours: u64,
    consumer: usize,
    model: usize,
    session: usize,
    input: u64,
    output: u64,
    estimated: bool,
}

fn told() -> impl Strategy<Value = Told> {
    (0..2_usize, 0..3_u64, 0..8_usize, 0..5_usize, 0..120_usize, 0..5_000_u64, 0..9_u64, any::<bool>())
        .prop_map(|(instance, hours, consumer, model, session, input, output, estimated)| Told {
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

/// Names that try to break keys, and some that are empty.
const CONSUMERS: [&str; 8] = ["alice", "", "b|ob", "{c}", "d%7C", "(other)", "ü\u{7f}", "=1"];
const MODELS: [&str; 5] = ["gpt", "", "m|2", "a\u{1f}b", "claude"];

fn record(ledger: &Ledger, t: &Told) {
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

/// Everything a ledger tells.
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

/// Also beyond all bounds, and over days.
#[test]
fn memory_and_redis_tell_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, cases) = (Redis::start(), AtomicU64::new(0));
    let config = ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() };
    proptest!(config, |(story in prop::collection::vec(told(), 1..250))| {
        runtime.block_on(async {
            let prefix = format!("p{}", cases.fetch_add(1, Ordering::Relaxed));
            let options = redis_options(vec![server.url()], false, &prefix);
            let (now, limits) = (Arc::new(AtomicU64::new(NOW)), small());
            let (memory, redis) = (memory_usage(&limits), redis_usage(&options, &limits));
            let ledgers: Vec<[Arc<Ledger>; 2]> = (0..2)
                .map(|_| [&memory, &redis].map(|store| ledger_at(&now, &limits, Arc::clone(store))))
                .collect();
            let mut expected = Usage::default();
            for t in &story {
                now.fetch_add(t.hours * 3_600_000 + 1, Ordering::Relaxed);
                for ledger in &ledgers[t.instance] {
                    record(ledger, t);
                    // One at a time: which row finds the last place must not depend on the order of a map.
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

/// What several sidecars recorded, of which each knows a part.
#[derive(Default)]
struct Truth {
    rows: BTreeMap<(Day, RowKey), Usage>,
    sessions: BTreeMap<SessionKey, Usage>,
}

/// Guards against batches added twice (an answer that was lost) or never (a call that was).
#[tokio::test]
async fn sums_are_exact_whatever_the_network_does() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let options = RedisOptions {
        timeout: Duration::from_millis(50),
        connect_timeout: Duration::from_millis(50),
        ..redis_options(vec![proxy.url()], false, "")
    };
    let limits = LedgerOptions::default();
    let now = Arc::new(AtomicU64::new(NOW));
    let metrics = Metrics::new().unwrap();
    let clock = |now: &Arc<AtomicU64>| -> Clock {
        let now = Arc::clone(now);
        Arc::new(move || now.load(Ordering::Relaxed))
    };
    let ledgers: Vec<_> = (0..3)
        .map(|_| {
            let store = redis_usage(&options, &limits);
            Ledger::with_clock(limits.clone(), store, Arc::clone(&metrics), clock(&now))
        })
        .collect();
    let mut truth = Truth::default();
    let mut failed = 0;
    for round in 0..60_u64 {
        for (n, ledger) in (0..).zip(&ledgers) {
            for i in 0..20 {
                let (consumer, session) = (format!("c{}", (round + i) % 7), format!("s{}", (i * n) % 9));
                let tokens = Tokens { input: i, output: round, cached_input: 0, reasoning: n };
                let record = UsageRecord {
                    consumer: &consumer,
                    model: "m",
                    session: &session,
                    tokens,
                    cost: i,
                    ..UsageRecord::default()
                };
                ledger.record(&record);
                let more = Usage { requests: 1, estimated: 0, tokens, cost: i };
                let row = (Day::of_ms(now.load(Ordering::Relaxed)), RowKey::new(&consumer, "m", ""));
                *truth.rows.entry(row).or_default() += more;
                *truth.sessions.entry(SessionKey::new(&consumer, &session)).or_default() += more;
            }
        }
        now.fetch_add(DAY_MS / 40, Ordering::Relaxed);
        // In the midst of it, so that now a call is lost and now its answer.
        let fault = async {
            tokio::time::sleep(Duration::from_micros(round * 97 % 4000)).await;
            proxy.set([Mode::CutReply, Mode::Stall, Mode::CutReply, Mode::Refuse][round as usize % 4]);
        };
        let flushes = futures::future::join_all(ledgers.iter().map(|ledger| ledger.flush()));
        let (flushes, ()) = futures::future::join(flushes, fault).await;
        proxy.set(Mode::Pass);
        failed += flushes.iter().filter(|flushed| flushed.is_err()).count();
    }
    assert!(failed > 30, "the proxy did its part: {failed}");
    for ledger in &ledgers {
        ledger.drain(LIMIT).await;
        assert_eq!(ledger.waiting(), 0);
    }
    let repeated = metrics.ledger.flushes.repeated.get();
    assert!(repeated > 0, "of {failed} that failed none had been added");
    let rows: BTreeMap<(Day, RowKey), Usage> = all(&ledgers[0])
        .await
        .into_iter()
        .map(|row| {
            let [consumer, model, route] = row.names();
            ((row.day.unwrap(), RowKey::new(consumer, model, route)), row.usage)
        })
        .collect();
    assert_eq!(rows, truth.rows);
    for (key, usage) in truth.sessions {
        let session = ledgers[1].session(key.consumer(), key.session()).await.unwrap();
        assert_eq!(session.sum.usage, usage, "{key:?}");
        assert!(session.turns.len() as u64 == usage.requests.min(200));
        assert!(session.turns.is_sorted_by_key(|turn| turn.at_ms));
    }
}

/// Guards against counting a batch anew that a call, given up for late, still brings in after its repetition.
#[tokio::test]
async fn a_batch_counts_once_in_any_order() {
    let redis = Redis::start();
    let limits = LedgerOptions::default();
    let options = redis_options(vec![redis.url()], false, "");
    for store in [memory_usage(&limits), redis_usage(&options, &limits)] {
        let id = |sequence| FlushId { instance: "i".into(), sequence, now_ms: NOW };
        let day = Day::of_ms(NOW);
        let key = SessionKey::new("c", "s");
        let part = session_part(key.as_str());
        let row = (RowKey::new("c", "m", "r"), usage(1, 10, 5));
        let batch = DayBatch { rows: vec![row.clone()], sessions: Vec::new() };
        let sessions = [(key.clone(), SessionUpdate::default())];
        for (sequence, repeated) in [(1, false), (1, true), (3, false), (2, true), (3, true)] {
            assert_eq!(store.add_day(&id(sequence), day, &batch).await.unwrap().repeated, repeated);
            let applied = store.add_sessions(&id(sequence), part, &sessions).await.unwrap();
            assert_eq!(applied.repeated, repeated);
        }
        // Another instance, another day: numbers of their own.
        let other = FlushId { instance: "j".into(), ..id(1) };
        assert!(!store.add_day(&other, day, &batch).await.unwrap().repeated);
        assert!(!store.add_day(&id(1), day.plus(1), &batch).await.unwrap().repeated);
        assert_eq!(store.rows(day, 0).await.unwrap().rows, [(row.0, usage(3, 30, 15))]);
        assert_eq!(store.rows(day.minus(1), 0).await.unwrap().rows, []);
    }
}

#[tokio::test]
async fn rows_of_a_day_are_bounded_and_fold_into_others_of_their_model() {
    let redis = Redis::start();
    let limits = small(); // 18 of 20 places for names of their own
    let options = redis_options(vec![redis.url()], false, "");
    for store in [memory_usage(&limits), redis_usage(&options, &limits)] {
        let ledger = ledger_at(&Arc::new(AtomicU64::new(NOW)), &limits, store);
        for (model, consumers) in [("a", 25), ("b", 3), ("c", 2)] {
            for n in 0..consumers {
                let consumer = format!("c{n}");
                ledger.record(&UsageRecord { consumer: &consumer, model, ..UsageRecord::default() });
                ledger.flush().await.unwrap();
            }
        }
        let rows = all(&ledger).await;
        assert_eq!(rows.len(), 20);
        let of =
            |names: [&str; 3]| rows.iter().find(|row| row.names() == names).map(|row| row.usage.requests);
        assert_eq!(of(["c0", "a", ""]), Some(1));
        assert_eq!(of([OTHER, "a", OTHER]), Some(7));
        assert_eq!(of([OTHER, "b", OTHER]), None, "the last place is for all others");
        assert_eq!(of([OTHER, OTHER, OTHER]), Some(5));
    }
}

#[tokio::test]
async fn sessions_are_bounded_and_those_unheard_of_go_with_their_turns() {
    let redis = Redis::start();
    let limits = small();
    let options = redis_options(vec![redis.url()], false, "");
    let now = Arc::new(AtomicU64::new(NOW));
    let ledger = ledger_at(&now, &limits, redis_usage(&options, &limits));
    for n in 0..300 {
        now.fetch_add(1000, Ordering::Relaxed);
        let (session, tokens) = (format!("s{n}"), Tokens { input: 1000 - n, ..Tokens::default() });
        for _ in 0..7 {
            ledger.record(&UsageRecord {
                consumer: "c",
                model: "m",
                session: &session,
                tokens,
                ..UsageRecord::default()
            });
        }
        ledger.flush().await.unwrap();
    }
    let top = ledger.sessions(ledger.today(), "", 1000, "").await.unwrap().sessions;
    assert!((43..=48).contains(&top.len()), "{}", top.len());
    assert_eq!(top[0].0.session(), "s0", "those with the most tokens stay");
    let keys: Vec<String> = redis::from_redis_value(redis.command(&["KEYS", "*:turns:*"])).unwrap();
    assert!(keys.len() <= 48, "{}", keys.len());
    let last = ledger.session("c", "s299").await.unwrap();
    assert_eq!((last.turns.len(), last.sum.usage.requests), (5, 7));
    let error = ledger.session("c", "s0").await.unwrap_err().to_string();
    assert!(error.starts_with("session \"s0\" of consumer \"c\" not found"), "{error}");

    // Unheard of for longer than the retention: gone with the next that comes to their part.
    now.fetch_add(36 * DAY_MS, Ordering::Relaxed);
    for n in 0..200 {
        let session = format!("n{n}");
        ledger.record(&UsageRecord { session: &session, ..UsageRecord::default() });
    }
    ledger.flush().await.unwrap();
    assert!(ledger.session("c", "s299").await.is_err());
}

#[tokio::test]
async fn every_key_has_an_expiry() {
    let redis = Redis::start();
    let limits = LedgerOptions { retention: Duration::from_secs(86_400), ..LedgerOptions::default() };
    let options = redis_options(vec![redis.url()], false, "x");
    let ledger = Ledger::new(limits.clone(), redis_usage(&options, &limits), Metrics::new().unwrap());
    for n in 0..50 {
        let session = format!("s{n}");
        ledger.record(&UsageRecord { model: "m", session: &session, ..UsageRecord::default() });
    }
    ledger.flush().await.unwrap();
    let keys: Vec<String> = redis::from_redis_value(redis.command(&["KEYS", "*"])).unwrap();
    assert!(keys.len() > 80, "{}", keys.len());
    for key in &keys {
        assert!(key.starts_with("x:ek1:{usage:") || key.starts_with("x:ek1:{sessions:"), "{key}");
        let ttl: i64 = redis::from_redis_value(redis.command(&["PTTL", key])).unwrap();
        assert!(ttl > 3_500_000 && ttl <= 2 * DAY_MS as i64, "{key} expires in {ttl} ms");
    }
}

#[tokio::test]
async fn pages_are_in_order_and_without_gaps() {
    let limits = LedgerOptions::default();
    let now = Arc::new(AtomicU64::new(NOW));
    let ledger = ledger_at(&now, &limits, memory_usage(&limits));
    for day in 0..3 {
        for n in 0..40 {
            let consumer = if n == 7 { String::new() } else { format!("c{}", n % 13) };
            let tokens = Tokens { input: n * 37 % 11, output: day, ..Tokens::default() };
            let model = ["x", "y"][n as usize % 2];
            ledger.record(&UsageRecord { consumer: &consumer, model, tokens, ..UsageRecord::default() });
        }
        ledger.flush().await.unwrap();
        now.fetch_add(DAY_MS, Ordering::Relaxed);
    }
    for by in ["", "model", "consumer,model", "day", "day,consumer,model,route"] {
        let query = query(&ledger, by);
        let whole = ledger.query(&query, 10_000, "").await.unwrap();
        assert_eq!(whole.total.requests, 120);
        let mut sum = Usage::default();
        whole.rows.iter().for_each(|row| sum += row.usage);
        assert_eq!(sum, whole.total);
        let tokens = |row: &Row| (row.day, std::cmp::Reverse(row.usage.tokens.total()));
        assert!(whole.rows.is_sorted_by_key(tokens), "{by}");
        let (mut rows, mut token) = (Vec::new(), String::new());
        loop {
            let page = ledger.query(&query, 7, &token).await.unwrap();
            assert!(page.rows.len() <= 7 && page.total == whole.total);
            rows.extend(page.rows);
            token = page.next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(rows, whole.rows, "{by}");
        use futures::TryStreamExt as _;
        let exported: Vec<Vec<Row>> = ledger.export(query).try_collect().await.unwrap();
        assert_eq!(exported.concat(), whole.rows, "{by}");
    }
    let nobody = Query { consumer: NONE.to_owned(), ..query(&ledger, "model") };
    let page = ledger.query(&nobody, 10, "").await.unwrap();
    assert_eq!((page.total.requests, page.rows[0].names()), (3, ["", "y", ""]));
}

#[tokio::test]
async fn ranges_are_checked() {
    let limits = LedgerOptions { retention: Duration::from_secs(3 * 86_400), ..LedgerOptions::default() };
    let ledger = ledger_at(&Arc::new(AtomicU64::new(NOW)), &limits, memory_usage(&limits));
    let days = |from, to| ledger.days(from, to, ["from", "to"]).map_err(|e| e.to_string());
    let day = |text| Day::parse(text).unwrap();
    assert_eq!(days("", ""), Ok(day("2026-11-18")..=day("2026-11-18")));
    assert_eq!(days("2026-11-15", "2026-11-17"), Ok(day("2026-11-15")..=day("2026-11-17")));
    let wrong = [
        ("yesterday", "", "from: must be a day such as 2026-11-21, got \"yesterday\""),
        (
            "2026-11-14",
            "",
            "from: must be no more days ago than ledger.retention, and than 399, got 2026-11-14",
        ),
        ("", "2026-11-17", "to: must be no day before the first, got 2026-11-17, which is before 2026-11-18"),
        ("", "2026-11-20", "to: must be today (UTC) at the latest, got 2026-11-20"),
    ];
    for (from, to, message) in wrong {
        assert_eq!(days(from, to).unwrap_err(), message);
    }
    let off = LedgerOptions { enabled: false, ..limits };
    let ledger = ledger_at(&Arc::new(AtomicU64::new(NOW)), &off, memory_usage(&off));
    ledger.record(&UsageRecord::default());
    assert_eq!(ledger.waiting(), 0);
    let error = ledger.query(&query(&ledger, ""), 1, "").await.unwrap_err();
    assert_eq!(error.to_string(), "usage not found: ledger.enabled is false");
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for_and_queries_say_so() {
    let mut redis = Redis::start();
    let limits = LedgerOptions::default();
    let options = RedisOptions {
        timeout: Duration::from_millis(100),
        connect_timeout: Duration::from_millis(100),
        ..redis_options(vec![redis.url()], false, "")
    };
    let ledger = ledger_at(&Arc::new(AtomicU64::new(NOW)), &limits, redis_usage(&options, &limits));
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&ledger).run(stop.clone()));
    redis.kill();
    ledger.record(&UsageRecord { model: "m", session: "s", ..UsageRecord::default() });
    let error = ledger.query(&query(&ledger, ""), 1, "").await.unwrap_err();
    assert_eq!(error.to_string(), "reading usage");
    ledger.drain(Duration::from_millis(300)).await;
    assert_eq!(ledger.waiting(), 1);
    redis.restart();
    eventually(LIMIT, "what waited is written", || async {
        let waiting = ledger.waiting();
        if waiting == 0 { Ok(()) } else { Err(waiting.to_string()) }
    })
    .await;
    assert_eq!(all(&ledger).await.len(), 1);
    assert_eq!(ledger.session("", "s").await.unwrap().turns.len(), 1);
    stop.cancel();
    running.await.unwrap();
}

/// A sidecar, and what another has written into its Redis: two days, of which today's is known to the ledger returned.
async fn sidecar_with_usage() -> (Redis, Sidecar) {
    let redis = Redis::start();
    let s = Sidecar::start(&format!("store: {{type: redis, url: '{}', key_prefix: u}}", redis.url())).await;
    let limits = LedgerOptions::default();
    let options = redis_options(vec![redis.url()], false, "u");
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = Arc::new(AtomicU64::new(since.as_millis() as u64 - DAY_MS));
    let ledger = ledger_at(&now, &limits, redis_usage(&options, &limits));
    for day in 0..2 {
        for (n, consumer) in (1..).zip(["alice", "", "=2+5"]) {
            let tokens = Tokens { input: n * 100, output: n * 10, cached_input: 7, reasoning: 3 };
            ledger.record(&UsageRecord {
                consumer,
                model: ["gpt-5", "llama,3"][day],
                route: "chat",
                session: "s/1",
                tokens,
                estimated: n == 2,
                cost: n * 1_250_000,
                status: 200,
                outcome: Outcome::Success,
                first_token_ms: 12,
                total_ms: 345,
            });
        }
        ledger.flush().await.unwrap();
        now.fetch_add(DAY_MS, Ordering::Relaxed);
    }
    (redis, s)
}

fn days_ago(days: u64) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Day::of_ms(since.as_millis() as u64 - days * DAY_MS).to_string()
}

#[tokio::test]
async fn usage_over_http() {
    let (_redis, s) = sidecar_with_usage().await;
    let (yesterday, today) = (days_ago(1), days_ago(0));
    let json = |(status, body): (u16, String)| {
        (status, serde_json::from_str::<serde_json::Value>(&body).expect(&body))
    };
    let sums = |n: u64, requests: u64, estimated: u64| {
        serde_json::json!({
            "requests": requests, "estimated": estimated, "cost": n * 1_250_000,
            "tokens": {"input": n * 100, "output": n * 10, "cached_input": requests * 7,
                       "reasoning": requests * 3, "total": n * 110},
        })
    };
    let path = format!("/api/v1/usage?from={yesterday}&by=model,day");
    let (status, body) = json(s.get(&path).await);
    assert_eq!((status, &body["total"]), (200, &sums(12, 6, 2)), "{body}");
    let mut first = sums(6, 3, 1);
    (first["day"], first["model"]) = (yesterday.clone().into(), "gpt-5".into());
    assert_eq!((&body["rows"][0], body["rows"].as_array().unwrap().len()), (&first, 2));
    assert_eq!((&body["from"], &body["to"]), (&yesterday.clone().into(), &today.clone().into()));

    let page = |token: &str| format!("/api/v1/usage?by=consumer&page_size=1&page_token={token}");
    let (mut token, mut consumers) = (String::new(), Vec::new());
    loop {
        let (_, body) = json(s.get(&page(&token)).await);
        consumers.push(body["rows"][0]["consumer"].as_str().unwrap().to_owned());
        token = body["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(consumers, ["=2+5", "", "alice"]);

    let (status, csv) =
        s.get(&format!("/api/v1/usage?from={yesterday}&by=day,consumer&by=model&format=csv")).await;
    let lines: Vec<&str> = csv.split("\r\n").collect();
    assert_eq!((status, lines.len(), lines[7]), (200, 8, ""), "{csv}");
    assert_eq!(
        lines[0],
        "day,consumer,model,requests,estimated,input_tokens,output_tokens,cached_input_tokens,\
         reasoning_tokens,total_tokens,cost_millionths,cost"
    );
    assert_eq!(lines[1], format!("{yesterday},\"'=2+5\",gpt-5,1,0,300,30,7,3,330,3750000,3.75"));
    assert_eq!(lines[5], format!("{today},,\"llama,3\",1,1,200,20,7,3,220,2500000,2.5"));

    let (_, body) = json(s.get("/api/v1/usage/sessions?consumer=alice").await);
    assert_eq!(body["sessions"].as_array().unwrap().len(), 1);
    assert_eq!((&body["sessions"][0]["session"], &body["day"]), (&"s/1".into(), &today.into()));
    let (_, body) = json(s.get("/api/v1/usage/sessions/s%2F1?consumer=alice").await);
    assert_eq!((&body["usage"]["requests"], body["turns"].as_array().unwrap().len()), (&2.into(), 2));
    let turn = &body["turns"][1];
    assert_eq!(
        (&turn["model"], &turn["outcome"], &turn["total_ms"]),
        (&"llama,3".into(), &"success".into(), &345.into())
    );
    let (_, csv) = s.get("/api/v1/usage/sessions/s%2F1?consumer=%28none%29&format=csv").await;
    assert!(
        csv.starts_with("at,model,route") && csv.contains(",gpt-5,chat,200,success,200,20,7,3,true,"),
        "{csv}"
    );

    let wrong = [
        ("?from=1", 400, "from", "from: must be a day such as 2026-11-21, got \"1\""),
        (
            "?by=session",
            400,
            "by",
            "by: must be of day, consumer, model and route, separated by commas, got \"session\"",
        ),
        ("?page_size=0", 400, "page_size", "page_size: must be 1..10000, got \"0\""),
        (
            "?user=x",
            400,
            "query",
            "query: must be parameters that docs/usage.md names for this path, got \"user\"",
        ),
        (
            "?page_token=x",
            400,
            "page_token",
            "page_token: must be the next_page_token of the same query, got \"x\"",
        ),
        ("?from=2026-01-01&from=2", 400, "from", "from: must be given once, got more than once"),
    ];
    for (query, status, field, message) in wrong {
        let (got, body) = json(s.get(&format!("/api/v1/usage{query}")).await);
        assert_eq!(
            (got, &body["error"]["field"], &body["error"]["message"]),
            (status, &field.into(), &message.into())
        );
    }
    let (status, body) = json(s.get("/api/v1/usage/sessions/none").await);
    assert_eq!((status, &body["error"]["code"]), (404, &"not_found".into()));
    let (_, text) = s.get("/metrics").await;
    assert!(text.contains("evenkeel_ledger_waiting_requests 0"), "{text}");
}

/// Runs the command beside the sidecar in this process.
async fn cli(s: &Sidecar, arguments: &str) -> (bool, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(arguments.split(' ')).arg("--server");
    command.arg(format!("http://{}", s.addresses.grpc.as_ref().unwrap()));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn usage_on_the_command_line() {
    let (mut redis, s) = sidecar_with_usage().await;
    let (ok, table) = cli(&s, "usage --days 2").await;
    let expected = "\
MODEL    REQUESTS  ESTIMATED  INPUT  OUTPUT  CACHED  REASONING  COST
gpt-5           3          1    600      60      21          9   7.5
llama,3         3          1    600      60      21          9   7.5
total           6          2   1200     120      42         18    15
";
    assert!(ok && table == expected, "{table}");
    let (_, table) = cli(&s, "usage --by day,consumer --limit 1").await;
    assert!(table.contains("=2+5") && table.ends_with("(more rows: see --limit)\n"), "{table}");
    let (_, csv) = cli(&s, "usage --by consumer --output csv").await;
    let (_, over_http) = s.get(&format!("/api/v1/usage?from={}&by=consumer&format=csv", days_ago(6))).await;
    assert_eq!(csv, over_http);
    let (_, json) = cli(&s, "usage --by route --model gpt-5 --output json").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["rows"][0]["route"], &json["total"]["cost_decimal"]), (&"chat".into(), &"7.5".into()));
    let (_, table) = cli(&s, "usage sessions --consumer (none)").await;
    assert!(table.lines().count() == 2 && table.contains("s/1      (none)"), "{table}");
    let (_, table) = cli(&s, "usage session s/1 --consumer alice").await;
    assert!(table.lines().count() == 4 && table.ends_with("20 output tokens; cost 2.5\n"), "{table}");
    let (ok, error) = cli(&s, "usage session s/1 --consumer bob").await;
    assert!(!ok && error.contains("NOT_FOUND: session \"s/1\" of consumer \"bob\" not found"), "{error}");
    redis.kill();
    let (ok, error) = cli(&s, "usage").await;
    assert!(!ok && error.contains("UNAVAILABLE: reading usage"), "{error}");
}

/// Guards against a drain that ends before what was recorded last is written.
#[tokio::test]
async fn what_waits_is_written_when_draining() {
    let redis = Redis::start();
    let limits = LedgerOptions::default();
    let options = redis_options(vec![redis.url()], false, "");
    let ledger = ledger_at(&Arc::new(AtomicU64::new(NOW)), &limits, redis_usage(&options, &limits));
    for n in 0..30_000 {
        let (consumer, session) = (format!("c{}", n % 3_000), format!("s{}", n % 700));
        ledger.record(&UsageRecord { consumer: &consumer, session: &session, ..UsageRecord::default() });
    }
    ledger.drain(LIMIT).await;
    assert_eq!(ledger.waiting(), 0);
    assert_eq!(ledger.query(&query(&ledger, ""), 1, "").await.unwrap().total.requests, 30_000);
}

#[tokio::test]
async fn on_redis_cluster() {
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

/// What it costs: `cargo test --release --test it -- --ignored --nocapture usage::costs`.
#[tokio::test]
#[ignore = "measures, and needs a release build"]
async fn costs() {
    let redis = Redis::start();
    let limits = LedgerOptions { rows_max: 200_000, ..LedgerOptions::default() };
    let options = redis_options(vec![redis.url()], false, "");
    let ledger = ledger_at(&Arc::new(AtomicU64::new(NOW)), &limits, redis_usage(&options, &limits));
    let consumers: Vec<String> = (0..500).map(|n| format!("consumer-{n:04}")).collect();
    let sessions: Vec<String> = (0..4000).map(|n| format!("session-0123456789abcdef-{n:04}")).collect();
    let tokens = Tokens { input: 1200, output: 350, cached_input: 800, reasoning: 40 };
    let record = |n: usize, session: bool| UsageRecord {
        consumer: &consumers[n * 7 % 500],
        model: ["gpt-5-mini", "llama-3.1-70b"][n % 2],
        route: "chat-completions",
        session: if session { &sessions[n * 13 % 4000] } else { "" },
        tokens,
        cost: 1234,
        status: 200,
        outcome: Outcome::Success,
        first_token_ms: 230,
        total_ms: 4200,
        ..UsageRecord::default()
    };
    for session in [false, true] {
        let (mut spent, count) = (Duration::ZERO, 25_000);
        for _ in 0..8 {
            let started = std::time::Instant::now();
            (0..count).for_each(|n| ledger.record(&record(n, session)));
            spent += started.elapsed();
            ledger.flush().await.unwrap();
        }
        println!("record, session {session}: {} ns", spent.as_nanos() / (8 * count as u128));
        (0..count).for_each(|n| ledger.record(&record(n, session)));
        let started = std::time::Instant::now();
        ledger.flush().await.unwrap();
        println!("flush of {count} requests, session {session}: {:?}", started.elapsed());
    }
    let memory = |key: &str| -> u64 {
        redis::from_redis_value(redis.command(&["MEMORY", "USAGE", key, "SAMPLES", "0"])).unwrap()
    };
    let len = |command: &str, key: &str| -> u64 {
        redis::from_redis_value(redis.command(&[command, key])).unwrap()
    };
    let day = "ek1:{usage:2026-11-18}";
    for (command, key) in [("HLEN", "rows"), ("ZCARD", "sessions"), ("HLEN", "session-sums")] {
        let key = format!("{day}:{key}");
        let (count, bytes) = (len(command, &key), memory(&key));
        println!("{key}: {count} entries, {bytes} bytes, {} each", bytes / count);
    }
    for (command, key) in [("ZCARD", "last"), ("HLEN", "sums")] {
        let key = format!("ek1:{{sessions:3}}:{key}");
        let (count, bytes) = (len(command, &key), memory(&key));
        println!("{key}: {count} entries, {bytes} bytes, {} each", bytes / count);
    }
    let keys: Vec<String> =
        redis::from_redis_value(redis.command(&["KEYS", "ek1:{sessions:3}:turns:*"])).unwrap();
    let (count, bytes) = (len("LLEN", &keys[0]), memory(&keys[0]));
    println!("{}: {count} turns, {bytes} bytes, {} each", keys[0], bytes / count);

    // A full day.
    let names: Vec<String> = (0..100_000).map(|n| format!("consumer-{n:06}")).collect();
    for chunk in names.chunks(9_000) {
        for consumer in chunk {
            ledger.record(&UsageRecord {
                consumer,
                model: "gpt-5-mini",
                route: "chat",
                tokens,
                ..record(0, false)
            });
        }
        ledger.flush().await.unwrap();
    }
    let rows = format!("{day}:rows");
    println!("{rows}: {} entries, {} bytes each", len("HLEN", &rows), memory(&rows) / len("HLEN", &rows));
    for by in ["model", "consumer,model"] {
        let started = std::time::Instant::now();
        let page = ledger.query(&query(&ledger, by), 100, "").await.unwrap();
        println!("query by {by}: {} requests in {:?}", page.total.requests, started.elapsed());
    }
    println!("{}", redis::from_redis_value::<String>(redis.command(&["INFO", "commandstats"])).unwrap());
}

/// From a gateway's Admit and Settle to a query; a Settle sent again counts once, and the drain writes the rest.
#[tokio::test]
async fn what_gateways_settle_is_in_the_ledger() {
    let redis = Redis::start();
    let yaml = format!(
        "store: {{type: redis, url: '{}'}}\nprices: [{{model: gpt-5, input: 2, output: 8}}]\n\
         pools: [{{cluster: llm, endpoints: [{{address: a}}]}}]",
        redis.url()
    );
    let s = Sidecar::start(&yaml).await;
    for lease in 1..=10 {
        let admit = pb::AdmitRequest {
            pool: Some(pool("llm")),
            holder: "h".to_owned(),
            lease,
            subject: Some(pb::Subject { consumer: "alice".to_owned(), ..pb::Subject::default() }),
            model: "gpt-5".to_owned(),
            session: "s".to_owned(),
            ..pb::AdmitRequest::default()
        };
        let answer = s.gateway.clone().admit(admit).await.unwrap().into_inner().answer.unwrap();
        let pb::admit_response::Answer::Admitted(admitted) = answer else { panic!("{answer:?}") };
        let settle = pb::SettleRequest {
            pool: Some(pool("llm")),
            holder: "h".to_owned(),
            lease,
            outcome: pb::Outcome::Success.into(),
            status: 200,
            tokens: Some(pb::Tokens { input: 100, output: 10, ..pb::Tokens::default() }),
            tokens_final: true,
            model: "gpt-5".to_owned(),
            ticket: admitted.ticket,
            ..pb::SettleRequest::default()
        };
        for _ in 0..2 {
            s.gateway.clone().settle(settle.clone()).await.unwrap();
        }
    }
    s.shutdown.cancel();
    s.task.await.unwrap().unwrap();
    let limits = LedgerOptions::default();
    let options = redis_options(vec![redis.url()], false, "");
    let ledger = Ledger::new(limits.clone(), redis_usage(&options, &limits), Metrics::new().unwrap());
    let page = ledger.query(&query(&ledger, "consumer,model"), 10, "").await.unwrap();
    assert_eq!(page.rows.len(), 1);
    assert_eq!(page.rows[0].names(), ["alice", "gpt-5", ""]);
    assert_eq!(page.total, Usage { cost: 10 * 280, ..usage(10, 1000, 100) });
    assert_eq!(ledger.session("alice", "s").await.unwrap().turns.len(), 10);
}
