//! Administration of quotas and overrides, by gRPC, HTTP and the command line of a real sidecar.

use std::{process::Output, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request},
};
use evenkeel_proto::v1::{self as pb, admin_client::AdminClient, admit_response::Answer};
use http_body_util::BodyExt as _;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use tonic::{Code, metadata::MetadataValue, transport::Channel};

use crate::support::{eventually, proxy, redis::Redis, sidecar::Sidecar};

pub(crate) const TOKEN: &str = "0123456789abcdef";
pub(crate) const CONFIG: &str = "
limits:
- {name: rpm, counts: requests, amount: 60, per: 1m, key: [consumer]}
- {name: tpm, counts: tokens, amount: 1000, per: 1m, algorithm: token_bucket, burst: 2000, key: [consumer, model], mode: shadow}
- {name: parallel, counts: requests, amount: 8, algorithm: concurrency, when: [{attribute: model, exact: big}]}
quotas:
- {name: credit, counts: tokens, kind: prepaid}
- {name: month, counts: tokens, kind: budget, per: month, default: 500}
";

pub(crate) fn with_admins(yaml: &str) -> String {
    format!("{yaml}\nadmin: {{tokens: [{{name: ops, token: {TOKEN}}}]}}\n")
}

async fn start() -> Sidecar {
    Sidecar::start(&with_admins(CONFIG)).await
}

pub(crate) async fn client(sidecar: &Sidecar) -> AdminClient<Channel> {
    let url = format!("http://{}", sidecar.addresses.grpc.as_ref().unwrap());
    AdminClient::new(Channel::from_shared(url).unwrap().connect().await.unwrap())
}

/// A call that shows a token.
pub(crate) fn by<T>(token: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

pub(crate) fn set(quota: &str, consumer: &str, amount: u64) -> pb::SetQuotaRequest {
    let (quota, consumer) = (quota.to_owned(), consumer.to_owned());
    pb::SetQuotaRequest { quota, consumer, amount, note: "a note".into() }
}

#[tokio::test]
async fn changes_need_a_token_and_reading_does_not() {
    let sidecar = start().await;
    let mut admin = client(&sidecar).await;
    let code = |status: tonic::Status| status.code();
    assert_eq!(
        admin.set_quota(set("credit", "a", 1)).await.map_err(code).unwrap_err(),
        Code::Unauthenticated
    );
    let wrong = by("0123456789abcdeX", set("credit", "a", 1));
    assert_eq!(admin.set_quota(wrong).await.map_err(code).unwrap_err(), Code::Unauthenticated);
    let right = admin.set_quota(by(TOKEN, set("credit", "a", 7))).await.unwrap().into_inner();
    assert_eq!((right.balance, right.recorded, right.counts()), (7, true, pb::Counts::Tokens));
    let request = pb::GetQuotaRequest { quota: "credit".into(), consumer: "a".into() };
    assert_eq!(admin.get_quota(request).await.unwrap().into_inner(), right);
    for refused in [
        admin.adjust_quota(pb::AdjustQuotaRequest::default()).await.map(drop),
        admin.delete_quota(pb::DeleteQuotaRequest::default()).await.map(drop),
        admin.set_override(pb::SetOverrideRequest::default()).await.map(drop),
        admin.delete_override(pb::DeleteOverrideRequest::default()).await.map(drop),
    ] {
        assert_eq!(refused.map_err(code).unwrap_err(), Code::Unauthenticated);
    }

    let nobody = Sidecar::start(CONFIG).await;
    let refused = client(&nobody).await.set_quota(by(TOKEN, set("credit", "a", 1))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("admin.tokens"), "{refused}");
    assert!(
        sidecar.get("/metrics").await.1.contains(r#"evenkeel_admin_calls_total{result="wrong_token"} 1"#)
    );
}

#[tokio::test]
async fn quotas_by_grpc() {
    let sidecar = start().await;
    let mut admin = client(&sidecar).await;
    for i in 0..5 {
        admin.set_quota(by(TOKEN, set("credit", &format!("user-{i}"), i))).await.unwrap();
    }
    let list = |prefix: &str, page_token: String| pb::ListQuotasRequest {
        quota: "credit".into(),
        prefix: prefix.into(),
        page_size: 2,
        page_token,
    };
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = admin.list_quotas(list("user-", token)).await.unwrap().into_inner();
        seen.extend(page.quotas.into_iter().map(|quota| (quota.consumer, quota.balance)));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (0..5).map(|i| (format!("user-{i}"), i)).collect::<Vec<_>>());

    let adjust = || {
        by(
            TOKEN,
            pb::AdjustQuotaRequest {
                quota: "month".into(),
                consumer: "user-1".into(),
                delta: -600,
                request_id: "once".into(),
                ..pb::AdjustQuotaRequest::default()
            },
        )
    };
    let first = admin.adjust_quota(adjust()).await.unwrap().into_inner();
    assert_eq!((first.amount, first.balance), (0, 0), "never below 0");
    assert!(first.reset_ms > 0);
    admin.adjust_quota(adjust()).await.unwrap();
    let request = || pb::ListQuotaChangesRequest { quota: "month".into(), consumer: "user-1".into() };
    let changes = admin.list_quota_changes(request()).await.unwrap().into_inner().changes;
    assert_eq!(changes.len(), 1, "the second call changed nothing");
    assert_eq!((changes[0].before, changes[0].after, changes[0].who.as_str()), (500, 0, "ops"));
    let delete = || by(TOKEN, pb::DeleteQuotaRequest { quota: "month".into(), consumer: "user-1".into() });
    admin.delete_quota(delete()).await.unwrap();
    assert_eq!(admin.delete_quota(delete()).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(admin.list_quota_changes(request()).await.unwrap().into_inner().changes.len(), 2);

    let unnamed = admin.set_quota(by(TOKEN, set("", "a", 1))).await.unwrap_err();
    assert_eq!(unnamed.message(), "quota: must be one of credit, month, got none");
    assert_eq!(admin.set_quota(by(TOKEN, set("none", "a", 1))).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn overrides_by_grpc_are_in_force_on_every_sidecar() {
    let redis = Redis::start();
    let yaml = with_admins(&format!("store: {{type: redis, url: '{}'}}\n{CONFIG}", redis.url()));
    let (here, there) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let mut admin = client(&here).await;
    let of = |limit: &str, key: &str| pb::Override {
        limit: limit.into(),
        key: key.into(),
        amount: 3,
        ..pb::Override::default()
    };
    let put = |set: pb::Override| by(TOKEN, pb::SetOverrideRequest { r#override: Some(set) });
    let done = admin.set_override(put(of("tpm", "model=m|consumer=al ice"))).await.unwrap().into_inner();
    assert_eq!((done.key.as_str(), done.who.as_str()), ("consumer=al%20ice|model=m", "ops"));
    eventually(Duration::from_secs(20), "the other sidecar knows it", async || {
        let metrics = there.get("/metrics").await.1;
        if metrics.contains("evenkeel_overrides 1") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let wrong = admin.set_override(put(of("tpm", "consumer=a"))).await.unwrap_err();
    assert!(wrong.message().contains("consumer=…|model=…"), "{wrong}");
    assert_eq!(admin.set_override(put(of("nope", "consumer=a"))).await.unwrap_err().code(), Code::NotFound);
    let listed = client(&there).await.list_overrides(pb::ListOverridesRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().overrides, [done]);
    let limits = admin.list_limits(pb::ListLimitsRequest {}).await.unwrap().into_inner().limits;
    let names: Vec<_> = limits.iter().map(|l| (l.name.as_str(), l.per.as_str(), l.burst, l.shadow)).collect();
    assert_eq!(names, [("rpm", "1m", 0, false), ("tpm", "1m", 2000, true), ("parallel", "", 0, false)]);
    let reset = pb::DeleteOverrideRequest { limit: "tpm".into(), key: "consumer=al ice|model=m".into() };
    admin.delete_override(by(TOKEN, reset)).await.unwrap();
}

#[tokio::test]
async fn changes_while_the_store_is_away_are_refused_clearly() {
    let redis = Redis::start();
    let proxy = proxy::Proxy::start(redis.port).await;
    let yaml = with_admins(&format!("store: {{type: redis, url: '{}'}}\n{CONFIG}", proxy.url()));
    let sidecar = Sidecar::start(&yaml).await;
    let mut admin = client(&sidecar).await;
    admin.set_quota(by(TOKEN, set("credit", "a", 1))).await.unwrap();
    proxy.set(proxy::Mode::Refuse);
    let refused = admin.set_quota(by(TOKEN, set("credit", "a", 2))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().starts_with("changing a quota: store"), "{refused}");
    let (status, body) =
        http(&sidecar, Method::PUT, "/api/v1/quotas/credit/a", Some(r#"{"amount": 1}"#), &[]).await;
    assert_eq!(status, 503, "{body}");
    proxy.set(proxy::Mode::Pass);
    eventually(Duration::from_secs(20), "the store is back", async || {
        admin.clone().set_quota(by(TOKEN, set("credit", "a", 3))).await.map_err(|e| e.to_string())
    })
    .await;
}

/// A call with the token, JSON where there is a body, and more headers; those override.
pub(crate) async fn http(
    sidecar: &Sidecar,
    method: Method,
    path: &str,
    body: Option<&str>,
    headers: &[(&str, &str)],
) -> (u16, Value) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let uri = format!("http://{}{path}", sidecar.addresses.http);
    let mut request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
    let authorization = format!("Bearer {TOKEN}");
    let mut all = vec![("authorization", authorization.as_str())];
    if let Some(body) = body {
        *request.body_mut() = Body::from(body.to_owned());
        all.push(("content-type", "application/json"));
    }
    all.extend(headers);
    for (name, value) in all {
        let name: axum::http::HeaderName = name.parse().unwrap();
        if value.is_empty() {
            request.headers_mut().remove(name);
        } else {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
    }
    let response = client.request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn quotas_by_http() {
    let sidecar = start().await;
    let (get, put, post, delete) = (Method::GET, Method::PUT, Method::POST, Method::DELETE);
    let alice = "/api/v1/quotas/credit/al%2Fice";
    let (status, set) = http(&sidecar, put, alice, Some(r#"{"amount": 10, "note": "welcome"}"#), &[]).await;
    assert_eq!((status, &set["balance"], &set["consumer"]), (200, &json!(10), &json!("al/ice")));
    assert_eq!((&set["counts"], &set["recorded"]), (&json!("tokens"), &json!(true)));
    let adjust = format!("{alice}/adjust");
    for _ in 0..2 {
        let body = Some(r#"{"delta": -3, "request_id": "x"}"#);
        let (status, adjusted) = http(&sidecar, post.clone(), &adjust, body, &[]).await;
        assert_eq!((status, &adjusted["balance"]), (200, &json!(7)));
    }
    let no_token = [("authorization", "")];
    let read = http(&sidecar, get.clone(), alice, None, &no_token).await;
    assert_eq!((read.0, &read.1["balance"]), (200, &json!(7)));
    let changes = http(&sidecar, get.clone(), &format!("{alice}/changes"), None, &no_token).await.1;
    let change = &changes["changes"][1];
    assert_eq!(
        (&change["what"], &change["note"], &change["who"]),
        (&json!("set"), &json!("welcome"), &json!("ops"))
    );
    http(&sidecar, Method::PUT, "/api/v1/quotas/credit/bob", Some(r#"{"amount": 1}"#), &[]).await;
    let list = "/api/v1/quotas?quota=credit&prefix=&page_size=1";
    let page = http(&sidecar, get.clone(), list, None, &no_token).await.1;
    assert_eq!(
        (&page["quotas"][0]["consumer"], &page["next_page_token"]),
        (&json!("al/ice"), &json!("al/ice"))
    );
    let page = http(&sidecar, get.clone(), &format!("{list}&page_token=al%2Fice"), None, &no_token).await.1;
    assert_eq!((&page["quotas"][0]["consumer"], &page["next_page_token"]), (&json!("bob"), &json!("")));
    assert_eq!(http(&sidecar, delete.clone(), alice, None, &[]).await.0, 204);
    assert_eq!(http(&sidecar, delete, alice, None, &[]).await.0, 404);
}

#[tokio::test]
async fn overrides_by_http() {
    let sidecar = start().await;
    let path = "/api/v1/overrides/rpm/consumer%3Dalice";
    let (status, set) = http(&sidecar, Method::PUT, path, Some(r#"{"unlimited": true}"#), &[]).await;
    assert_eq!((status, &set["unlimited"], &set["amount"]), (200, &json!(true), &Value::Null));
    let all = http(&sidecar, Method::GET, "/api/v1/overrides?limit=rpm", None, &[]).await.1;
    assert_eq!(all["overrides"], json!([set]));
    let limits = http(&sidecar, Method::GET, "/api/v1/limits", None, &[]).await.1;
    assert_eq!(limits["limits"][1]["form_of_key"], json!("consumer=…|model=…"));
    assert_eq!(http(&sidecar, Method::DELETE, path, None, &[]).await.0, 204);
    assert_eq!(http(&sidecar, Method::DELETE, path, None, &[]).await.0, 404);
}

/// A call that is refused: method, path, body and headers; the status and the field it names.
type Wrong<'a> = (&'a Method, &'a str, Option<&'a str>, &'a [(&'a str, &'a str)], u16, &'a str);

#[tokio::test]
async fn http_errors_name_what_is_wrong() {
    let sidecar = start().await;
    let (get, put, delete) = (Method::GET, Method::PUT, Method::DELETE);
    let one = r#"{"amount": 1}"#;
    let own = format!("http://{}", sidecar.addresses.http);
    let ok = http(&sidecar, put.clone(), "/api/v1/quotas/credit/a", Some(one), &[("origin", &own)]).await;
    assert_eq!(ok.0, 200, "{}", ok.1);
    let large = format!("{{\"note\": \"{}\"}}", "x".repeat(17 * 1024));
    let cases: &[Wrong<'_>] = &[
        (&put, "/api/v1/quotas/credit/a", Some(one), &[("authorization", "")], 401, "authorization"),
        (&put, "/api/v1/quotas/credit/a", Some(one), &[("authorization", "Bearer x")], 401, "authorization"),
        (&put, "/api/v1/quotas/credit/a", Some(one), &[("origin", "http://evil.example")], 403, "origin"),
        (&put, "/api/v1/quotas/credit/a", Some(one), &[("origin", "null")], 403, "origin"),
        (&delete, "/api/v1/quotas/credit/a", None, &[("origin", "http://evil.example")], 403, "origin"),
        (&put, "/api/v1/quotas/credit/a", Some(one), &[("content-type", "text/plain")], 415, "content-type"),
        (&put, "/api/v1/quotas/credit/a", Some(one), &[("content-type", "")], 415, "content-type"),
        (&put, "/api/v1/quotas/credit/a", Some("{}"), &[], 400, "amount"),
        (&put, "/api/v1/quotas/credit/a", Some(r#"{"amount": 1, "nte": ""}"#), &[], 400, "nte"),
        (&put, "/api/v1/quotas/credit/a", Some(r#"{"amount": 1000000000000001}"#), &[], 400, "amount"),
        (&put, "/api/v1/quotas/none/a", Some(one), &[], 404, ""),
        (&put, "/api/v1/quotas/credit/a%0A", Some(one), &[], 400, "consumer"),
        (&get, "/api/v1/quotas?quota=credit&page_size=x", None, &[], 400, "page_size"),
        (&get, "/api/v1/quotas?quota=credit&page_size=1001", None, &[], 400, "page_size"),
        (&get, "/api/v1/quotas?quota=credit&nme=x", None, &[], 400, "nme"),
        (&get, "/api/v1/quotas", None, &[], 400, "quota"),
        (&put, "/api/v1/overrides/rpm/consumer%3Da", Some("{}"), &[], 400, "amount"),
        (&put, "/api/v1/overrides/rpm/alice", Some(one), &[], 400, "key"),
        (&put, "/api/v1/overrides/none/consumer%3Da", Some(one), &[], 404, ""),
        (
            &put,
            "/api/v1/overrides/rpm/consumer%3Da",
            Some(r#"{"amount": 1, "expires_at_ms": 1}"#),
            &[],
            400,
            "expires_at_ms",
        ),
        // What no handler answers is JSON as well.
        (&put, "/api/v1/quotas/credit/a", Some(&large), &[], 413, ""),
        (&delete, "/api/v1/pools", None, &[], 405, ""),
        (&Method::POST, "/api/v1/usage", None, &[], 405, ""),
        (&get, "/api/v1/nothing", None, &[], 404, ""),
        (&get, "/api/", None, &[], 404, ""),
        (&get, "/api/v1/quotas/credit/%FF", None, &[], 400, ""),
    ];
    for (method, path, body, headers, status, field) in cases {
        let (got, answer) = http(&sidecar, (*method).clone(), path, *body, headers).await;
        assert_eq!(got, *status, "{method} {path} {body:?} {headers:?}: {answer}");
        assert_eq!(answer["error"]["field"].as_str().unwrap_or(""), *field, "{answer}");
        assert!(!answer["error"]["message"].as_str().unwrap().contains(TOKEN));
    }
    let nobody = Sidecar::start(CONFIG).await;
    let (status, answer) = http(&nobody, put, "/api/v1/quotas/credit/a", Some(one), &[]).await;
    assert_eq!(status, 403);
    assert!(answer["error"]["message"].as_str().unwrap().contains("admin.tokens"), "{answer}");
}

/// The command, with the token in its environment.
async fn evenkeel(sidecar: &Sidecar, token: Option<&str>, words: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    let url = format!("http://{}", sidecar.addresses.grpc.as_ref().unwrap());
    command.args(words).env("EVENKEEL_SERVER", url).env_remove("EVENKEEL_ADMIN_TOKEN");
    if let Some(token) = token {
        command.env("EVENKEEL_ADMIN_TOKEN", token);
    }
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Standard output of a command that succeeds.
async fn says(sidecar: &Sidecar, words: &[&str]) -> String {
    let output = evenkeel(sidecar, Some(TOKEN), words).await;
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error and exit code of a command that fails.
async fn fails(sidecar: &Sidecar, token: Option<&str>, words: &[&str]) -> (i32, String) {
    let output = evenkeel(sidecar, token, words).await;
    assert!(output.stdout.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn quotas_on_the_command_line() {
    let sidecar = start().await;
    let set =
        says(&sidecar, &["quota", "set", "alice", "100", "--quota", "credit", "--note", "welcome"]).await;
    assert_eq!(
        set,
        "QUOTA   CONSUMER  BALANCE  RESERVED  USED  OVERRUN  AMOUNT  RESETS-IN  COUNTS  RECORDED\n\
         credit  alice         100         0     0        0       -          -  tokens  yes\n"
    );
    says(&sidecar, &["quota", "add", "alice", "50", "--quota", "credit"]).await;
    says(&sidecar, &["quota", "subtract", "alice", "30", "--quota", "credit", "--request-id", "r"]).await;
    says(&sidecar, &["quota", "subtract", "alice", "30", "--quota", "credit", "--request-id", "r"]).await;
    let got = says(&sidecar, &["quota", "get", "alice", "--quota", "credit", "--output", "json"]).await;
    let got: Value = serde_json::from_str(&got).unwrap();
    assert_eq!((&got["balance"], &got["recorded"]), (&json!(120), &json!(true)));
    says(&sidecar, &["quota", "set", "bob", "5", "--quota", "credit"]).await;
    let list = says(&sidecar, &["quota", "list", "--quota", "credit", "--prefix", "b"]).await;
    assert_eq!(list.lines().count(), 2, "{list}");
    let history = says(&sidecar, &["quota", "history", "alice", "--quota", "credit"]).await;
    let lines: Vec<_> = history.lines().collect();
    assert_eq!(lines.len(), 4, "{history}");
    assert!(lines[3].contains("set") && lines[3].ends_with("ops  welcome"), "{history}");
    assert_eq!(says(&sidecar, &["quota", "delete", "alice", "--quota", "credit"]).await, "DELETED\nalice\n");
    // The budget's period is told.
    let month = says(&sidecar, &["quota", "get", "alice", "--quota", "month"]).await;
    assert!(month.contains("no (default)") && month.contains("500"), "{month}");

    let (code, error) =
        fails(&sidecar, Some(TOKEN), &["quota", "delete", "alice", "--quota", "credit"]).await;
    assert_eq!(code, 3);
    assert!(error.starts_with("evenkeel: sidecar answered NOT_FOUND: record of \"alice\""), "{error}");
    let (code, error) = fails(&sidecar, None, &["quota", "set", "alice", "1", "--quota", "credit"]).await;
    assert!(code == 4 && error.contains("EVENKEEL_ADMIN_TOKEN"), "{error}");
    let (_, error) =
        fails(&sidecar, Some("wrong-token-wrong"), &["quota", "set", "a", "1", "--quota", "credit"]).await;
    assert!(error.contains("UNAUTHENTICATED") && !error.contains("wrong-token"), "{error}");
    assert_eq!(fails(&sidecar, Some(TOKEN), &["quota", "set", "alice", "much"]).await.0, 2);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{TOKEN}\n")).unwrap();
    let path = file.path().to_str().unwrap();
    let words = ["quota", "set", "alice", "1", "--quota", "credit", "--token-file", path];
    assert!(evenkeel(&sidecar, None, &words).await.status.success());
    assert!(evenkeel(&sidecar, Some("wrong-token-wrong"), &words).await.status.success(), "the file first");
}

#[tokio::test]
async fn limits_on_the_command_line() {
    let sidecar = start().await;
    let list = says(&sidecar, &["limits", "list"]).await;
    assert_eq!(
        list,
        "LIMIT     COUNTS    ALGORITHM     AMOUNT  BURST  PER  KEY              SHADOW\n\
         rpm       requests  fixed_window      60      -  1m   consumer         no\n\
         tpm       tokens    token_bucket    1000   2000  1m   consumer, model  yes\n\
         parallel  requests  concurrency        8      -  -    (all)            no\n"
    );
    let set =
        says(&sidecar, &["limits", "override", "rpm", "consumer=alice", "--amount", "5", "--for", "2h"])
            .await;
    assert!(set.contains("consumer=alice") && set.contains("ops"), "{set}");
    says(&sidecar, &["limits", "override", "rpm", "consumer=bob", "--unlimited"]).await;
    let overrides = says(&sidecar, &["limits", "overrides", "--output", "json"]).await;
    let overrides: Value = serde_json::from_str(&overrides).unwrap();
    assert_eq!(overrides["overrides"][0]["amount"], json!(5));
    assert!(overrides["overrides"][0]["expires_at_ms"].as_u64().unwrap() > 0);
    assert_eq!(overrides["overrides"][1]["unlimited"], json!(true));
    says(&sidecar, &["limits", "reset", "rpm", "consumer=alice"]).await;
    assert_eq!(says(&sidecar, &["limits", "overrides"]).await.lines().count(), 2);
    let (code, error) =
        fails(&sidecar, Some(TOKEN), &["limits", "override", "rpm", "alice", "--amount", "1"]).await;
    assert!(code == 2 && error.contains("consumer=…"), "{error}");
    assert_eq!(fails(&sidecar, Some(TOKEN), &["limits", "override", "rpm", "consumer=a"]).await.0, 2);
}

#[tokio::test]
async fn what_applies_is_explained_from_a_file() {
    let sidecar = start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), CONFIG).unwrap();
    let path = file.path().to_str().unwrap();
    let table =
        says(&sidecar, &["explain", "--config", path, "--consumer", "alice", "--model", "small"]).await;
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("rpm").contains("consumer=alice") && line("rpm").contains("always"), "{table}");
    assert!(line("tpm").contains("consumer=alice|model=small"), "{table}");
    assert!(line("parallel").contains("no") && line("parallel").ends_with("not model is \"big\""), "{table}");
    assert!(line("credit").contains("quota  yes"), "{table}");
    let nobody = says(&sidecar, &["explain", "--config", path, "--output", "json"]).await;
    let nobody: Value = serde_json::from_str(&nobody).unwrap();
    assert_eq!(nobody["limits"][0]["why"], json!("the request has no consumer"));
}

/// A request of alice's for a pool.
fn admit(lease: u64) -> pb::AdmitRequest {
    pb::AdmitRequest {
        pool: Some(crate::support::sidecar::pool("llm")),
        holder: "h".into(),
        lease,
        candidates: vec![pb::Candidate { address: "10.0.0.1:80".into(), weight: 1.0, cap: 0 }],
        subject: Some(pb::Subject { consumer: "alice".into(), ..pb::Subject::default() }),
        model: "small".into(),
        prompt_bytes: 400,
        max_output_tokens: 100,
        ..pb::AdmitRequest::default()
    }
}

#[tokio::test]
async fn an_override_is_in_force_for_requests() {
    let sidecar = start().await;
    let mut admin = client(&sidecar).await;
    admin.set_quota(by(TOKEN, set("credit", "alice", 100_000))).await.unwrap();
    admin.set_quota(by(TOKEN, set("month", "alice", 100_000))).await.unwrap();
    let answer = async |lease| sidecar.gateway.clone().admit(admit(lease)).await.unwrap().into_inner().answer;
    assert!(matches!(answer(1).await, Some(Answer::Admitted(_))));
    let none = pb::Override { limit: "rpm".into(), key: "consumer=alice".into(), ..pb::Override::default() };
    admin.set_override(by(TOKEN, pb::SetOverrideRequest { r#override: Some(none) })).await.unwrap();
    let denied = eventually(Duration::from_secs(20), "the override is in force", async || {
        // Each admitted meanwhile takes a number of its own.
        static LEASE: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(2);
        match answer(LEASE.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).await {
            Some(Answer::Denied(denied)) => Ok(denied),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!((denied.status, denied.reason()), (429, pb::Reason::Limit));
    let reset = pb::DeleteOverrideRequest { limit: "rpm".into(), key: "consumer=alice".into() };
    admin.delete_override(by(TOKEN, reset)).await.unwrap();
    eventually(Duration::from_secs(20), "the configured amount applies again", async || {
        match answer(1000).await {
            Some(Answer::Admitted(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn quota_paths_through_the_gateway() {
    let sidecar = Sidecar::start(&format!("{CONFIG}\nquota_admins: [boss]\n")).await;
    let ask = async |lease, consumer: &str, method: &str, path: &str, body: &str| {
        let call = pb::AdminCall { method: method.into(), body: body.as_bytes().to_vec() };
        let path = format!("/v1/chat/completions/quota{path}");
        let subject = pb::Subject { consumer: consumer.into(), path, ..pb::Subject::default() };
        let request = pb::AdmitRequest { admin_call: Some(call), subject: Some(subject), ..admit(lease) };
        match sidecar.gateway.clone().admit(request).await.unwrap().into_inner().answer {
            Some(Answer::DirectResponse(direct)) => (direct.status, String::from_utf8(direct.body).unwrap()),
            other => panic!("not answered: {other:?}"),
        }
    };
    let refresh = "consumer=alice&quota=10000";
    assert_eq!(ask(1, "alice", "POST", "/refresh", refresh).await.0, 403);
    assert_eq!(ask(2, "boss", "POST", "/refresh", refresh).await, (200, "refresh quota successful".into()));
    for lease in [3, 3, 4] {
        let delta = ask(lease, "boss", "POST", "/delta", "consumer=alice&value=-100").await;
        assert_eq!(delta, (200, "delta quota successful".into()));
    }
    let balance = r#"{"consumer":"alice","quota":9800}"#.to_owned();
    assert_eq!(ask(5, "boss", "GET", "?consumer=alice", "").await, (200, balance), "lease 3 counted once");
    let request = pb::ListQuotaChangesRequest { quota: "credit".into(), consumer: "alice".into() };
    let changes = client(&sidecar).await.list_quota_changes(request).await.unwrap().into_inner().changes;
    assert_eq!((changes.len(), changes[0].who.as_str()), (3, "gateway:boss"));
}

#[tokio::test]
async fn a_request_is_explained_on_the_command_line() {
    let sidecar = start().await;
    says(&sidecar, &["quota", "set", "alice", "50", "--quota", "credit"]).await;
    let words =
        ["explain", "--consumer", "alice", "--model", "big", "--prompt-bytes", "4000", "--max-tokens", "10"];
    let table = says(&sidecar, &words).await;
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("rpm").contains("consumer=alice") && line("parallel").contains("yes"), "{table}");
    assert!(line("credit").contains("quota"), "{table}");
    let json = says(&sidecar, &[&words[..], &["--output", "json"]].concat()).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["limits"][0]["amount"], json!(60));
    assert_eq!(json["limits"][3]["name"], json!("credit"));
    assert_eq!(json["limits"][3]["refuses"], json!(!json["admitted"].as_bool().unwrap()));
    let nobody = says(&sidecar, &["explain", "--header", "X-Team=red", "--ip", "10.0.0.1"]).await;
    assert!(nobody.contains("the request would be admitted"), "{nobody}");
}
