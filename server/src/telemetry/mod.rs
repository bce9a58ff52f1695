//! Metrics and logs.

mod metrics;

pub use metrics::Metrics;
