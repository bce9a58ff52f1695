//! The section `store`: memory or Redis.

use std::time::Duration;

use evenkeel_domain::settings::{RedisOptions, Sentinel, TlsFiles, Topology};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Files, StoreConfig, check::Check, credentials, formats::Span, store_tls};

/// Where counters, quota records, usage and the tables of requests in flight are stored. With `type: memory`, all other
/// fields are rejected, because they would have no effect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStore {
    /// `memory` stores the data in the sidecar's process and shares nothing; it is for a single sidecar, or for trials.
    /// `redis` stores the data in Redis, shared by all sidecars. `sentinel` is the same, in the Redis that Redis Sentinel
    /// names.
    #[serde(rename = "type")]
    #[schemars(extend("default" = "memory"))]
    kind: Option<RawStoreType>,
    /// URL of a Redis server, or of one node of a cluster: `redis://user:password@host:6379/0`, or `rediss://` for TLS.
    /// Only for `redis`. The address must always lead to the current primary.
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
    /// password. A relative path is resolved against the configuration file's directory. The sidecar reads the file
    /// whenever it opens a connection.
    #[schemars(extend("x-default" = "none"))]
    password_file: Option<String>,
    /// Certificates for TLS. Requires `rediss://` URLs. With `type: sentinel`, the sidecar connects to the primary with
    /// TLS if this section is present.
    #[schemars(extend("x-default" = "none"))]
    tls: Option<store_tls::RawStoreTls>,
    /// Whether the URLs are nodes of a Redis Cluster.
    #[schemars(extend("default" = false))]
    cluster: Option<bool>,
    /// URLs of the sentinels, such as `redis://sentinel-0:26379`, or `rediss://` for TLS. Only for `sentinel`, which
    /// requires at least one. Give all of them: the sidecar asks every sentinel, and believes the newest answer.
    #[schemars(inner(regex(pattern = "^rediss?://")))]
    sentinels: Vec<String>,
    /// The name under which the sentinels watch the primary, as in their `sentinel monitor`.
    #[schemars(extend("x-default" = "required for `sentinel`"))]
    master_name: Option<String>,
    /// The user to log in as at the sentinels. Requires `sentinel_password_file`.
    #[schemars(extend("x-default" = "none"))]
    sentinel_user: Option<String>,
    /// A file that contains the password for the sentinels, as in `password_file`.
    #[schemars(extend("x-default" = "none"))]
    sentinel_password_file: Option<String>,
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
    Sentinel,
}

impl RawStore {
    /// Returns the fields that a store in Redis has, and whether they are given.
    fn of_redis(&self) -> [(&'static str, bool); 6] {
        [
            ("user", self.user.is_some()),
            ("password_file", self.password_file.is_some()),
            ("tls", self.tls.is_some()),
            ("key_prefix", self.key_prefix.as_ref().is_some_and(|prefix| !prefix.is_empty())),
            ("timeout", self.timeout.is_some()),
            ("connect_timeout", self.connect_timeout.is_some()),
        ]
    }

    /// Returns the fields that name servers, and whether they are given.
    fn of_servers(&self) -> [(&'static str, bool); 3] {
        [
            ("url", self.url.is_some()),
            ("urls", !self.urls.is_empty()),
            ("cluster", self.cluster.is_some_and(|cluster| cluster)),
        ]
    }

    /// Returns the fields about sentinels, and whether they are given.
    fn of_sentinels(&self) -> [(&'static str, bool); 4] {
        [
            ("sentinels", !self.sentinels.is_empty()),
            ("master_name", self.master_name.is_some()),
            ("sentinel_user", self.sentinel_user.is_some()),
            ("sentinel_password_file", self.sentinel_password_file.is_some()),
        ]
    }
}

pub(super) fn validate(check: &mut Check, files: &mut Files, raw: RawStore) -> StoreConfig {
    let kind = raw.kind.unwrap_or(RawStoreType::Memory);
    let mut reject = |expected: &str, got: &str, fields: &[(&str, bool)]| {
        for (field, _) in fields.iter().filter(|(_, given)| *given) {
            check.fault("store.type", &format!("{expected} if store.{field} is given"), got);
        }
    };
    match kind {
        RawStoreType::Memory => {
            reject("redis", "memory", &raw.of_servers());
            reject("redis", "memory", &raw.of_redis());
            reject("sentinel", "memory", &raw.of_sentinels());
            StoreConfig::Memory
        }
        RawStoreType::Redis => {
            reject("sentinel", "redis", &raw.of_sentinels());
            StoreConfig::Redis(Box::new(redis_options(check, files, raw, false)))
        }
        RawStoreType::Sentinel => {
            reject("redis", "sentinel", &raw.of_servers());
            StoreConfig::Redis(Box::new(redis_options(check, files, raw, true)))
        }
    }
}

fn redis_options(check: &mut Check, files: &mut Files, mut raw: RawStore, sentinel: bool) -> RedisOptions {
    let cluster = raw.cluster.unwrap_or(false);
    let key_prefix = raw.key_prefix.take().unwrap_or_default();
    let (user, file) = (raw.user.take(), raw.password_file.take());
    let field = credentials::Fields { user: "store.user", file: "store.password_file" };
    let credentials = credentials::validate(check, files, field, user, file);
    let given_tls = raw.tls.is_some();
    let tls = raw.tls.take().map_or_else(TlsFiles::default, |tls| store_tls::validate(check, files, tls));
    let (urls, topology) = if sentinel {
        let urls = std::mem::take(&mut raw.sentinels);
        if urls.is_empty() {
            check.required("store.sentinels", "the URLs of the sentinels");
        }
        urls_are_valid(check, "store.sentinels", &urls, false);
        let master_name = raw.master_name.take().unwrap_or_default();
        check.name("store.master_name", &master_name);
        let (user, file) = (raw.sentinel_user.take(), raw.sentinel_password_file.take());
        let field = credentials::Fields { user: "store.sentinel_user", file: "store.sentinel_password_file" };
        let credentials = credentials::validate(check, files, field, user, file);
        credentials::not_in_urls(check, "store.sentinel_password_file", credentials.as_ref(), &urls);
        (urls, Topology::Sentinel(Sentinel { master_name, credentials, primary_uses_tls: given_tls }))
    } else {
        if raw.url.is_some() && !raw.urls.is_empty() {
            check.fault("store.urls", "absent if store.url is given", "both");
        }
        let urls: Vec<String> = raw.url.take().into_iter().chain(std::mem::take(&mut raw.urls)).collect();
        if urls.is_empty() {
            check.fault("store.url", "a redis:// or rediss:// URL", "none");
        }
        if urls.len() > 1 && !cluster {
            check.fault("store.urls", "one URL unless store.cluster is true", urls.len());
        }
        let path = if urls.len() == 1 { "store.url" } else { "store.urls" };
        urls_are_valid(check, path, &urls, given_tls);
        credentials::not_in_urls(check, "store.password_file", credentials.as_ref(), &urls);
        (urls, if cluster { Topology::Cluster } else { Topology::Single })
    };
    if key_prefix.contains(['{', '}']) || key_prefix.len() > 64 {
        let got = format!("{key_prefix:?}");
        check.fault("store.key_prefix", "at most 64 bytes without { and }", got);
    }
    let ms = Duration::from_millis;
    RedisOptions {
        urls,
        topology,
        credentials,
        tls,
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

fn urls_are_valid(check: &mut Check, path: &str, urls: &[String], with_tls: bool) {
    for (i, url) in urls.iter().enumerate() {
        let path = if path == "store.url" { path.to_owned() } else { format!("{path}[{i}]") };
        // The messages do not show the URL, which may contain a password.
        if !is_server(url) {
            check.fault(&path, "a redis:// or rediss:// URL", "something else");
        } else if with_tls && !url.starts_with("rediss://") {
            check.fault(&path, "a rediss:// URL if store.tls is given", "a redis:// URL");
        }
    }
}

/// Whether the Redis client accepts a URL, and the URL names a host.
fn is_server(url: &str) -> bool {
    (url.starts_with("redis://") || url.starts_with("rediss://"))
        && redis::IntoConnectionInfo::into_connection_info(url).is_ok()
}
