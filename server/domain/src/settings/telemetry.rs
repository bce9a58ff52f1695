//! Settings of logs and traces.

use std::time::Duration;

use super::Secret;

#[derive(Clone, Debug)]
pub struct Log {
    /// Whether each line is a JSON object.
    pub json: bool,
    /// A `tracing` filter such as `info` or `evenkeel=debug`.
    pub level: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// URL of the collector: `http://host:port` or `https://host:port`.
    pub endpoint: String,
    /// CA certificates in PEM against which the collector's certificate is verified; `None` for the system's
    /// certificates.
    pub ca: Option<String>,
    /// Fraction, from 0 to 1, of the requests without a trace for which the sidecar starts one.
    pub sample_ratio: f64,
    /// Maximum wait for the collector's answer, including repeated exports.
    pub timeout: Duration,
    /// Headers of each export. Names are in lower case.
    pub headers: Vec<(String, Secret)>,
    /// `service.name` of the exported spans.
    pub service_name: String,
}
