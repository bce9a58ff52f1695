//! What the tests stand on: real Redis servers, a fault proxy, an in-process sidecar.

use std::{future::Future, time::Duration};

pub(crate) mod command;
pub(crate) mod kubernetes;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod sidecar;
pub(crate) mod tmux;

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until a condition holds; panics with its last answer after `limit`.
pub(crate) async fn eventually<T, F>(limit: Duration, what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(last) if tokio::time::Instant::now() >= deadline => {
                panic!("not within {limit:?}: {what}; last seen: {last}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
