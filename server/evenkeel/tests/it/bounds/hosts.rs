//! What a browser of someone else's page can do.

use axum::http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{admin::TOKEN, http, sidecar::Sidecar};

const CONFIG: &str =
    "admin: {tokens: [{name: ops, token: TOKEN}]}\nquotas: [{name: paid, kind: prepaid, counts: tokens}]\n";

/// Sends bytes, and returns the status and the rest of the response.
async fn raw(address: &str, request: &str) -> (u16, String) {
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).await.unwrap();
    (response.split(' ').nth(1).unwrap().parse().unwrap(), response)
}

#[tokio::test]
async fn a_foreign_host_is_misdirected_even_as_its_own_origin() {
    let listen = "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0', hosts: [evenkeel.example]}\n";
    let s = Sidecar::start_at(&(listen.to_owned() + &CONFIG.replace("TOKEN", TOKEN))).await;
    let address = &s.addresses.http;
    let get = |path: &str, more: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{more}\r\n");
        async move { raw(address, &request).await }
    };
    for path in ["/", "/api/v1/pools", "/metrics", "/assets/main.js", "/nowhere"] {
        let (status, text) = get(path, "host: evil.example\r\norigin: http://evil.example\r\n").await;
        assert_eq!(status, 421, "{path}: {text}");
    }
    let body = "{\"amount\": 5}";
    let put = |host: &str| {
        let request = format!(
            "PUT /api/v1/quotas/paid/c HTTP/1.1\r\nhost: {host}\r\norigin: http://{host}\r\nx-evenkeel-token: {TOKEN}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        async move { raw(address, &request).await }
    };
    assert_eq!(put("evil.example").await.0, 421);
    assert_ne!(put("evenkeel.example").await.0, 421);
    for (hosts, expected) in [
        ("host: evenkeel.example:9191\r\n", 200),
        ("host: localhost\r\n", 200),
        ("host: [::1]:1\r\n", 200),
        ("host: localhost\r\nhost: localhost\r\n", 400),
        ("host: localhost\r\nHost: evil.example\r\n", 400),
        ("", 400),
    ] {
        assert_eq!(get("/api/v1/overview", hosts).await.0, expected, "{hosts:?}");
    }
    assert_eq!(get("http://evil.example/api/v1/overview", "host: localhost\r\n").await.0, 400);
    assert_eq!(get("http://evil.example/api/v1/overview", "host: evil.example\r\n").await.0, 421);
    // Load balancers probe under any name.
    assert_eq!(get("/healthz", "host: evil.example\r\n").await.0, 200);
    assert!(s.metric("evenkeel_requests_refused_total{reason=\"host\"}").await >= 8.0);
}

#[tokio::test]
async fn answers_are_not_stored_and_have_the_type_that_they_say() {
    let s = Sidecar::start("").await;
    for path in [
        "/api/v1/overview",
        "/api/v1/pool?cluster=x",
        "/nowhere",
        "/metrics",
        "/healthz",
        "/api/v1/usage?format=csv",
    ] {
        let response = http::open(&s.addresses.http, path).await;
        let headers = response.headers();
        assert_eq!(headers["cache-control"], "no-store", "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
    }
    let page = http::open(&s.addresses.http, "/").await;
    assert_eq!(
        (page.status(), &page.headers()["cache-control"]),
        (StatusCode::OK, &"no-cache".parse().unwrap())
    );
    drop(page.into_body().collect().await.unwrap());
}
