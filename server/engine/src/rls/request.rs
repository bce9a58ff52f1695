//! A request to the rate limiter.

use super::unit::Unit;

/// A key and its value.
pub type DescriptorEntry<'a> = (&'a str, &'a str);

#[derive(Clone, Debug, Default)]
pub struct RateLimitRequest<'a> {
    pub domain: &'a str,
    /// Hits of each descriptor without its own; 0 means 1.
    pub hits: u32,
    pub descriptors: Vec<Descriptor<'a>>,
}

#[derive(Clone, Debug, Default)]
pub struct Descriptor<'a> {
    pub entries: Vec<DescriptorEntry<'a>>,
    /// Applies instead of the file's limit.
    pub limit: Option<(u32, Unit)>,
    /// The descriptor's own hits; 0 only reads the counter.
    pub hits: Option<u64>,
    /// Gives the hits back instead of taking them.
    pub give_back: bool,
}
