//! HTTP requests that read the state of a process.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Sends one GET on a new connection. Returns `None` if no complete response arrives within two seconds.
pub async fn get(url: &str) -> Option<(StatusCode, String)> {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::get(url).body(Full::default()).ok()?;
    let exchange = async {
        let response = client.request(request).await.ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(TIMEOUT, exchange).await.ok().flatten()
}

/// Returns whether a GET of this URL succeeds.
pub async fn succeeds(url: &str) -> bool {
    get(url).await.is_some_and(|(status, _)| status.is_success())
}
