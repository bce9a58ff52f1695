//! Envoy's rate limit service.

use std::path::PathBuf;

use crate::limit::OnOutage;

/// A validated section.
#[derive(Clone, Debug)]
pub struct RateLimitService {
    pub files: LimitFiles,
    /// What holds for all domains.
    pub options: RateLimiterOptions,
}

/// Where the files of limits are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitFiles {
    /// A file, or a directory: its files that end in `.yaml` or `.yml` and do not begin with a dot.
    pub path: PathBuf,
    /// A domain may be spread over several files.
    pub merge_domains: bool,
}

/// What holds for all domains.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimiterOptions {
    /// Nothing is refused.
    pub shadow: bool,
    /// Headers added to responses.
    pub headers: RateLimitHeaders,
    /// While the store is unavailable.
    pub on_outage: OnOutage,
}

/// Which headers tell a client about the limit it is closest to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimitHeaders {
    /// `RateLimit-Limit`, `-Remaining` and `-Reset`, as envoyproxy/ratelimit has them.
    pub plain: bool,
    /// The same with `X-` before them.
    pub x: bool,
    /// `RateLimit` and `RateLimit-Policy` of the IETF draft, of all limits.
    pub ietf: bool,
}
