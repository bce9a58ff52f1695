//! Logs and traces.

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
    /// The collector: `http://host:port` or `https://host:port`.
    pub endpoint: String,
    /// CA certificates in PEM that its certificate is verified against; `None` for the system's.
    pub ca: Option<String>,
    /// Fraction of the requests without a trace that are recorded, 0 to 1.
    pub sample: f64,
    /// Longest wait for the collector's answer, including repeated exports.
    pub timeout: Duration,
    /// Headers of each export; names in lower case.
    pub headers: Vec<(String, Secret)>,
    /// `service.name` of the exported spans.
    pub service_name: String,
}
