//! Metrics of the bounds on connections, messages and their memory.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge};

use super::catalogue::{Catalogue, counters, gauges, int_gauge};

pub struct BoundMetrics {
    pub grpc: ListenerMetrics,
    pub grpc_socket: ListenerMetrics,
    pub http: ListenerMetrics,
    pub refused: RequestsRefused,
    /// Memory that gRPC requests in progress take, in bytes.
    pub request_bytes: IntGauge,
    /// Memory that HTTP responses take until clients have read them, in bytes.
    pub response_bytes: IntGauge,
}

/// Metrics of the connections of one listener.
#[derive(Clone)]
pub struct ListenerMetrics {
    pub open: Gauge,
    /// Closed: no first request came in time.
    pub no_request: IntCounter,
    /// Closed: no further request came in time.
    pub idle: IntCounter,
    /// Closed: a request did not end in time.
    pub request: IntCounter,
    /// Closed: the client read nothing of what was sent.
    pub stalled: IntCounter,
    /// Closed to make room for another connection.
    pub replaced: IntCounter,
    /// Refused: the maximum number of connections is open.
    pub full: IntCounter,
    /// Refused for now: the process cannot open more files.
    pub files: IntCounter,
}

/// Children of `evenkeel_requests_refused_total`.
pub struct RequestsRefused {
    pub too_large: IntCounter,
    pub too_many_parts: IntCounter,
    pub late: IntCounter,
    pub memory: IntCounter,
    pub host: IntCounter,
}

impl BoundMetrics {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let open = gauges(r, "evenkeel_connections", "Open connections, by listener.", &["listener"])?;
        let closed = counters(
            r,
            "evenkeel_connections_closed_total",
            "Connections that the sidecar closed because of a bound, by listener and reason.",
            &["listener", "reason"],
        )?;
        let refused = counters(
            r,
            "evenkeel_connections_refused_total",
            "Connections that the sidecar did not accept, by listener and reason.",
            &["listener", "reason"],
        )?;
        let listener = |name| ListenerMetrics::new(name, &open.with_label_values(&[name]), &closed, &refused);
        let requests = counters(
            r,
            "evenkeel_requests_refused_total",
            "Requests that exceeded a bound of the sidecar's servers, by reason.",
            &["reason"],
        )?;
        Ok(Self {
            grpc: listener("grpc"),
            grpc_socket: listener("grpc_socket"),
            http: listener("http"),
            refused: RequestsRefused {
                too_large: requests.with_label_values(&["too_large"]),
                too_many_parts: requests.with_label_values(&["too_many_parts"]),
                late: requests.with_label_values(&["late"]),
                memory: requests.with_label_values(&["memory"]),
                host: requests.with_label_values(&["host"]),
            },
            request_bytes: int_gauge(
                r,
                "evenkeel_request_memory_bytes",
                "Memory that gRPC requests in progress take, as counted against the sidecar's bound.",
            )?,
            response_bytes: int_gauge(
                r,
                "evenkeel_response_memory_bytes",
                "Memory that HTTP responses take until clients have read them, as counted against the sidecar's bound.",
            )?,
        })
    }
}

impl ListenerMetrics {
    fn new(name: &str, open: &Gauge, closed: &IntCounterVec, refused: &IntCounterVec) -> Self {
        let closed = |reason| closed.with_label_values(&[name, reason]);
        let refused = |reason| refused.with_label_values(&[name, reason]);
        Self {
            open: open.clone(),
            no_request: closed("no_request"),
            idle: closed("idle"),
            request: closed("request"),
            stalled: closed("stalled"),
            replaced: closed("replaced"),
            full: refused("full"),
            files: refused("files"),
        }
    }
}
