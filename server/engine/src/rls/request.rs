//! A request to the rate limiter.

use super::unit::Unit;

/// A key and its value.
pub type DescriptorEntry<'a> = (&'a str, &'a str);

#[derive(Clone, Debug, Default)]
pub struct RateLimitRequest<'a> {
    pub domain: &'a str,
    /// Hits of each descriptor that has no hits of its own. 0 means 1.
    pub hits: u32,
    pub descriptors: Vec<Descriptor<'a>>,
}

#[derive(Clone, Debug, Default)]
pub struct Descriptor<'a> {
    pub entries: Vec<DescriptorEntry<'a>>,
    /// The descriptor's own limit. It replaces the limit of the file.
    pub limit: Option<(u32, Unit)>,
    /// The descriptor's own hits. 0 only reads the counter.
    pub hits: Option<u64>,
    /// Whether the hits are given back instead of taken.
    pub give_back: bool,
}
