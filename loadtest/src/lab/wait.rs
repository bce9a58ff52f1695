//! Waiting for conditions, never for a fixed time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use super::LabError;

/// Between two looks at a condition.
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(5);

/// Asks `condition` until it says yes.
pub async fn until(
    what: impl Into<String>,
    within: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> Result<(), LabError> {
    let start = Instant::now();
    while !condition().await {
        if start.elapsed() > within {
            return Err(LabError::Deadline { what: what.into(), within });
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(())
}

/// One GET on a connection of its own; `None` when there was no answer within two seconds.
pub async fn get(url: &str) -> Option<(StatusCode, String)> {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::get(url).body(Full::default()).ok()?;
    let answer = async {
        let response = client.request(request).await.ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(Duration::from_secs(2), answer).await.ok().flatten()
}
