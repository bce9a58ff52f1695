//! Starts the tracer. Builds without the feature `traces` cannot export spans.

#[cfg(feature = "traces")]
pub(crate) use evenkeel_otlp::start;

/// Returns a tracer that records nothing.
///
/// # Errors
/// Fails if traces are configured, because this build cannot export them.
#[cfg(not(feature = "traces"))]
pub(crate) fn start(
    config: Option<&evenkeel_domain::settings::Traces>,
    _instance: &str,
    _metrics: &evenkeel_telemetry::traces::TraceMetrics,
) -> anyhow::Result<evenkeel_telemetry::traces::Tracer> {
    anyhow::ensure!(config.is_none(), "traces.endpoint: this build lacks the cargo feature \"traces\"");
    Ok(evenkeel_telemetry::traces::Tracer::default())
}
