//! The cost of recording, writing and reading usage.

use evenkeel_domain::usage::Outcome;

use super::*;

/// Prints what recording costs. Run `cargo test --release -p evenkeel --test it -- --ignored --nocapture usage::costs`.
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
    let day = "ek2:{usage:2026-11-18}";
    for (command, key) in [("HLEN", "rows"), ("ZCARD", "sessions"), ("HLEN", "session-sums")] {
        let key = format!("{day}:{key}");
        let (count, bytes) = (len(command, &key), memory(&key));
        println!("{key}: {count} entries, {bytes} bytes, {} each", bytes / count);
    }
    for (command, key) in [("ZCARD", "last"), ("HLEN", "sums")] {
        let key = format!("ek2:{{sessions:3}}:{key}");
        let (count, bytes) = (len(command, &key), memory(&key));
        println!("{key}: {count} entries, {bytes} bytes, {} each", bytes / count);
    }
    let keys: Vec<String> =
        redis::from_redis_value(redis.command(&["KEYS", "ek2:{sessions:3}:turns:*"])).unwrap();
    let (count, bytes) = (len("LLEN", &keys[0]), memory(&keys[0]));
    println!("{}: {count} turns, {bytes} bytes, {} each", keys[0], bytes / count);

    // The day is full.
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
