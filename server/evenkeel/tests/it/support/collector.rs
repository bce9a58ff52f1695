//! An OpenTelemetry collector in the process of the test.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, status::StatusCode},
};
use parking_lot::Mutex;
use tokio::{net::TcpSocket, sync::Notify, task::JoinHandle};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use super::{eventually, refusing_port};

/// What the collector has received, and how it misbehaves.
#[derive(Default)]
pub(crate) struct Got {
    pub(crate) spans: Mutex<Vec<Span>>,
    /// Attributes of the resource in the last export, and the header `x-key` of that export.
    pub(crate) resource: Mutex<HashMap<String, String>>,
    pub(crate) key: Mutex<Option<String>>,
    /// If true, the collector does not answer until `go_on` is notified.
    pub(crate) stalls: AtomicBool,
    /// Number of further exports that the collector answers with `Unavailable`.
    pub(crate) not_ready: AtomicUsize,
    pub(crate) go_on: Notify,
}

#[tonic::async_trait]
impl TraceService for Got {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.stalls.load(Ordering::Relaxed) {
            self.go_on.notified().await;
        }
        let one_less = |left: usize| left.checked_sub(1);
        if self.not_ready.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            return Err(Status::unavailable("not yet"));
        }
        let key = request.metadata().get("x-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
        *self.key.lock() = key;
        for of_resource in request.into_inner().resource_spans {
            let attributes = of_resource.resource.unwrap().attributes.into_iter();
            *self.resource.lock() = attributes.map(|kv| (kv.key, text(kv.value.unwrap().value))).collect();
            self.spans.lock().extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

pub(crate) struct Collector {
    pub(crate) got: Arc<Got>,
    pub(crate) port: u16,
    task: JoinHandle<()>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::start_on(refusing_port().0)
    }

    /// Listens on a socket from [`refusing_port`].
    pub(crate) fn start_on(socket: TcpSocket) -> Self {
        let listener = socket.listen(1024).unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Got::default());
        let service = TraceServiceServer::from_arc(Arc::clone(&got));
        let server = tonic::transport::Server::builder().add_service(service);
        let serve = server.serve_with_incoming(TcpIncoming::from(listener));
        Self { got, port, task: tokio::spawn(async move { serve.await.unwrap() }) }
    }

    /// Returns the configuration section `traces` for this collector. `more` continues the section.
    pub(crate) fn yaml(&self, more: &str) -> String {
        format!("traces: {{endpoint: 'http://127.0.0.1:{}'{more}}}\n", self.port)
    }

    /// Waits until the collector has received this number of spans.
    pub(crate) async fn spans(&self, count: usize) -> Vec<Span> {
        eventually(Duration::from_secs(10), &format!("{count} spans"), || async {
            let spans = self.got.spans.lock().clone();
            if spans.len() >= count { Ok(spans) } else { Err(format!("{:?}", names(&spans))) }
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn text(value: Option<Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        other => format!("{other:?}"),
    }
}

/// Returns the names of spans, sorted.
pub(crate) fn names(spans: &[Span]) -> Vec<&str> {
    let mut names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    names.sort_unstable();
    names
}

/// Returns the only span with this name.
pub(crate) fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let span = found.next().unwrap_or_else(|| panic!("no {name} among {:?}", names(spans)));
    assert!(found.next().is_none(), "{name} twice");
    span
}

pub(crate) fn attributes(span: &Span) -> HashMap<String, String> {
    let pairs = span.attributes.iter();
    pairs.map(|kv| (kv.key.clone(), text(kv.value.clone().and_then(|value| value.value)))).collect()
}

pub(crate) fn code(span: &Span) -> StatusCode {
    span.status.as_ref().map_or(StatusCode::Unset, opentelemetry_proto::tonic::trace::v1::Status::code)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
