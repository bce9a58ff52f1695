//! The command line: what each command prints, and what it ends with, against a real sidecar.

use std::time::Duration;

use evenkeel_proto::v1::{self as pb, admit_response::Answer};
use serde_json::{Value, json};

use crate::support::{
    command::{ADMIN, TOKEN, evenkeel, says, tells, url},
    eventually,
    redis::Redis,
    sidecar::{Sidecar, pool},
};

const CONFIG: &str = "
keep_alive_interval: 60s
pools: [{cluster: llm, cap: 2, endpoints: [{address: 'a:1'}, {address: 'b:1', weight: 3}]}]
limits:
- {name: rpm, counts: requests, amount: 60, per: 1h, key: [consumer]}
- {name: tpm, counts: tokens, amount: 100k, per: 1m, algorithm: token_bucket, burst: 200k, key: [consumer, model]}
quotas: [{name: credit, counts: tokens, kind: prepaid}]
";

/// The embedded store, and Redis.
async fn both() -> Vec<(Option<Redis>, Sidecar)> {
    let memory = Sidecar::start(&format!("{CONFIG}{ADMIN}")).await;
    let redis = Redis::start();
    let store = format!("store: {{type: redis, url: '{}'}}\n", redis.url());
    let shared = Sidecar::start(&format!("{store}{CONFIG}{ADMIN}")).await;
    vec![(None, memory), (Some(redis), shared)]
}

/// Fields of the first that the second has not, or not so.
fn lacking(a: &Value, b: &Value, path: &str, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, value) in a {
                lacking(value, b.get(name).unwrap_or(&Value::Null), &format!("{path}.{name}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| lacking(a, b, &format!("{path}[{i}]"), found));
        }
        // These differ from reading to reading.
        _ if ["read_at_ms", "seen_at_ms", "runs_out_at_ms", "burn_per_hour"]
            .iter()
            .any(|end| path.ends_with(end)) =>
        {
            if a.is_number() != b.is_number() {
                found.push(format!("{path}: {a} is not of the kind of {b}"));
            }
        }
        _ if a == b => {}
        _ => found.push(format!("{path}: {a}, not {b}")),
    }
}

/// What a command prints as JSON is what the HTTP API answers, with the same names and types.
async fn is_as_http_has_it(sidecar: &Sidecar, words: &str, path: &str) {
    eventually(Duration::from_secs(60), "both tell the same", async || {
        let told = tells(sidecar, words).await;
        let (status, body) = sidecar.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        let mut found = Vec::new();
        lacking(&told, &serde_json::from_str(&body).unwrap(), words, &mut found);
        if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
    })
    .await;
}

/// Each list in CSV has a header, and as many records as JSON has items.
async fn csv_agrees(sidecar: &Sidecar, words: &str, header: &str, records: usize) -> String {
    let csv = says(sidecar, &format!("{words} -o csv")).await;
    assert!(csv.ends_with("\r\n") && csv.starts_with(&format!("{header}\r\n")), "{words}: {csv}");
    assert_eq!(csv.lines().count(), records + 1, "{words}: {csv}");
    let columns = header.split(',').count();
    assert!(csv.lines().all(|line| line.split(',').count() == columns), "{words}: {csv}");
    csv
}

#[tokio::test]
async fn every_list_is_json_csv_and_a_table() {
    for (_redis, sidecar) in both().await {
        let s = &sidecar;
        let first = s.lease("llm", "h", 1).await;
        s.lease("llm", "h", 2).await;
        says(s, "limits override rpm consumer=alice --amount 5").await;
        says(s, "limits override rpm consumer=bob --unlimited").await;
        says(s, "quota set alice 100 --note welcome").await;

        is_as_http_has_it(s, "pools", "/api/v1/pools").await;
        is_as_http_has_it(s, "limits list", "/api/v1/limits").await;
        is_as_http_has_it(s, "limits overrides", "/api/v1/overrides").await;
        is_as_http_has_it(s, "quota list", "/api/v1/quotas?quota=credit").await;
        is_as_http_has_it(s, "quota get alice", "/api/v1/quotas/credit/alice").await;
        is_as_http_has_it(s, "quota history alice", "/api/v1/quotas/credit/alice/changes").await;
        is_as_http_has_it(s, "usage sessions", "/api/v1/usage/sessions").await;

        let pools = tells(s, "pools --cluster llm").await;
        assert_eq!((&pools["pools"][0]["in_flight"], &pools["pools"][0]["capacity"]), (&json!(2), &json!(4)));
        let leases = tells(s, "leases --cluster llm").await;
        let lease = &leases["leases"][0];
        assert_eq!(
            (&lease["holder"], &lease["lease"], &lease["endpoint"]),
            (&json!("h"), &json!(1), &json!(*first))
        );
        assert!(lease["age_ms"].is_u64());
        let holders = tells(s, "holders --cluster llm").await;
        assert_eq!(
            (&holders["holders"][0]["leases"], holders["holders"][0]["deadline_in_ms"].is_i64()),
            (&json!(2), true)
        );
        assert_eq!(tells(s, "top --once").await["pools"][0]["in_flight"], 2);
        let explained = tells(s, "explain --consumer alice --model m").await;
        assert_eq!(
            (&explained["limits"][0]["amount"], explained["admitted"].is_boolean()),
            (&json!(5), true)
        );

        let pools = "cluster,route,address,in_flight,cap,weight,listed,drained,current";
        let csv = csv_agrees(s, "pools", pools, 2).await;
        assert!(csv.contains("\r\nllm,,b:1,2,2,3.0,true,false,true\r\n"), "{csv}");
        csv_agrees(s, "top --once", pools, 2).await;
        csv_agrees(s, "leases --cluster llm", "holder,lease,endpoint,age_ms", 2).await;
        csv_agrees(s, "holders --cluster llm", "holder,leases,deadline_in_ms", 1).await;
        csv_agrees(s, "limits list", "name,counts,algorithm,amount,burst,per,key,shadow", 2).await;
        let csv =
            csv_agrees(s, "limits overrides", "limit,key,amount,unlimited,expires_at_ms,who,at_ms", 2).await;
        assert!(csv.contains("rpm,consumer=bob,,true,0,ops,"), "{csv}");
        let quota = "quota,consumer,balance,reserved,used,overrun,amount,reset_ms,counts,recorded";
        csv_agrees(s, "quota list", quota, 1).await;
        csv_agrees(s, "quota get alice", quota, 1).await;
        csv_agrees(s, "quota history alice", "at_ms,what,before,after,who,note", 1).await;
        let explain = "name,kind,applies,key,amount,used,reserved,cost,reset_ms,refuses,shadow,why";
        csv_agrees(s, "explain --consumer alice", explain, 3).await;

        let table = says(s, "pools").await;
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "CLUSTER  ROUTE  ENDPOINT  IN-FLIGHT  CAP  WEIGHT  STATE");
        assert_eq!(lines[2], "llm      (all)  b:1               2    2       3");
    }
}

/// A request of a consumer's, by its id; whether it was admitted.
async fn admit(sidecar: &Sidecar, consumer: &str, lease: u64) -> bool {
    let request = pb::AdmitRequest {
        pool: Some(pool("llm")),
        holder: "h".into(),
        lease,
        subject: Some(pb::Subject { consumer: consumer.into(), ..pb::Subject::default() }),
        model: "m".into(),
        request_id: format!("req-{lease}"),
        ..pb::AdmitRequest::default()
    };
    let answer = sidecar.gateway.clone().admit(request).await.unwrap().into_inner().answer;
    matches!(answer, Some(Answer::Admitted(_)))
}

#[tokio::test]
async fn what_happened_is_told() {
    for (_redis, sidecar) in both().await {
        let s = &sidecar;
        says(s, "quota set alice 100000").await;
        says(s, "limits override rpm consumer=alice --amount 1").await;
        eventually(Duration::from_secs(60), "the override is in force", async || {
            let explained = tells(s, "explain --consumer alice").await;
            if explained["limits"][0]["amount"] == 1 { Ok(()) } else { Err(explained.to_string()) }
        })
        .await;
        assert!(admit(s, "alice", 1).await && !admit(s, "alice", 2).await);
        let told = async |words: &str, list: &str| {
            eventually(Duration::from_secs(60), words, async || {
                let json = tells(s, words).await;
                if json[list].as_array().is_some_and(|list| !list.is_empty()) {
                    Ok(json)
                } else {
                    Err(json.to_string())
                }
            })
            .await
        };
        let refusals = told("refusals", "refusals").await;
        assert_eq!(refusals["refusals"].as_array().unwrap().len(), 1);
        let refusal = tells(s, "refusals req-2").await;
        assert_eq!(refusal, refusals["refusals"][0]);
        assert_eq!(refusal, tells(s, "explain --request-id req-2").await);
        assert_eq!(
            (&refusal["reason"], &refusal["limit"], &refusal["status"]),
            (&json!("limit"), &json!("rpm"), &json!(429))
        );
        let words = says(s, "refusals req-2").await;
        assert!(words.contains("\nbecause       ") && words.contains("consumer      alice"), "{words}");
        assert_eq!(tells(s, "refusals --consumer bob").await, json!({"refusals": []}));
        let unknown = evenkeel(&url(s), None, &["refusals", "req-9"]).await;
        assert_eq!(unknown.status.code(), Some(3));
        is_as_http_has_it(s, "refusals", "/api/v1/refusals").await;
        is_as_http_has_it(s, "refusals req-2", "/api/v1/refusals/req-2").await;
        let refusal = "at_ms,request_id,status,reason,consumer,model,route,cluster,limit,key,amount,used,cost,\
                       retry_after_ms,sidecar,why";
        let csv = says(s, "refusals -o csv").await;
        assert!(
            csv.starts_with(&format!("{refusal}\r\n")) && csv.contains(",req-2,429,limit,alice,m,,llm,rpm,"),
            "{csv}"
        );

        told("sidecars", "sidecars").await;
        is_as_http_has_it(s, "sidecars", "/api/v1/sidecars").await;
        let sidecars = tells(s, "sidecars").await;
        assert_eq!(
            (&sidecars["sidecars"][0]["alive"], &sidecars["sidecars"][0]["store_up"]),
            (&json!(true), &json!(true))
        );
        says(s, "sidecars").await;
        csv_agrees(
            s,
            "sidecars",
            "name,id,alive,stopping,version,store,store_up,store_losses,holders,admitted,refused,started_at_ms,\
             seen_at_ms,limits_revision",
            1,
        )
        .await;

        let sum = |activity: &Value, result: &str| {
            activity["steps"]
                .as_array()
                .unwrap()
                .iter()
                .map(|step| step[result].as_u64().unwrap())
                .sum::<u64>()
        };
        let activity = tells(s, "activity").await;
        assert_eq!((sum(&activity, "shared"), sum(&activity, "limit")), (1, 1), "{activity}");
        assert_eq!((&activity["step_ms"], activity["steps"].as_array().unwrap().len()), (&json!(10_000), 90));
        is_as_http_has_it(
            s,
            "activity --span 48h --cluster llm",
            "/api/v1/activity?span_ms=172800000&cluster=llm",
        )
        .await;
        csv_agrees(
            s,
            "activity",
            "at_ms,admitted,refused,shared,local,open,pool_full,no_endpoints,limit,quota,store_unavailable",
            90,
        )
        .await;

        told("limits fullest", "keys").await;
        is_as_http_has_it(s, "limits fullest --limit rpm", "/api/v1/limits/fullest?limit=rpm").await;
        let fullest = "limit,key,used,amount,share,reset_at_ms,shadow,seen_at_ms,counts";
        csv_agrees(s, "limits fullest --limit rpm", fullest, 1).await;
        let table = says(s, "limits fullest --limit rpm").await;
        assert!(table.contains("consumer=alice") && table.contains("100%"), "{table}");
        is_as_http_has_it(s, "quota burn-rates", "/api/v1/quotas/burn-rates").await;
        let burn_rates = says(s, "quota burn-rates -o csv").await;
        assert!(
            burn_rates.starts_with("quota,consumer,balance,amount,burn_per_hour,runs_out_at_ms,"),
            "{burn_rates}"
        );
        is_as_http_has_it(s, "repairs", "/api/v1/repairs").await;
        csv_agrees(s, "repairs", "at_ms,kind,count,route,cluster,holder,sidecar", 0).await;

        let text = says(s, "top --once").await;
        assert!(
            text.contains("sidecars 1/1") && text.contains("admits ") && text.contains("store up"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn endpoints_are_drained_and_changes_told() {
    for (_redis, sidecar) in both().await {
        let s = &sidecar;
        assert_eq!(tells(s, "drains").await, json!({"drains": []}));
        let drained = tells(s, "drain a:1 --note maintenance").await;
        assert_eq!((&drained["endpoint"], &drained["pool"]), (&json!("a:1"), &Value::Null));
        assert_eq!((&drained["note"], &drained["who"]), (&json!("maintenance"), &json!("ops")));
        let only = tells(s, "drain b:1 --cluster llm").await;
        assert_eq!(only["pool"], json!({"route": "", "cluster": "llm"}));
        is_as_http_has_it(s, "drains", "/api/v1/drains").await;
        let csv = csv_agrees(s, "drains", "endpoint,route,cluster,at_ms,who,note", 2).await;
        assert!(csv.contains("\r\na:1,,,") && csv.contains("\r\nb:1,,llm,"), "{csv}");
        let table = says(s, "drains").await;
        assert!(table.contains("a:1       (every pool)  ") && table.contains("b:1       llm  "), "{table}");
        eventually(Duration::from_secs(60), "the pool shows it", async || {
            let table = says(s, "pools").await;
            if table.matches("  drained\n").count() == 2 { Ok(()) } else { Err(table) }
        })
        .await;
        let undrained = tells(s, "undrain a:1").await;
        assert_eq!(undrained, json!({"endpoint": "a:1", "route": "", "cluster": ""}));
        for (words, code) in [("undrain a:1", 3), ("undrain b:1", 3), ("drain nowhere:1", 3)] {
            let words: Vec<&str> = words.split(' ').collect();
            let output = evenkeel(&url(s), Some(TOKEN), &words).await;
            assert_eq!(
                output.status.code(),
                Some(code),
                "{words:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        says(s, "undrain b:1 --cluster llm").await;
        is_as_http_has_it(s, "changes", "/api/v1/changes").await;
        let changes = tells(s, "changes --last 2").await;
        let what: Vec<_> =
            changes["changes"].as_array().unwrap().iter().map(|c| (&c["what"], &c["who"])).collect();
        assert_eq!(what, [(&json!("endpoint.undrain"), &json!("ops")); 2]);
        csv_agrees(s, "changes", "at_ms,who,what,target,before,after,note", 4).await;
    }
}

#[tokio::test]
async fn changing_commands_answer_in_json() {
    let sidecar = Sidecar::start(&format!("{CONFIG}{ADMIN}")).await;
    let s = &sidecar;
    assert_eq!(tells(s, "quota set alice 10").await["balance"], 10);
    assert_eq!(tells(s, "quota add alice 5").await["balance"], 15);
    assert_eq!(tells(s, "quota subtract alice 1").await["balance"], 14);
    assert_eq!(tells(s, "quota delete alice").await, json!({"quota": "", "consumer": "alice"}));
    assert_eq!(tells(s, "limits override rpm consumer=a --amount 3").await["amount"], 3);
    assert_eq!(tells(s, "limits reset rpm consumer=a").await, json!({"limit": "rpm", "key": "consumer=a"}));
    assert_eq!(
        says(s, "quota set =1+1 3 -o csv").await.lines().nth(1).unwrap().split(',').nth(1),
        Some("\"'=1+1\"")
    );
}

/// Amounts are taken as the configuration takes them; what is counted in millionths says so.
#[tokio::test]
async fn amounts_have_a_unit() {
    let config = "
limits: [{name: spend, counts: cost, amount: 2.50, per: day, key: [consumer]}]
quotas:
- {name: credit, counts: tokens, kind: prepaid}
- {name: money, counts: cost, kind: budget, default: 1.25, per: day}
prices: [{model: m, input: 1, output: 2}]
";
    let sidecar = Sidecar::start(&format!("{config}{ADMIN}")).await;
    let s = &sidecar;
    assert_eq!(tells(s, "quota set alice 100k --quota credit").await["balance"], 100_000);
    assert_eq!(tells(s, "quota add alice 1.5M --quota credit").await["balance"], 1_600_000);
    assert_eq!(tells(s, "quota subtract alice 0.5k --quota credit").await["balance"], 1_599_500);
    assert_eq!(tells(s, "limits override spend consumer=a --amount 3M").await["amount"], 3_000_000);
    // As much as the configuration's 1.25 of the currency.
    let default = tells(s, "quota get bob --quota money").await;
    let set = tells(s, "quota set alice 1.25M --quota money").await;
    assert_eq!((&set["amount"], &set["counts"]), (&default["amount"], &json!("cost")));

    let table = says(s, "quota get alice --quota money").await;
    assert!(table.contains("1250000") && table.contains("  cost (millionths)  "), "{table}");
    assert!(says(s, "limits list").await.contains("  cost (millionths)  "));
    let tokens = says(s, "quota get alice --quota credit").await;
    assert!(tokens.contains("  tokens  ") && !tokens.contains("millionths"), "{tokens}");
    for command in ["quota set", "quota add", "quota list", "limits override", "limits overrides"] {
        let help = says(s, &format!("{command} --help")).await;
        assert!(help.contains("millionths of the currency"), "{command}: {help}");
    }
}

#[tokio::test]
async fn a_command_ends_with_what_its_help_tells() {
    let sidecar = Sidecar::start(&format!("{CONFIG}{ADMIN}")).await;
    let nobody = Sidecar::start(CONFIG).await;
    let (url, nobody, nowhere) = (url(&sidecar), url(&nobody), "http://127.0.0.1:1".to_owned());
    let http = format!("http://{}", sidecar.addresses.http);
    let bare = url.trim_start_matches("http://").to_owned();
    let tls = url.replace("http://", "https://");
    let cases: &[(&str, Option<&str>, &str, i32, &str)] = &[
        (&url, None, "pools", 0, ""),
        (&url, None, "check-config /nowhere.yaml", 1, "cannot be read"),
        (&url, None, "pools --sideways", 2, "unexpected argument"),
        (&url, None, "pools --output xml", 2, "possible values: table, json, csv"),
        (&url, None, "leases", 2, "--cluster"),
        (&url, None, "pools --route r", 2, "--cluster"),
        (&url, None, "pools --server nonsense://", 2, "--server: must be http://host:port"),
        (&bare, None, "pools", 2, "--server: must be http://host:port or unix:/path, got \"127.0.0.1:"),
        (&bare, None, "top --output json", 2, "--server: must be http://host:port"),
        (&tls, None, "pools", 2, "(sidecars do not speak TLS)"),
        (&http, None, "pools", 2, "speaks only HTTP, as listen.http does (port 9191)"),
        (
            &http,
            Some(TOKEN),
            "quota set alice 1",
            2,
            "must be a sidecar's gRPC address (listen.grpc, port 9190)",
        ),
        (&http, None, "top --once", 2, "speaks only HTTP"),
        (&url, Some(TOKEN), "quota set alice 1.5", 2, "must be a whole number up to 10^15, such as"),
        (&url, Some(TOKEN), "quota add alice lots", 2, "1.5M for 1.50"),
        (&url, Some(TOKEN), "quota subtract alice 1000000000000001", 2, "up to 10^15"),
        (&url, Some(TOKEN), "limits override rpm consumer=a --amount 0.5", 2, "must be a whole number"),
        (&url, None, "leases --cluster llm --holder a\u{1}b", 2, "holder: must be"),
        (&url, None, "activity --span soon", 2, "--span"),
        (&url, None, "top --interval 1ms", 2, "must be 200ms..1h"),
        (&url, None, "explain --request-id r --consumer c", 2, "cannot be used with"),
        (
            &url,
            None,
            "pools --cluster none",
            3,
            "cannot show the pool (`evenkeel pools` lists all): pool of route",
        ),
        (&url, None, "quota get alice --quota none", 3, "cannot show the quota"),
        (&url, Some(TOKEN), "limits reset rpm consumer=nobody", 3, "cannot remove the override"),
        (&url, None, "quota set alice 1", 4, "EVENKEEL_ADMIN_TOKEN"),
        (&url, None, "drain a:1", 4, "EVENKEEL_ADMIN_TOKEN"),
        (&url, Some("wrong-token-wrong"), "quota set alice 1", 4, "see EVENKEEL_ADMIN_TOKEN"),
        (&nobody, Some(TOKEN), "quota set alice 1", 4, "admin.tokens"),
        (&nowhere, None, "pools", 5, "no sidecar answers at http://127.0.0.1:1"),
        (&nowhere, None, "sidecars", 5, "no sidecar answers"),
        (&nowhere, None, "top --once", 5, "no sidecar answers"),
    ];
    for (url, token, words, code, says) in cases {
        let words: Vec<&str> = words.split(' ').collect();
        let output = evenkeel(url, *token, &words).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{words:?}: {error}");
        assert!(error.contains(says), "{words:?}: {error}");
        assert_eq!(output.stdout.is_empty(), *code != 0, "{words:?}");
    }
}

/// The store of a sidecar that answers is away.
#[tokio::test]
async fn a_store_that_is_away_is_no_answer() {
    let mut redis = Redis::start();
    let store = format!("store: {{type: redis, url: '{}'}}\n", redis.url());
    let sidecar = Sidecar::start(&format!("{store}{CONFIG}{ADMIN}")).await;
    redis.kill();
    let output = evenkeel(&url(&sidecar), Some(TOKEN), &["quota", "set", "alice", "1"]).await;
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_configuration_is_checked_for_programs_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("evenkeel.yaml").display().to_string();
    let check = async |yaml: &str, output: &str| {
        std::fs::write(&path, yaml).unwrap();
        let output = evenkeel("", None, &["check-config", &path, "--output", output]).await;
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = check("keep_alive_interval: 1ms\nstore: {type: disk}\n", "json").await;
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &json["ok"], json["findings"].as_array().unwrap().len()),
        (1, &json!(false), 2),
        "{text}"
    );
    assert_eq!(json["findings"][0]["level"], "fault");
    assert!(text.contains("store.type: must be memory or redis"), "{text}");
    let warned = "limits: [{name: none, counts: requests, amount: 0, per: day}]";
    let (code, text) = check(warned, "json").await;
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["ok"], &json["findings"][0]["level"]), (0, &json!(true), &json!("warning")));
    assert_eq!(json["files"][0]["file"], json!(path));
    let (_, text) = check(warned, "csv").await;
    assert!(text.starts_with("level,file,message\r\nwarning,"), "{text}");
}

/// Every command of the tree, by its words: those that `evenkeel man --dir` writes a page for.
fn commands(dir: &std::path::Path) -> Vec<String> {
    let mut pages: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    pages
}

#[tokio::test]
async fn help_pages_and_completion() {
    let dir = tempfile::tempdir().unwrap();
    let wrote = evenkeel("", None, &["man", "--dir", dir.path().to_str().unwrap()]).await;
    assert!(wrote.status.success(), "{}", String::from_utf8_lossy(&wrote.stderr));
    let pages = commands(dir.path());
    for page in ["evenkeel.1", "evenkeel-top.1", "evenkeel-quota-set.1", "evenkeel-usage-sessions.1"] {
        assert!(pages.iter().any(|there| there == page), "{page}: {pages:?}");
    }
    // The one that --dir writes, and the one to be read at once, are the same.
    let one = evenkeel("", None, &["man", "quota", "set"]).await.stdout;
    assert_eq!(one, std::fs::read(dir.path().join("evenkeel-quota-set.1")).unwrap());
    let whole = String::from_utf8(evenkeel("", None, &["man"]).await.stdout).unwrap();
    assert!(whole.contains(".TH") && whole.contains("Exit codes"), "{whole}");
    assert_eq!(evenkeel("", None, &["man", "sideways"]).await.status.code(), Some(2));

    let dashed = ["check-config", "config-schema", "convert-higress"];
    for page in pages.iter().filter(|page| *page != "evenkeel.1" && !page.contains("-help")) {
        let name = page.trim_start_matches("evenkeel-").trim_end_matches(".1");
        let words: Vec<&str> = match name {
            "quota-burn-rates" => vec!["quota", "burn-rates"],
            name if dashed.contains(&name) => vec![name],
            name => name.split('-').collect(),
        };
        let output = evenkeel("", None, &[&words[..], &["--help"]].concat()).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Usage: evenkeel"), "{words:?}: {text}");
        let first = text.lines().next().unwrap();
        assert!(first.len() > 10 && !first.starts_with("Usage"), "{words:?}: {first}");
    }
    let help = String::from_utf8(evenkeel("", None, &["--help"]).await.stdout).unwrap();
    assert!(help.contains("Exit codes:") && help.contains("  5  no answer"), "{help}");

    for (shell, expected) in [
        ("bash", "complete -F _evenkeel"),
        ("zsh", "#compdef evenkeel"),
        ("fish", "complete -c evenkeel"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = String::from_utf8(evenkeel("", None, &["completion", shell]).await.stdout).unwrap();
        assert!(script.contains(expected) && script.contains("check-config"), "{shell}");
    }
    // Bash takes its script, and completes with it.
    let script = String::from_utf8(evenkeel("", None, &["completion", "bash"]).await.stdout).unwrap();
    let asked = format!(
        "{script}\nCOMP_WORDS=(evenkeel undr) COMP_CWORD=1; _evenkeel evenkeel undr evenkeel; echo \"${{COMPREPLY[@]}}\""
    );
    let bash = tokio::process::Command::new("bash").args(["-c", &asked]).output().await.unwrap();
    let completed = String::from_utf8(bash.stdout).unwrap();
    assert_eq!(completed.trim(), "undrain", "{}", String::from_utf8_lossy(&bash.stderr));
}
