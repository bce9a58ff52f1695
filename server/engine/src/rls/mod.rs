//! An implementation of Envoy's rate limit service that reads the files of envoyproxy/ratelimit. [`RateLimiter`]
//! evaluates requests against [`Rules`]. [`load`] compiles the rules from the files, and [`Loader`] reloads them after
//! changes. The counters are in [`evenkeel_store::counters`].

mod compile;
mod counter_key;
mod file;
mod files;
mod headers;
mod loader;
mod metrics;
mod pattern;
mod rate_limiter;
mod request;
mod response;
mod tree;
mod unit;
mod watcher;

pub use file::Fault;
pub use files::{Faults, load};
pub use loader::{LoadMetrics, Loader};
pub use metrics::{RateLimitMetrics, RateLimitVectors};
pub use rate_limiter::RateLimiter;
pub use request::{Descriptor, DescriptorEntry, RateLimitRequest};
pub use response::{CurrentLimit, DescriptorStatus, Evaluation};
pub use tree::Rules;
pub use unit::Unit;
