//! Drains over HTTP.

use axum::http::Method;
use serde_json::{Value, json};
use tonic::Code;

use super::{POOLS, drain_of};
use crate::support::{
    admin::{TOKEN, by, call, client, with_admin},
    sidecar::Sidecar,
};

/// A rejected call: method, path, body and headers, and the expected status.
type Wrong<'a> = (&'a Method, &'a str, Option<&'a str>, &'a [(&'a str, &'a str)], u16);

#[tokio::test]
async fn http_drains_and_undrains_endpoints() {
    let sidecar = Sidecar::start(&with_admin(POOLS)).await;
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    let drains = "/api/v1/drains";
    let body = Some(r#"{"endpoint": "m-1:80", "route": "any", "cluster": "llm", "note": "hot"}"#);
    let (status, drained) = call(&sidecar, post.clone(), drains, body, &[]).await;
    assert_eq!((status, &drained["pool"]), (200, &json!({"route": "", "cluster": "llm"})));
    assert_eq!((&drained["who"], &drained["note"]), (&json!("ops"), &json!("hot")));
    let everywhere = call(&sidecar, post.clone(), drains, Some(r#"{"endpoint": "m-0:80"}"#), &[]).await;
    assert_eq!((everywhere.0, &everywhere.1["pool"]), (200, &Value::Null));
    let no_token = [("authorization", "")];
    let list = call(&sidecar, get.clone(), drains, None, &no_token).await;
    assert_eq!((list.0, &list.1["drains"]), (200, &json!([everywhere.1, drained])));

    let foreign = [("origin", "http://evil.example")];
    let of_m1 = "/api/v1/drains?endpoint=m-1%3A80&route=&cluster=llm";
    let cases: &[Wrong<'_>] = &[
        (&post, drains, body, &no_token, 401),
        (&post, drains, body, &[("authorization", "Bearer x")], 401),
        (&post, drains, body, &foreign, 403),
        (&post, drains, body, &[("content-type", "text/plain")], 415),
        (&post, drains, Some("{}"), &[], 400),
        (&post, drains, Some(r#"{"endpoint": "m-1:80", "rout": ""}"#), &[], 400),
        (&post, drains, Some(r#"{"endpoint": "m-1:80", "route": "r"}"#), &[], 400),
        (&post, drains, Some(r#"{"endpoint": ""}"#), &[], 400),
        (&post, drains, Some(r#"{"endpoint": "m-7:80"}"#), &[], 404),
        (&post, drains, Some(r#"{"endpoint": "m-0:80", "cluster": "none"}"#), &[], 404),
        (&delete, of_m1, None, &no_token, 401),
        (&delete, of_m1, None, &foreign, 403),
        (&delete, "/api/v1/drains?endpoint=m-1%3A80", None, &[], 404),
        (&delete, "/api/v1/drains?endpiont=m-1%3A80", None, &[], 400),
        (&delete, drains, None, &[], 400),
        (&get, "/api/v1/changes?page_size=1001", None, &[], 400),
    ];
    for (method, path, body, headers, expected) in cases {
        let (status, answer) = call(&sidecar, (*method).clone(), path, *body, headers).await;
        assert_eq!(status, *expected, "{method} {path} {body:?} {headers:?}: {answer}");
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
    assert_eq!(call(&sidecar, delete.clone(), of_m1, None, &[]).await.0, 204);
    assert_eq!(call(&sidecar, delete.clone(), of_m1, None, &[]).await.0, 404);
    let changes = call(&sidecar, get, "/api/v1/changes?page_size=2", None, &no_token).await.1;
    let logged: Vec<_> =
        changes["changes"].as_array().unwrap().iter().map(|c| (&c["what"], &c["target"])).collect();
    let (undrain, drain) = (json!("endpoint.undrain"), json!("endpoint.drain"));
    assert_eq!(logged, [(&undrain, &json!("m-1:80 in llm")), (&drain, &json!("m-0:80"))]);

    let nobody = Sidecar::start(POOLS).await;
    assert_eq!(call(&nobody, post, drains, body, &[]).await.0, 403);
    let refused =
        client(&nobody).await.drain_endpoint(by(TOKEN, drain_of("m-0:80", None))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}
