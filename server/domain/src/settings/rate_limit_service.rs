//! Settings of Envoy's rate limit service.

use std::path::PathBuf;

use crate::limit::OnStoreFailure;

/// The section `rate_limit_service`.
#[derive(Clone, Debug)]
pub struct RateLimitService {
    pub files: LimitFiles,
    pub options: RateLimiterOptions,
}

/// The files that define the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitFiles {
    /// A file, or a directory. In a directory, the sidecar reads the files whose names end in `.yaml` or `.yml` and do
    /// not start with a dot.
    pub path: PathBuf,
    /// Whether several files may define parts of the same domain.
    pub merge_domains: bool,
}

/// Options that apply to all domains.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimiterOptions {
    pub shadow: bool,
    /// Whether all limits are in quota mode.
    pub quota: bool,
    /// Whether responses have dynamic metadata.
    pub metadata: bool,
    pub headers: RateLimitHeaders,
    /// Policy while the store is unavailable.
    pub on_store_failure: OnStoreFailure,
}

/// Response headers that report limits to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimitHeaders {
    /// `RateLimit-Limit`, `-Remaining` and `-Reset`, as in envoyproxy/ratelimit, for the limit that has the least
    /// remaining.
    pub plain: bool,
    /// The same headers with the prefix `X-`.
    pub x: bool,
    /// `RateLimit` and `RateLimit-Policy` of the IETF draft, for all limits.
    pub ietf: bool,
}
