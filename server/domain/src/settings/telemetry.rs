//! Logs and traces.

use std::time::Duration;

use super::Secret;

/// Logging.
#[derive(Clone, Debug)]
pub struct Log {
    /// One JSON object a line.
    pub json: bool,
    /// A `tracing` filter such as `info` or `evenkeel=debug`.
    pub level: String,
}

/// A validated section.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// The collector: `http://host:port`, or `https://`.
    pub endpoint: String,
    /// Certificates it is held against, as PEM; `None` for the system's.
    pub ca: Option<String>,
    /// Which part of the requests is recorded that come without a trace, from 0 to 1.
    pub sample: f64,
    /// Longest wait for an answer of the collector, and time in which an export is repeated.
    pub timeout: Duration,
    /// Headers of each export, names in lower case.
    pub headers: Vec<(String, Secret)>,
    /// `service.name` of what is exported.
    pub service_name: String,
}
