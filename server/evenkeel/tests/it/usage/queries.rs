//! The pages of a query, and the ranges that a query accepts.

use evenkeel_domain::usage::{Day, NONE};

use super::*;

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
