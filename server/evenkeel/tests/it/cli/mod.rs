//! The command against a real sidecar: what it prints, and its exit codes.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    admin::with_admin,
    command::{prints, prints_json},
    eventually,
    redis::Redis,
    sidecar::Sidecar,
};

mod amounts;
mod exits;
mod help;
mod history;
mod lists;
mod offline;

const CONFIG: &str = "
keep_alive_interval: 60s
pools: [{cluster: llm, cap: 2, endpoints: [{address: 'a:1'}, {address: 'b:1', weight: 3}]}]
limits:
- {name: rpm, counts: requests, amount: 60, per: 1h, key: [consumer]}
- {name: tpm, counts: tokens, amount: 100k, per: 1m, algorithm: token_bucket, burst: 200k, key: [consumer, model]}
quotas: [{name: credit, counts: tokens, kind: prepaid}]
";

/// Starts one sidecar on the embedded store and one on Redis.
async fn both() -> Vec<(Option<Redis>, Sidecar)> {
    let memory = Sidecar::start(&with_admin(CONFIG)).await;
    let redis = Redis::start();
    let shared = Sidecar::start(&with_admin(&(redis.store("") + CONFIG))).await;
    vec![(None, memory), (Some(redis), shared)]
}

/// Collects the fields of `a` that `b` lacks or that have another value in `b`.
fn differences(a: &Value, b: &Value, path: &str, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, value) in a {
                differences(value, b.get(name).unwrap_or(&Value::Null), &format!("{path}.{name}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter()
                .zip(b)
                .enumerate()
                .for_each(|(i, (a, b))| differences(a, b, &format!("{path}[{i}]"), found));
        }
        // These fields change between two readings.
        _ if ["read_at_ms", "seen_at_ms", "runs_out_at_ms", "burn_per_hour"]
            .iter()
            .any(|end| path.ends_with(end)) =>
        {
            if a.is_number() != b.is_number() {
                found.push(format!("{path}: {a} is not of the type of {b}"));
            }
        }
        _ if a == b => {}
        _ => found.push(format!("{path}: {a}, not {b}")),
    }
}

/// Checks that a command prints as JSON the same names, types and values that the HTTP API returns.
async fn equals_http(sidecar: &Sidecar, words: &str, path: &str) {
    eventually(Duration::from_secs(60), "both report the same", async || {
        let printed = prints_json(sidecar, words).await;
        let (status, body) = sidecar.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        let mut found = Vec::new();
        differences(&printed, &serde_json::from_str(&body).unwrap(), words, &mut found);
        if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
    })
    .await;
}

/// Checks that a list in CSV has this header and number of records, and returns the list.
async fn csv_agrees(sidecar: &Sidecar, words: &str, header: &str, records: usize) -> String {
    let csv = prints(sidecar, &format!("{words} -o csv")).await;
    assert!(csv.ends_with("\r\n") && csv.starts_with(&format!("{header}\r\n")), "{words}: {csv}");
    assert_eq!(csv.lines().count(), records + 1, "{words}: {csv}");
    let columns = header.split(',').count();
    assert!(csv.lines().all(|line| line.split(',').count() == columns), "{words}: {csv}");
    csv
}
