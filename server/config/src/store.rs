//! The section `store`: memory or Redis.

use std::time::Duration;

use evenkeel_domain::settings::RedisOptions;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Files, StoreConfig, check::Check, credentials, formats::Span};

/// Where counters, quota records, usage and the tables of requests in flight are stored. With `type: memory`, all other
/// fields are rejected, because they would have no effect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStore {
    /// `memory` stores the data in the sidecar's process and shares nothing; it is for a single sidecar, or for trials.
    /// `redis` stores the data in Redis, shared by all sidecars.
    #[serde(rename = "type")]
    #[schemars(extend("default" = "memory"))]
    kind: Option<RawStoreType>,
    /// URL of a Redis server, or of one node of a cluster: `redis://user:password@host:6379/0`, or `rediss://` for TLS.
    /// The sidecar does not watch Redis Sentinel, so the address must always lead to the current primary.
    #[schemars(regex(pattern = "^rediss?://"), extend("x-default" = "required for `redis`, unless `urls` is given"))]
    url: Option<String>,
    /// URLs of several nodes of a cluster, each as in `url`, instead of `url`. More than one URL requires
    /// `cluster: true`.
    #[schemars(inner(regex(pattern = "^rediss?://")))]
    urls: Vec<String>,
    /// The user to log in as, if the URL names none. Requires `password_file`.
    #[schemars(extend("x-default" = "none"))]
    user: Option<String>,
    /// A file that contains the password, such as a mounted secret. Omit the field if the URL contains a user or
    /// password. A relative path is resolved against the configuration file's directory. The sidecar reads the file at
    /// start.
    #[schemars(extend("x-default" = "none"))]
    password_file: Option<String>,
    /// Whether the URLs are nodes of a Redis Cluster.
    #[schemars(extend("default" = false))]
    cluster: Option<bool>,
    /// Prefix of every key, which separates deployments that share a Redis. All sidecars that share their tables need
    /// the same value.
    #[schemars(length(max = 64), regex(pattern = "^[^{}]*$"), extend("default" = "", "x-range" = "at most 64 bytes, without `{` and `}`"))]
    key_prefix: Option<String>,
    /// Maximum time that the sidecar waits for Redis's answer to a call for which a request waits (Admit, Settle). A
    /// request may first have to wait for another call that is in progress. So set at most half of the plugin's
    /// `deadline_ms` (by default 50): then the pool's policy decides about the request, not the gateway's.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "25ms", "x-range" = "1ms..10s"))]
    timeout: Option<Duration>,
    /// Maximum time that the sidecar waits for a connection, and for the answer to any other call (KeepAlives, tables,
    /// recounts, lists), unless `timeout` is longer. No request waits for these calls.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "1s", "x-range" = "1ms..60s"))]
    connect_timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum RawStoreType {
    Memory,
    Redis,
}

pub(super) fn validate(check: &mut Check, files: &mut Files, raw: RawStore) -> StoreConfig {
    match raw.kind.unwrap_or(RawStoreType::Memory) {
        RawStoreType::Memory => {
            let given = [
                ("url", raw.url.is_some()),
                ("urls", !raw.urls.is_empty()),
                ("user", raw.user.is_some()),
                ("password_file", raw.password_file.is_some()),
                ("cluster", raw.cluster.is_some_and(|cluster| cluster)),
                ("key_prefix", raw.key_prefix.is_some_and(|prefix| !prefix.is_empty())),
                ("timeout", raw.timeout.is_some()),
                ("connect_timeout", raw.connect_timeout.is_some()),
            ];
            for (field, _) in given.iter().filter(|(_, given)| *given) {
                check.fault("store.type", &format!("redis if store.{field} is given"), "memory");
            }
            StoreConfig::Memory
        }
        RawStoreType::Redis => StoreConfig::Redis(redis_options(check, files, raw)),
    }
}

fn redis_options(check: &mut Check, files: &mut Files, raw: RawStore) -> RedisOptions {
    if raw.url.is_some() && !raw.urls.is_empty() {
        check.fault("store.urls", "absent if store.url is given", "both");
    }
    let cluster = raw.cluster.unwrap_or(false);
    let key_prefix = raw.key_prefix.unwrap_or_default();
    let mut urls: Vec<String> = raw.url.into_iter().chain(raw.urls).collect();
    if urls.is_empty() {
        check.fault("store.url", "a redis:// or rediss:// URL", "none");
    }
    if urls.len() > 1 && !cluster {
        check.fault("store.urls", "one URL unless store.cluster is true", urls.len());
    }
    for (i, url) in urls.iter().enumerate() {
        if redis::parse_redis_url(url).is_none() {
            // The message does not show the URL, which may contain a password.
            let path = if urls.len() == 1 { "store.url".to_owned() } else { format!("store.urls[{i}]") };
            check.fault(&path, "a redis:// or rediss:// URL", "something else");
        }
    }
    credentials::add_to_urls(check, files, &mut urls, raw.user.as_deref(), raw.password_file.as_deref());
    if key_prefix.contains(['{', '}']) || key_prefix.len() > 64 {
        let got = format!("{key_prefix:?}");
        check.fault("store.key_prefix", "at most 64 bytes without { and }", got);
    }
    let ms = Duration::from_millis;
    RedisOptions {
        urls,
        cluster,
        key_prefix,
        timeout: check.duration("store.timeout", raw.timeout, ms(25), ms(1), ms(10_000)),
        connect_timeout: check.duration(
            "store.connect_timeout",
            raw.connect_timeout,
            ms(1000),
            ms(1),
            ms(60_000),
        ),
    }
}
