//! Envoy's rate limit service.

use std::path::PathBuf;

use crate::limit::OnOutage;

/// The section `rate_limit_service`.
#[derive(Clone, Debug)]
pub struct RateLimitService {
    pub files: LimitFiles,
    pub options: RateLimiterOptions,
}

/// The source of the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitFiles {
    /// A file, or a directory, whose files count that end in `.yaml` or `.yml` and do not start with a dot.
    pub path: PathBuf,
    /// Several files may define the same domain.
    pub merge_domains: bool,
}

/// Options of all domains.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimiterOptions {
    pub shadow: bool,
    pub headers: RateLimitHeaders,
    /// What a sidecar does while the store is unavailable.
    pub on_outage: OnOutage,
}

/// Response headers that show a client its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimitHeaders {
    /// `RateLimit-Limit`, `-Remaining` and `-Reset`, as in envoyproxy/ratelimit, for the tightest limit.
    pub plain: bool,
    /// The same with the prefix `X-`.
    pub x: bool,
    /// `RateLimit` and `RateLimit-Policy` of the IETF draft, for all limits.
    pub ietf: bool,
}
