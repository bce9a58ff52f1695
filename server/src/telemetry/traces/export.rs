//! The exporter: spans leave in batches, over OTLP. Nothing waits for it, and all it holds is bounded.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use anyhow::Context as _;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as Message, Status, span::SpanKind, status::StatusCode},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tracing::{info, warn};

use super::{
    On, TraceMetrics, Tracer,
    span::{Ended, Kind, Sink, Value},
};
use crate::config::Traces;

/// Most ended spans that wait to leave; further ones are dropped.
const QUEUE_MAX: usize = 4096;
/// Most spans in one export.
const BATCH_MAX: usize = 512;
/// Longest a span waits for others to leave with.
const DELAY: Duration = Duration::from_secs(1);
/// How often a batch is sent before it is given up.
const ATTEMPTS_MAX: u32 = 5;
/// Time before a batch is sent again; doubled each time.
const BACKOFF: Duration = Duration::from_millis(500);

/// `HAS_IS_REMOTE` and `IS_REMOTE` of a span's flags, and the flag of a sampled trace.
const FLAGS_LOCAL: u32 = 0x101;
const FLAGS_REMOTE: u32 = 0x301;

/// Sends spans to a collector.
pub struct Exporter {
    client: TraceServiceClient<Channel>,
    headers: MetadataMap,
    resource: Resource,
    timeout: Duration,
    queue: mpsc::Receiver<Ended>,
    metrics: TraceMetrics,
    stop: CancellationToken,
    stopped: CancellationToken,
    /// The last export failed: the next failure is no news.
    failing: bool,
}

/// A tracer for a configuration, and the exporter to run where it is on. Connects when there is something to send.
///
/// # Errors
/// Where TLS cannot be set up.
pub fn start(
    config: Option<&Traces>,
    instance: &str,
    metrics: &TraceMetrics,
) -> anyhow::Result<(Tracer, Option<Exporter>)> {
    let Some(config) = config else { return Ok((Tracer::default(), None)) };
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
    let exporter = Exporter {
        client: TraceServiceClient::new(channel(config)?),
        headers: headers(config)?,
        resource: resource(&config.service_name, instance),
        timeout: config.timeout,
        queue,
        metrics: metrics.clone(),
        stop: stop.clone(),
        stopped: stopped.clone(),
        failing: false,
    };
    let sink = Sink { queue: sender, dropped: metrics.dropped.clone() };
    let below = (config.sample * 2f64.powi(63)) as u64;
    Ok((Tracer(Some(Arc::new(On { sink, below, stop, stopped }))), Some(exporter)))
}

fn channel(config: &Traces) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_str(&config.endpoint).context("traces.endpoint")?;
    let mut endpoint = endpoint.connect_timeout(config.timeout).timeout(config.timeout);
    if config.endpoint.starts_with("https://") {
        let tls = ClientTlsConfig::new();
        let tls = match &config.ca {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        endpoint = endpoint.tls_config(tls).context("traces.endpoint")?;
    }
    Ok(endpoint.connect_lazy())
}

fn headers(config: &Traces) -> anyhow::Result<MetadataMap> {
    let mut headers = MetadataMap::new();
    for (name, secret) in &config.headers {
        let key = AsciiMetadataKey::from_str(name).with_context(|| format!("traces.headers: {name}"))?;
        let mut value = AsciiMetadataValue::from_str(secret.reveal())
            .map_err(|_| anyhow::anyhow!("traces.headers: {name}: not a header's value"))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
}

fn resource(service: &str, instance: &str) -> Resource {
    let text = |key, text: &str| attribute(key, &Value::Text(text.to_owned()));
    Resource {
        attributes: vec![
            text("service.name", service),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", instance),
        ],
        ..Resource::default()
    }
}

impl Exporter {
    /// Exports until [`Tracer::drain`], then what is left, once.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.gather(&mut batch).await {
            let spans = std::mem::take(&mut batch);
            self.send(spans).await;
        }
        self.stopped.cancel();
    }

    /// Waits for a batch; false where nothing will come any more.
    async fn gather(&mut self, batch: &mut Vec<Ended>) -> bool {
        let stop = self.stop.clone();
        let mut leaves_at = None;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            let delay = async {
                match leaves_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // Closed, the queue still gives what is in it.
                () = stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                received = self.queue.recv_many(batch, room) => if received == 0 { break },
                () = delay => break,
            }
            leaves_at = leaves_at.or_else(|| Some(Instant::now() + DELAY));
        }
        !batch.is_empty()
    }

    /// Sends a batch, again where that may help; not while stopping.
    async fn send(&mut self, spans: Vec<Ended>) {
        let count = spans.len() as u64;
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope {
                        name: env!("CARGO_PKG_NAME").to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        ..InstrumentationScope::default()
                    }),
                    spans: spans.into_iter().map(encode).collect(),
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        };
        for attempt in 1.. {
            let error = match self.export(request.clone()).await {
                Ok(refused) => {
                    let refused = refused.min(count);
                    self.metrics.exports_ok.inc();
                    self.metrics.exported.inc_by(count - refused);
                    self.metrics.refused.inc_by(refused);
                    if std::mem::take(&mut self.failing) {
                        info!("traces are exported again");
                    }
                    return;
                }
                Err(error) => error,
            };
            self.metrics.exports_failed.inc();
            if !std::mem::replace(&mut self.failing, true) {
                warn!(%error, "traces not exported (further failures are only counted)");
            }
            if attempt >= ATTEMPTS_MAX || !is_worth_repeating(error.code()) || self.stop.is_cancelled() {
                self.metrics.failed.inc_by(count);
                return;
            }
            let pause = BACKOFF * 2u32.pow(attempt - 1);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// How many spans the collector would not take.
    async fn export(&mut self, message: ExportTraceServiceRequest) -> Result<u64, tonic::Status> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        let answer = tokio::time::timeout(self.timeout, self.client.export(request)).await;
        let answer = answer.map_err(|_| tonic::Status::deadline_exceeded("no answer in time"))??;
        let refused = answer.into_inner().partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(refused).unwrap_or(0))
    }
}

/// As OTLP has it. What ran out of resources may be sent again only where the collector says when, which is not
/// waited for here.
fn is_worth_repeating(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn encode(span: Ended) -> Message {
    let kind = match span.kind {
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
        Kind::Internal => SpanKind::Internal,
    };
    Message {
        trace_id: span.trace.id.to_vec(),
        span_id: span.id.to_vec(),
        trace_state: span.trace.state.to_string(),
        parent_span_id: span.parent.map(|id| id.to_vec()).unwrap_or_default(),
        flags: if span.remote { FLAGS_REMOTE } else { FLAGS_LOCAL },
        name: span.name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: span.start_ns,
        end_time_unix_nano: span.end_ns.max(span.start_ns),
        attributes: span.attributes.iter().map(|(key, value)| attribute(key, value)).collect(),
        status: span.error.map(|message| Status { message, code: StatusCode::Error.into() }),
        ..Message::default()
    }
}

fn attribute(key: &str, value: &Value) -> KeyValue {
    let value = match value {
        Value::Word(word) => any_value::Value::StringValue((*word).to_owned()),
        Value::Shared(text) => any_value::Value::StringValue(text.as_ref().to_owned()),
        Value::Text(text) => any_value::Value::StringValue(text.clone()),
        Value::Number(number) => any_value::Value::IntValue(*number),
        Value::Flag(flag) => any_value::Value::BoolValue(*flag),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
