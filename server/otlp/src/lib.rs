//! Exports traces by OTLP over gRPC. Only this crate depends on the exporter and its dependencies.

use std::{str::FromStr as _, time::Duration};

use anyhow::Context as _;
use evenkeel_domain::settings::Traces;
use evenkeel_telemetry::traces::{TraceMetrics, Tracer};
use opentelemetry::KeyValue;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use tonic::{
    Request,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    service::Interceptor,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

/// Maximum number of retries of an export. The timeout of the export may allow fewer.
const RETRIES_MAX: usize = 4;
/// Wait before the first retry. It doubles with each further retry, up to `BACKOFF_MAX`.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(4);

/// Returns a tracer that exports to the configured collector, or a tracer that records nothing if no collector is
/// configured. Must be called inside a Tokio runtime.
///
/// # Errors
/// Fails if TLS cannot be set up, or a header is invalid.
pub fn start(config: Option<&Traces>, instance: &str, metrics: &TraceMetrics) -> anyhow::Result<Tracer> {
    let Some(config) = config else { return Ok(Tracer::default()) };
    Ok(Tracer::new(exporter(config, instance)?, config.sample_ratio, metrics))
}

/// Returns an exporter that connects at the first export.
fn exporter(config: &Traces, instance: &str) -> anyhow::Result<SpanExporter> {
    let retries = RetryPolicy::recommended()
        .with_max_retries(RETRIES_MAX)
        .with_initial_delay(BACKOFF)
        .with_max_delay(BACKOFF_MAX);
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel(config)?)
        .with_interceptor(headers(config)?)
        .with_timeout(config.timeout)
        .with_retry_policy(retries)
        .build()
        .context("traces")?;
    exporter.set_resource(&resource(&config.service_name, instance));
    Ok(exporter)
}

/// Returns a channel with a timeout for connecting, which the SDK's own channel lacks.
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

/// Replaces the headers that the SDK reads from the environment with the headers in the configuration.
fn headers(config: &Traces) -> anyhow::Result<impl Interceptor + Clone + Send + Sync + use<>> {
    let mut headers = MetadataMap::new();
    for (name, secret) in &config.headers {
        let key = AsciiMetadataKey::from_str(name).with_context(|| format!("traces.headers: {name}"))?;
        let mut value = AsciiMetadataValue::from_str(secret.reveal())
            .map_err(|_| anyhow::anyhow!("traces.headers: {name}: invalid header value"))?;
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
