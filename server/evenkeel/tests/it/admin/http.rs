//! Changes that administrators make over HTTP.

use axum::http::Method;
use serde_json::{Value, json};

use super::start;
use crate::support::{
    admin::{LIMITS_AND_QUOTAS, TOKEN, call},
    sidecar::Sidecar,
};

#[tokio::test]
async fn http_changes_and_lists_quotas() {
    let sidecar = start().await;
    let (get, put, post, delete) = (Method::GET, Method::PUT, Method::POST, Method::DELETE);
    let alice = "/api/v1/quotas/credit/al%2Fice";
    let (status, set) = call(&sidecar, put, alice, Some(r#"{"amount": 10, "note": "welcome"}"#), &[]).await;
    assert_eq!((status, &set["balance"], &set["consumer"]), (200, &json!(10), &json!("al/ice")));
    assert_eq!((&set["counts"], &set["recorded"]), (&json!("tokens"), &json!(true)));
    let adjust = format!("{alice}/adjust");
    for _ in 0..2 {
        let body = Some(r#"{"delta": -3, "request_id": "x"}"#);
        let (status, adjusted) = call(&sidecar, post.clone(), &adjust, body, &[]).await;
        assert_eq!((status, &adjusted["balance"]), (200, &json!(7)));
    }
    let no_token = [("authorization", "")];
    let read = call(&sidecar, get.clone(), alice, None, &no_token).await;
    assert_eq!((read.0, &read.1["balance"]), (200, &json!(7)));
    let changes = call(&sidecar, get.clone(), &format!("{alice}/changes"), None, &no_token).await.1;
    let change = &changes["changes"][1];
    assert_eq!(
        (&change["what"], &change["note"], &change["who"]),
        (&json!("set"), &json!("welcome"), &json!("ops"))
    );
    call(&sidecar, Method::PUT, "/api/v1/quotas/credit/bob", Some(r#"{"amount": 1}"#), &[]).await;
    let list = "/api/v1/quotas?quota=credit&search=&page_size=1";
    let page = call(&sidecar, get.clone(), list, None, &no_token).await.1;
    assert_eq!(
        (&page["quotas"][0]["consumer"], &page["next_page_token"]),
        (&json!("al/ice"), &json!("al/ice"))
    );
    let page = call(&sidecar, get.clone(), &format!("{list}&page_token=al%2Fice"), None, &no_token).await.1;
    assert_eq!((&page["quotas"][0]["consumer"], &page["next_page_token"]), (&json!("bob"), &json!("")));
    assert_eq!(call(&sidecar, delete.clone(), alice, None, &[]).await.0, 204);
    assert_eq!(call(&sidecar, delete, alice, None, &[]).await.0, 404);
}

#[tokio::test]
async fn http_sets_and_deletes_overrides() {
    let sidecar = start().await;
    let path = "/api/v1/overrides/rpm/consumer%3Dalice";
    let (status, set) = call(&sidecar, Method::PUT, path, Some(r#"{"unlimited": true}"#), &[]).await;
    assert_eq!((status, &set["unlimited"], &set["amount"]), (200, &json!(true), &Value::Null));
    let all = call(&sidecar, Method::GET, "/api/v1/overrides?limit=rpm", None, &[]).await.1;
    assert_eq!(all["overrides"], json!([set]));
    for (search, found) in [("ali", 1), ("bob", 0)] {
        let path = format!("/api/v1/overrides?search={search}");
        let some = call(&sidecar, Method::GET, &path, None, &[]).await.1;
        assert_eq!(some["overrides"].as_array().unwrap().len(), found, "{search}");
    }
    let limits = call(&sidecar, Method::GET, "/api/v1/limits", None, &[]).await.1;
    assert_eq!(limits["limits"][1]["form_of_key"], json!("consumer=…|model=…"));
    assert_eq!(call(&sidecar, Method::DELETE, path, None, &[]).await.0, 204);
    assert_eq!(call(&sidecar, Method::DELETE, path, None, &[]).await.0, 404);
}

/// A rejected call: method, path, body and headers, the expected status, and the field that the error names.
type Wrong<'a> = (&'a Method, &'a str, Option<&'a str>, &'a [(&'a str, &'a str)], u16, &'a str);

#[tokio::test]
async fn http_errors_name_the_wrong_field() {
    let sidecar = start().await;
    let (get, put, delete) = (Method::GET, Method::PUT, Method::DELETE);
    let one = r#"{"amount": 1}"#;
    let own = format!("http://{}", sidecar.addresses.http);
    let ok = call(&sidecar, put.clone(), "/api/v1/quotas/credit/a", Some(one), &[("origin", &own)]).await;
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
        // Errors that do not come from a handler are JSON too.
        (&put, "/api/v1/quotas/credit/a", Some(&large), &[], 413, ""),
        (&delete, "/api/v1/pools", None, &[], 405, ""),
        (&Method::POST, "/api/v1/usage", None, &[], 405, ""),
        (&get, "/api/v1/nothing", None, &[], 404, ""),
        (&get, "/api/", None, &[], 404, ""),
        (&get, "/api/v1/quotas/credit/%FF", None, &[], 400, ""),
    ];
    for (method, path, body, headers, status, field) in cases {
        let (got, answer) = call(&sidecar, (*method).clone(), path, *body, headers).await;
        assert_eq!(got, *status, "{method} {path} {body:?} {headers:?}: {answer}");
        assert_eq!(answer["error"]["field"].as_str().unwrap_or(""), *field, "{answer}");
        assert!(!answer["error"]["message"].as_str().unwrap().contains(TOKEN));
    }
    let nobody = Sidecar::start(LIMITS_AND_QUOTAS).await;
    let (status, answer) = call(&nobody, put, "/api/v1/quotas/credit/a", Some(one), &[]).await;
    assert_eq!(status, 403);
    assert!(answer["error"]["message"].as_str().unwrap().contains("admin.tokens"), "{answer}");
}
