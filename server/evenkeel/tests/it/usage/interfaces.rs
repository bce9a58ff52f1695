//! How usage gets from gateways into the ledger, and how HTTP and the command return it.

use evenkeel_domain::usage::{Day, Outcome};
use evenkeel_proto::v1 as pb;

use super::*;
use crate::support::{
    command::evenkeel,
    requests::{admit_for, settle_success},
    sidecar::Sidecar,
};

/// Starts a sidecar whose Redis contains the usage that another sidecar recorded yesterday and today.
async fn sidecar_with_usage() -> (Redis, Sidecar) {
    let redis = Redis::start();
    let s = Sidecar::start(&redis.store(", key_prefix: u")).await;
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
async fn http_reports_usage() {
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
    (first["consumer"], first["route"]) = Default::default();
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
        ("?by=session", 400, "by", "by: must be one of day, consumer, model, route, got \"session\""),
        ("?page_size=10001", 400, "page_size", "page_size: must be at most 10000, got 10001"),
        (
            "?user=x",
            400,
            "user",
            "user: unknown field, must be one of from, to, by, consumer, model, route, page_size, page_token",
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

/// Runs a command. Returns whether it succeeds, and its standard output or, on failure, its standard error.
async fn cli(s: &Sidecar, words: &str) -> (bool, String) {
    let words: Vec<&str> = words.split(' ').collect();
    let output = evenkeel(&s.url(), None, &words).await;
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn the_command_reports_usage() {
    let (mut redis, s) = sidecar_with_usage().await;
    let (ok, table) = cli(&s, "usage --days 2").await;
    let expected = "\
MODEL    REQUESTS  ESTIMATED  INPUT  OUTPUT  CACHED  REASONING  COST
gpt-5           3          1    600      60      21          9   7.5
llama,3         3          1    600      60      21          9   7.5
total           6          2   1200     120      42         18    15
";
    assert!(ok && table == expected, "{table}");
    let (_, table) = cli(&s, "usage --by day,consumer --rows 1").await;
    assert!(table.contains("=2+5") && table.ends_with("(more rows: see --rows)\n"), "{table}");
    let (_, csv) = cli(&s, "usage --by consumer --output csv").await;
    let (_, over_http) = s.get(&format!("/api/v1/usage?from={}&by=consumer&format=csv", days_ago(6))).await;
    assert_eq!(csv, over_http);
    let (_, json) = cli(&s, "usage --by route --model gpt-5 --output json").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["rows"][0]["route"], &json["total"]["cost"]), (&"chat".into(), &7_500_000.into()));
    let (_, table) = cli(&s, "usage sessions --consumer (none)").await;
    assert!(table.lines().count() == 2 && table.contains("s/1      (none)"), "{table}");
    let (_, table) = cli(&s, "usage session s/1 --consumer alice").await;
    assert!(table.lines().count() == 4 && table.ends_with("20 output tokens; cost 2.5\n"), "{table}");
    let (ok, error) = cli(&s, "usage session s/1 --consumer bob").await;
    assert!(!ok && error.contains("session \"s/1\" of consumer \"bob\" not found"), "{error}");
    redis.kill();
    let (ok, error) = cli(&s, "usage").await;
    assert!(!ok && error.contains("cannot show the usage: reading usage"), "{error}");
}

/// A repeated Settle is counted once, and the shutdown writes the records that are still in memory.
#[tokio::test]
async fn a_settlement_is_recorded_once() {
    let redis = Redis::start();
    let yaml =
        "prices: [{model: gpt-5, input: 2, output: 8}]\npools: [{cluster: llm, endpoints: [{address: a}]}]";
    let s = Sidecar::start(&(redis.store("") + yaml)).await;
    for lease in 1..=10 {
        let request = pb::AdmitRequest { session: "s".into(), ..admit_for("alice", "gpt-5", lease) };
        let admitted = s.admitted(request).await;
        let settle = settle_success(lease, admitted.ticket, 100, 10);
        let settle = pb::SettleRequest { model: "gpt-5".into(), ..settle };
        for _ in 0..2 {
            s.end(settle.clone()).await;
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
