//! The way out: OpenTelemetry's SDK batches ended spans on a thread of its own and sends them over OTLP. Nothing waits
//! for it, and all it holds is bounded. What is counted and logged about it is ours.

use std::{
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use evenkeel_domain::settings::Traces;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{RetryPolicy, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor},
};
use prometheus::IntCounter;
use tonic::{
    Request,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    service::Interceptor,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tracing::{info, warn};

use super::{TraceMetrics, Tracer};

/// Most ended spans that wait to leave; further ones are dropped.
pub(super) const QUEUE_MAX: usize = 4096;
/// Most spans in one export.
const BATCH_MAX: usize = 512;
/// Longest a span waits for others to leave with.
const DELAY: Duration = Duration::from_secs(1);
/// How often an export is repeated before it is given up, if its timeout leaves the time.
const REPEATS_MAX: usize = 4;
/// Time before the first repeat; doubled each time.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(4);

/// A tracer for a configuration. To be called in a runtime; connects when there is something to send.
///
/// # Errors
/// Where TLS cannot be set up.
pub fn start(config: Option<&Traces>, instance: &str, metrics: &TraceMetrics) -> anyhow::Result<Tracer> {
    let Some(config) = config else { return Ok(Tracer::default()) };
    let repeats = RetryPolicy::recommended()
        .with_max_retries(REPEATS_MAX)
        .with_initial_delay(BACKOFF)
        .with_max_delay(BACKOFF_MAX);
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_channel(channel(config)?)
        .with_interceptor(headers(config)?)
        .with_timeout(config.timeout)
        .with_retry_policy(repeats)
        .build()
        .context("traces")?;
    exporter.set_resource(&resource(&config.service_name, instance));
    let waiting = Arc::new(AtomicUsize::new(0));
    let counted = Counted {
        inner: exporter,
        waiting: Arc::clone(&waiting),
        metrics: metrics.clone(),
        failing: AtomicBool::new(false),
    };
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE_MAX)
        .with_max_export_batch_size(BATCH_MAX)
        .with_scheduled_delay(DELAY);
    let processor = BatchSpanProcessor::builder(counted).with_batch_config(batches.build()).build();
    let outbox = Outbox { processor: Box::new(processor), waiting, dropped: metrics.dropped.clone() };
    Ok(Tracer::new(outbox, config.sample))
}

/// A channel of our own: the SDK's has no bound on connecting.
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

/// Puts the configuration's headers in place of what the SDK found in the environment.
fn headers(config: &Traces) -> anyhow::Result<impl Interceptor + Clone + Send + Sync + use<>> {
    let mut headers = MetadataMap::new();
    for (name, secret) in &config.headers {
        let key = AsciiMetadataKey::from_str(name).with_context(|| format!("traces.headers: {name}"))?;
        let mut value = AsciiMetadataValue::from_str(secret.reveal())
            .map_err(|_| anyhow::anyhow!("traces.headers: {name}: not a header's value"))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(move |mut request: Request<()>| {
        request.metadata_mut().clone_from(&headers);
        Ok(request)
    })
}

fn resource(service: &str, instance: &str) -> Resource {
    let attributes = [
        KeyValue::new("service.name", service.to_owned()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance.to_owned()),
    ];
    Resource::builder_empty().with_attributes(attributes).build()
}

/// Where ended spans go. The SDK does not tell what it drops, so there is never more in its queue than it holds: what
/// is too much is dropped here, and counted.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) processor: Box<dyn SpanProcessor>,
    /// Spans in the queue.
    pub(super) waiting: Arc<AtomicUsize>,
    pub(super) dropped: IntCounter,
}

impl Outbox {
    /// Never waits.
    pub(super) fn put(&self, span: SpanData) {
        let one_more = |waiting| (waiting < QUEUE_MAX).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more) {
            Ok(_) => self.processor.on_end(span),
            Err(_) => self.dropped.inc(),
        }
    }

    /// Exports what waits, and takes no more; false where that takes longer than it may. Blocks its thread.
    pub(super) fn close(&self, longest: Duration) -> bool {
        // No room from here on.
        self.waiting.fetch_add(QUEUE_MAX, Ordering::AcqRel);
        self.processor.shutdown_with_timeout(longest).is_ok()
    }
}

/// An exporter, and what is told about its exports.
#[derive(Debug)]
struct Counted<E> {
    inner: E,
    waiting: Arc<AtomicUsize>,
    metrics: TraceMetrics,
    /// The last export failed: the next failure is no news.
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.waiting.fetch_sub(count, Ordering::AcqRel);
        let result = self.inner.export(batch).await;
        let was_failing = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Ok(()) => {
                self.metrics.exports_ok.inc();
                self.metrics.exported.inc_by(count as u64);
                if was_failing {
                    info!("traces are exported again");
                }
            }
            Err(error) => {
                self.metrics.exports_failed.inc();
                self.metrics.failed.inc_by(count as u64);
                if !was_failing {
                    warn!(%error, "traces not exported (further failures are only counted)");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }
}
