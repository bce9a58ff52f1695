//! The section `rate_limit_service`: Envoy's rate limit service and its files of limits.

use evenkeel_domain::{
    limit::OnStoreFailure,
    settings::{LimitFiles, RateLimitHeaders, RateLimitService, RateLimiterOptions},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    check::Check,
    files::Files,
    formats::{Outage, RateLimitHeaders as HeadersSchema},
};

/// Envoy's rate limit service.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["config"]))]
pub(super) struct RawRateLimitService {
    /// A file of limits, or a directory. In a directory, the sidecar reads the files whose names end in `.yaml` or
    /// `.yml` and do not begin with a dot: at most 1024 files of at most 8 MiB each. A directory without such a file is
    /// an error, and other files in it are a warning. The sidecar watches the files and reads them again when they
    /// change. A relative path is resolved against the configuration file's directory.
    #[schemars(length(min = 1))]
    config: Option<String>,
    /// Whether several files may define parts of the same domain.
    merge_domains: bool,
    /// Whether to count and report every descriptor but refuse no request.
    shadow_mode: bool,
    /// Whether all limits are in quota mode: a request is refused only if every group of its descriptors is over a limit.
    quota_mode: bool,
    /// Whether responses have dynamic metadata for the gateway's other filters: the descriptors, the quotas that are over,
    /// and the `metadata` of limits that are not over.
    dynamic_metadata: bool,
    /// Headers that report limits to the client. `ratelimit` sends `RateLimit-Limit`, `-Remaining` and `-Reset`. `x`
    /// sends the same headers with the prefix `X-`. `ietf` sends `RateLimit` and `RateLimit-Policy` of the IETF draft.
    #[schemars(with = "HeadersSchema", extend("default" = "none"))]
    headers: Option<RawHeaders>,
    /// Policy while Redis is unavailable. `local`: each sidecar counts on its own. `open`: no request is refused.
    /// `closed`: every request with a limit is refused.
    #[schemars(with = "Outage", extend("default" = "local"))]
    on_store_failure: OnStoreFailure,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be none, or one or a list of ratelimit, x and ietf")]
enum RawHeaders {
    One(String),
    Many(Vec<String>),
}

pub(super) fn validate(check: &mut Check, files: &Files, raw: RawRateLimitService) -> RateLimitService {
    let path = raw.config.unwrap_or_default();
    if path.is_empty() {
        check.fault("rate_limit_service.config", "a file or directory", "none");
    }
    let names = match raw.headers {
        None => Vec::new(),
        Some(RawHeaders::One(name)) if name == "none" => Vec::new(),
        Some(RawHeaders::One(name)) => vec![name],
        Some(RawHeaders::Many(names)) => names,
    };
    let mut headers = RateLimitHeaders::default();
    for name in &names {
        match name.as_str() {
            "ratelimit" => headers.plain = true,
            "x" => headers.x = true,
            "ietf" => headers.ietf = true,
            other => {
                let expected = "none, or one or a list of ratelimit, x and ietf";
                check.fault("rate_limit_service.headers", expected, format!("{other:?}"));
            }
        }
    }
    RateLimitService {
        files: LimitFiles { path: files.resolve(&path), merge_domains: raw.merge_domains },
        options: RateLimiterOptions {
            shadow: raw.shadow_mode,
            quota: raw.quota_mode,
            metadata: raw.dynamic_metadata,
            headers,
            on_store_failure: raw.on_store_failure,
        },
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::{limit::OnStoreFailure, settings::RateLimitHeaders};

    use crate::Config;

    #[test]
    fn the_section_is_parsed() {
        let section = |yaml: &str| Config::parse(yaml).unwrap().rate_limit_service;
        assert!(section("").is_none());
        let plain = section("rate_limit_service: {config: /limits}").unwrap();
        assert_eq!(plain.files.path.to_str(), Some("/limits"));
        assert_eq!(
            (plain.options.headers, plain.options.on_store_failure),
            (RateLimitHeaders::default(), OnStoreFailure::Local)
        );
        let all = section(
            "rate_limit_service: {config: a.yaml, merge_domains: true, shadow_mode: true, quota_mode: true, \
             dynamic_metadata: true, headers: [ratelimit, ietf], on_store_failure: closed}",
        )
        .unwrap();
        assert_eq!(all.options.headers, RateLimitHeaders { plain: true, x: false, ietf: true });
        assert!(all.files.merge_domains && all.options.shadow && all.options.quota && all.options.metadata);
        assert_eq!(all.options.on_store_failure, OnStoreFailure::Closed);
        assert!(section("rate_limit_service: {config: a, headers: x}").unwrap().options.headers.x);
    }

    #[test]
    fn faults_are_reported() {
        assert_eq!(
            Config::parse("rate_limit_service: {headers: [w]}").unwrap_err().0,
            [
                "rate_limit_service.config: must be a file or directory, got none",
                "rate_limit_service.headers: must be none, or one or a list of ratelimit, x and ietf, got \"w\"",
            ]
        );
        assert!(Config::parse("rate_limit_service: {on_store_failure: maybe}").is_err());
        let faults = Config::parse("rate_limit_service: {config: a, headers: {b: c}}").unwrap_err().0;
        assert!(
            faults[0].starts_with("rate_limit_service.headers: must be none, or one or a list of "),
            "{faults:?}"
        );
    }
}
