//! Callers of a gateway: each sends one chat request at a time over its own HTTP/1 connection.

use std::{rc::Rc, time::Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::super::recorder::Recorder;
use crate::lab::LabError;

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hello, who are you?"}]}"#;

/// Opens a connection to the gateway at `address`.
pub(crate) async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>, LabError> {
    let failed = || LabError::io(format!("connecting to {address}"));
    let stream = TcpStream::connect(address).await.map_err(failed())?;
    stream.set_nodelay(true).map_err(failed())?;
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| LabError::Response { what: format!("connecting to {address}: {error}") })?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// Sends requests until the recorder stops or the connection fails.
pub(crate) async fn call(mut connection: SendRequest<Full<Bytes>>, recorder: Rc<Recorder>) {
    while !recorder.is_stopped() {
        let start = Instant::now();
        let is_ok = send(&mut connection).await;
        recorder.record(start, true, is_ok.is_some_and(|status| status == StatusCode::OK));
        if is_ok.is_none() {
            return;
        }
    }
}

/// Returns the status of the complete response; `None` if the connection failed.
async fn send(connection: &mut SendRequest<Full<Bytes>>) -> Option<StatusCode> {
    connection.ready().await.ok()?;
    let request = Request::post("/v1/chat/completions")
        .header("host", "gateway")
        .header("content-type", "application/json")
        .body(Full::from(BODY))
        .ok()?;
    let response = connection.send_request(request).await.ok()?;
    let status = response.status();
    response.into_body().collect().await.ok()?;
    Some(status)
}
