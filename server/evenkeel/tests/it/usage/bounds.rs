//! Rows, sessions and turns are bounded, and every key expires.

use evenkeel_domain::usage::OTHER;

use super::*;

#[tokio::test]
async fn rows_beyond_the_bound_fold_into_others_of_their_model() {
    let redis = Redis::start();
    let limits = small(); // 18 of at most 20 rows keep their own names
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
async fn sessions_are_bounded_and_expire_with_their_turns() {
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

    // A session that is older than the retention is removed when a new session is written to the same part.
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
        assert!(key.starts_with("x:ek2:{usage:") || key.starts_with("x:ek2:{sessions:"), "{key}");
        let ttl: i64 = redis::from_redis_value(redis.command(&["PTTL", key])).unwrap();
        assert!(ttl > 3_500_000 && ttl <= 2 * DAY_MS as i64, "{key} expires in {ttl} ms");
    }
}
