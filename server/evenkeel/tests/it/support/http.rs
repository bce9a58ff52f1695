//! An HTTP client for tests.

use std::fmt::Display;

use axum::{
    body::Body,
    http::{Request, Response},
};
use http_body_util::BodyExt as _;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// Sends a request on a new connection.
pub(crate) async fn send(request: Request<Body>) -> Response<Body> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    client.request(request).await.unwrap().map(Body::new)
}

/// Requests a path from a server at `host:port`. The body of the response may not have arrived yet.
pub(crate) async fn open(server: impl Display, path: &str) -> Response<Body> {
    send(Request::get(format!("http://{server}{path}")).body(Body::empty()).unwrap()).await
}

/// Reads a response to its end. Returns its status and body.
pub(crate) async fn text(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Requests a path, and returns status and body.
pub(crate) async fn get(server: impl Display, path: &str) -> (u16, String) {
    text(open(server, path).await).await
}

/// Returns the value of one metric. `name` includes the labels, as `/metrics` prints them.
pub(crate) async fn metric(server: impl Display, name: &str) -> f64 {
    let (_, text) = get(server, "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}
