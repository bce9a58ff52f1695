//! The rate limiter's response.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::unit::Unit;

/// The result of evaluating a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// Whether the gateway must refuse the request.
    pub over: bool,
    /// One status for each descriptor, in the order of the request.
    pub statuses: Vec<DescriptorStatus>,
    /// Headers for the client.
    pub headers: Vec<(&'static str, String)>,
    /// What the gateway's other filters may read.
    pub metadata: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescriptorStatus {
    pub over: bool,
    /// `None` if no limit applies.
    pub limit: Option<CurrentLimit>,
    pub remaining: u32,
    /// Seconds until the whole amount is available again, rounded up.
    pub reset_s: u64,
}

/// The limit that applies to a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentLimit {
    /// Empty for a limit without a name.
    pub name: Arc<str>,
    pub requests: u32,
    pub unit: Unit,
}
