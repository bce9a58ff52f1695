//! What strangers can cost a sidecar: memory, connections, open files. Each test attacks a sidecar in a process of its own,
//! and calls it meanwhile as its gateways and probes do.

use std::time::Duration;

use axum::body::{Body, Bytes};
use evenkeel_proto::v1::gateway_client::GatewayClient;
use futures::StreamExt as _;
use hyper::{Request, Response, body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::{eventually, http, process::Process, requests};

mod connections;
mod hosts;
mod memory;
mod series;
mod tokens;

/// A sidecar that is attacked.
struct Fort {
    process: Process,
    grpc: String,
    http: String,
    directory: tempfile::TempDir,
}

impl Fort {
    /// Starts a sidecar with more configuration and a limit of open files.
    async fn start(yaml: &str, files: Option<u32>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listen = "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\nlog: {format: json}\n";
        std::fs::write(directory.path().join("evenkeel.yaml"), listen.to_owned() + yaml).unwrap();
        let (process, ready) = Process::start_limited(directory.path(), files).await;
        let address = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self { process, grpc: address("grpc"), http: address("http"), directory }
    }

    /// Asserts that a new probe and a new gateway get their answers.
    async fn serves(&self, lease: u64) {
        let answers = async {
            let (status, _) = http::get(&self.http, "/healthz").await;
            assert_eq!(status, 200);
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
            let channel = endpoint.connect().await.unwrap();
            GatewayClient::new(channel).admit(requests::admit("llm", lease)).await
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), answers).await.expect("in time");
        // The holder has a secret after its first call; what matters is that the sidecar answers.
        if let Err(status) = answer {
            assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
        }
    }

    async fn metric(&self, name: &str) -> f64 {
        http::metric(&self.http, name).await
    }
}

/// Opens an HTTP/2 connection.
async fn connect(address: &str) -> SendRequest<Body> {
    let socket = TcpStream::connect(address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Returns a request whose body begins with these bytes and does not end.
fn unfinished(method: &str, bytes: impl Into<Bytes>) -> Request<Body> {
    let first = futures::stream::once(std::future::ready(Ok::<Bytes, std::io::Error>(bytes.into())));
    let body = Body::from_stream(first.chain(futures::stream::pending()));
    Request::post(format!("http://x/{method}")).header("content-type", "application/grpc").body(body).unwrap()
}

/// Returns the beginning of a message: its announced length, and some bytes of a field that is skipped.
fn message(announced: usize, sent: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((announced as u32).to_be_bytes());
    // Field 1000, with a length.
    let mut content = vec![0xc2, 0x3e];
    let mut length = announced as u64;
    while length >= 0x80 {
        content.push(length as u8 | 0x80);
        length >>= 7;
    }
    content.push(length as u8);
    content.resize(sent.max(content.len()), b'x');
    bytes.extend(content);
    bytes
}

fn status(response: &Response<Incoming>) -> (String, String) {
    let text =
        |name| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    (text("grpc-status"), text("grpc-message"))
}
