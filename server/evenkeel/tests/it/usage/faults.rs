//! Whatever fails, each record is counted once.

use std::collections::BTreeMap;

use evenkeel_domain::usage::{Day, RowKey, SessionKey};
use evenkeel_store::usage::{DayBatch, FlushId, SessionUpdate, session_part};

use super::*;
use crate::support::{
    eventually,
    proxy::{Mode, Proxy},
};

/// The sum of what several sidecars recorded.
#[derive(Default)]
struct Truth {
    rows: BTreeMap<(Day, RowKey), Usage>,
    sessions: BTreeMap<SessionKey, Usage>,
}

/// Guards against batches that are added twice (after a lost reply) or never (after a lost call).
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
        // The moment of the fault varies, so that the proxy loses a call in some rounds and a reply in others.
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
        ledger.flush_all(LIMIT).await;
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

/// Guards against a late call that adds its batch again, after the sidecar gave the call up and repeated it.
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
        // Another instance and another day have sequence numbers of their own.
        let other = FlushId { instance: "j".into(), ..id(1) };
        assert!(!store.add_day(&other, day, &batch).await.unwrap().repeated);
        assert!(!store.add_day(&id(1), day.plus(1), &batch).await.unwrap().repeated);
        assert_eq!(store.rows(day, 0).await.unwrap().rows, [(row.0, usage(3, 30, 15))]);
        assert_eq!(store.rows(day.minus(1), 0).await.unwrap().rows, []);
    }
}

#[tokio::test]
async fn usage_waits_for_a_store_that_is_down_and_queries_fail() {
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
    ledger.flush_all(Duration::from_millis(300)).await;
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

/// Guards against a flush that ends before the last records are written.
#[tokio::test]
async fn a_shutdown_writes_what_waits() {
    let redis = Redis::start();
    let limits = LedgerOptions::default();
    let options = redis_options(vec![redis.url()], false, "");
    let ledger = ledger_at(&Arc::new(AtomicU64::new(NOW)), &limits, redis_usage(&options, &limits));
    for n in 0..30_000 {
        let (consumer, session) = (format!("c{}", n % 3_000), format!("s{}", n % 700));
        ledger.record(&UsageRecord { consumer: &consumer, session: &session, ..UsageRecord::default() });
    }
    ledger.flush_all(LIMIT).await;
    assert_eq!(ledger.waiting(), 0);
    assert_eq!(ledger.query(&query(&ledger, ""), 1, "").await.unwrap().total.requests, 30_000);
}
