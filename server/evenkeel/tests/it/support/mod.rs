//! Fixtures: servers, clients, requests and configurations that tests share.

use std::{future::Future, time::Duration};

pub(crate) mod admin;
pub(crate) mod collector;
pub(crate) mod command;
pub(crate) mod http;
#[cfg(feature = "kubernetes")]
pub(crate) mod kubernetes;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod requests;
pub(crate) mod sentinel;
pub(crate) mod sidecar;
pub(crate) mod store;
pub(crate) mod tls;
pub(crate) mod tmux;
pub(crate) mod worker;

/// Returns a port that was free a moment ago. Another process may still take it first.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Returns a bound socket and its port. The port refuses connections until the socket listens.
pub(crate) fn refusing_port() -> (tokio::net::TcpSocket, u16) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// Calls `condition` until it returns `Ok`. After `limit`, panics with the last `Err`.
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
