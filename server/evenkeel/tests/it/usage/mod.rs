//! Tests of the usage ledger: it reports all recorded usage despite failures, the memory and Redis stores agree, and
//! the bounds hold.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_domain::{
    limit::price::Tokens,
    settings::{LedgerOptions, RedisOptions},
    usage::Usage,
};
use evenkeel_engine::ledger::{
    Clock, Ledger, UsageRecord,
    query::{By, Query, Row},
};
use evenkeel_store::{
    memory::MemoryUsage,
    redis::{Background, RedisClient, RedisUsage},
    usage::{UsageBounds, UsageStore},
};
use evenkeel_telemetry::Metrics;

use crate::support::{redis::Redis, store::redis_options};

mod agreement;
mod bounds;
mod costs;
mod faults;
mod interfaces;
mod queries;
mod repeated;

const NOW: u64 = 1_795_000_000_000;
const DAY_MS: u64 = 86_400_000;
const LIMIT: Duration = Duration::from_secs(20);

fn small() -> LedgerOptions {
    LedgerOptions { sessions_max: 48, rows_max: 20, turns_max: 5, ..LedgerOptions::default() }
}

fn redis_usage(options: &RedisOptions, ledger: &LedgerOptions) -> Arc<dyn UsageStore> {
    let client =
        Arc::new(RedisClient::new(options, Metrics::new().unwrap(), &Background::default()).unwrap());
    Arc::new(RedisUsage::new(client, UsageBounds::from(ledger)))
}

fn memory_usage(ledger: &LedgerOptions) -> Arc<dyn UsageStore> {
    Arc::new(MemoryUsage::new(UsageBounds::from(ledger)))
}

/// Returns a ledger whose clock shows the time in `now`.
fn ledger_at(now: &Arc<AtomicU64>, options: &LedgerOptions, store: Arc<dyn UsageStore>) -> Arc<Ledger> {
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

/// Returns all rows, grouped by all dimensions.
async fn all(ledger: &Ledger) -> Vec<Row> {
    ledger.query(&query(ledger, "day,consumer,model,route"), 10_000, "").await.unwrap().rows
}

fn usage(requests: u64, input: u64, output: u64) -> Usage {
    Usage { requests, tokens: Tokens { input, output, ..Tokens::default() }, ..Usage::default() }
}
