//! The configuration file as written: shapes only, no judgement. What stands above a field is its text in
//! docs/configuration-reference.md and in the schema (`schema/mod.rs`).

use std::time::Duration;

use evenkeel_domain::settings::OnStoreFailure;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    kubernetes::{RawKubernetes, RawServiceRule},
    limits::raw::{RawAdmin, RawHigressRules, RawLedger, RawLimit, RawModel, RawPrice, RawQuota},
    rate_limit_service::RawRateLimitService,
    schema::{LimitHeader, Outage, Socket, SocketOrOff, Span},
    traces::RawTraces,
};

/// The configuration of Evenkeel's sidecar: one YAML file, in which everything may be left out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "Evenkeel's configuration")]
pub(super) struct RawConfig {
    /// Where to listen.
    pub(super) listen: RawListen,
    /// How often gateways report what they hold. A worker silent for 1.5 intervals counts as dead; its leases are back
    /// within 2. Shorter heals sooner and costs more calls. The same in all sidecars that share a Redis.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "2s", "x-range" = "100ms..60s"))]
    pub(super) keep_alive_interval: Option<Duration>,
    /// How long to go on serving after SIGTERM, with `/readyz` at 503 and gRPC health at NOT_SERVING, before new
    /// connections are refused. Where others reach the sidecar through a Kubernetes service set about `5s`, the time its
    /// endpoints take to follow.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "0s", "x-range" = "0s..5m"))]
    pub(super) shutdown_delay: Option<Duration>,
    /// Log lines, on standard error.
    pub(super) log: RawLog,
    /// What serves.
    pub(super) runtime: RawRuntime,
    /// Where the tables live.
    pub(super) store: RawStore,
    /// How to reach the API server of Kubernetes, for pools with `kubernetes`. In a pod it can be left out.
    pub(super) kubernetes: Option<RawKubernetes>,
    /// Rules for pools. The first that fits a request's cluster and route applies. A rule that names its cluster makes
    /// its pool known at start, with the page and metrics showing it. No two may name the same cluster and route.
    pub(super) pools: Vec<RawPool>,
    /// For clusters that no rule under `pools` fits; their endpoints come with each request, or from Kubernetes. One sidecar serves at most
    /// 4096 pools.
    pub(super) unlisted_pools: RawUnlisted,
    /// Limits. A request is counted by every limit that applies to it, and admitted when all of them have room. At most
    /// 256 limits and quotas in all, and at most 16 that could apply to one request.
    pub(super) limits: Vec<RawLimit>,
    /// Limits as users of Higress have them, taken as they are.
    pub(super) higress_rules: Vec<RawHigressRules>,
    /// Quotas. Each consumer has a balance or a budget in each of them, which administrators change while running.
    /// Requests without a consumer are not counted.
    pub(super) quotas: Vec<RawQuota>,
    /// Prices of models, for limits, quotas and reports of cost. The first that fits the model applies.
    #[schemars(length(max = 1024))]
    pub(super) prices: Vec<RawPrice>,
    /// What to expect of a model until requests have shown it; after that each sidecar learns. The first that fits
    /// applies.
    #[schemars(length(max = 1024))]
    pub(super) models: Vec<RawModel>,
    /// What clients are told of limits: `ietf` is `RateLimit` and `RateLimit-Policy` of the IETF draft, `x` is
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`. `[]`: nothing.
    #[schemars(with = "Vec<LimitHeader>", extend("default" = ["ietf"]))]
    pub(super) limit_headers: Option<Vec<String>>,
    /// Consumers that may use the gateway's `/quota` paths.
    #[schemars(length(max = 1024), inner(length(min = 1, max = 256)))]
    pub(super) quota_admins: Vec<String>,
    /// Who may change quotas and overrides, and drain endpoints, through the sidecar's API.
    pub(super) admin: RawAdmin,
    /// What is recorded of requests: tokens and cost by day, consumer, model and route.
    pub(super) ledger: RawLedger,
    /// Envoy's rate limit service, with files of limits as envoyproxy/ratelimit reads them. Without the section it is
    /// not served.
    pub(super) rate_limit_service: Option<RawRateLimitService>,
    /// Where spans of requests are exported to, by OTLP. Without an endpoint none are.
    pub(super) traces: RawTraces,
}

/// Where to listen.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawListen {
    /// gRPC over TCP; port 0 takes a free one. `off` needs `grpc_socket`.
    #[schemars(with = "SocketOrOff", extend("default" = "127.0.0.1:9190"))]
    pub(super) grpc: Option<String>,
    /// gRPC over a Unix socket as well. Its directory must exist; a socket left by a dead process is replaced.
    #[schemars(length(min = 1, max = 107), extend("x-default" = "none"))]
    pub(super) grpc_socket: Option<String>,
    /// Mode of the socket's file, in octal. Whoever may write to it may call.
    #[schemars(regex(pattern = "^0*[0-7]{1,3}$"), extend("default" = "0660", "x-range" = "octal, up to 0777"))]
    pub(super) grpc_socket_mode: Option<String>,
    /// Metrics, health, JSON, the page.
    #[schemars(with = "Socket", extend("default" = "127.0.0.1:9191"))]
    pub(super) http: Option<String>,
}

/// Log lines, on standard error.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    /// One line or one JSON object an event.
    #[schemars(extend("enum" = ["text", "json"], "default" = "text"))]
    pub(super) format: Option<String>,
    /// A level, or a filter such as `evenkeel=debug`. `error` needs a person, `warn` recovered by itself, `info` is
    /// lifecycle, `debug` is each request. `--log-level` and `EVENKEEL_LOG` override it.
    #[schemars(extend("default" = "info"))]
    pub(super) level: Option<String>,
}

/// What serves.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRuntime {
    /// Threads. 1 is the cheapest for each call; more only where one core is not enough.
    #[schemars(range(min = 1, max = 64), extend("default" = 1))]
    pub(super) worker_threads: Option<usize>,
}

/// Where the tables live. All fields but `type` are refused with `type: memory`, where they would have no effect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStore {
    /// `memory`: in the process, so that nothing is shared, for one sidecar or for trying things. `redis`: one table
    /// for all sidecars.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["memory", "redis"], "default" = "memory"))]
    pub(super) kind: Option<String>,
    /// One Redis, or one node of a cluster, as `redis://user:password@host:6379/0`; `rediss://` is over TLS. Redis
    /// Sentinel is not watched: give an address that follows the primary.
    #[schemars(regex(pattern = "^rediss?://"), extend("x-default" = "required for `redis`, unless `urls` is given"))]
    pub(super) url: Option<String>,
    /// Several nodes of a cluster, each as `url`; instead of `url`. More than one needs `cluster: true`.
    #[schemars(inner(regex(pattern = "^rediss?://")))]
    pub(super) urls: Vec<String>,
    /// The user to log in as, where the URL names none. Needs `password_file`.
    #[schemars(extend("x-default" = "none"))]
    pub(super) user: Option<String>,
    /// A file that holds the password, such as a mounted secret; not where the URL has one. A relative path is from the
    /// configuration's directory on. Read at start.
    #[schemars(extend("x-default" = "none"))]
    pub(super) password_file: Option<String>,
    /// The URLs are nodes of a Redis Cluster.
    #[schemars(extend("default" = false))]
    pub(super) cluster: Option<bool>,
    /// Put in front of every key: sets deployments apart that share one Redis. At most 64 bytes. The same in all
    /// sidecars that share their tables.
    #[schemars(length(max = 64), regex(pattern = "^[^{}]*$"), extend("default" = "", "x-range" = "at most 64 bytes, without `{` and `}`"))]
    pub(super) key_prefix: Option<String>,
    /// Longest wait for the answer to a call of the request path (Admit, Settle). A request may also wait for the call
    /// under way before its own, so at most half the plugin's `deadline_ms` (50): then the pool's policy answers and not
    /// the gateway's.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "25ms", "x-range" = "1ms..10s"))]
    pub(super) timeout: Option<Duration>,
    /// Longest wait for a connection, and for the answer to all other calls (KeepAlives, tables, audits, lists), where
    /// `timeout` is not longer still; no request waits for it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "1s", "x-range" = "1ms..60s"))]
    pub(super) connect_timeout: Option<Duration>,
}

/// What applies to the pools of a cluster. Without `endpoints` and without discovery, endpoints come with each request:
/// the plugin's `candidates`, or Higress's own list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["cluster"]))]
pub(super) struct RawPool {
    /// The gateway's name for the upstream cluster, or `"*"` for any.
    #[schemars(length(min = 1, max = 256))]
    pub(super) cluster: String,
    /// Only this route, or `"*"`; needs `per_route: true`, as routes that share a table share its rule.
    #[schemars(length(min = 1, max = 256), extend("x-default" = "any"))]
    pub(super) route: Option<String>,
    /// Each route has a table of its own. Only where routes do not share model servers.
    pub(super) per_route: bool,
    /// The endpoints; each address once.
    #[schemars(length(max = 1024))]
    pub(super) endpoints: Vec<RawEndpoint>,
    /// Endpoints from DNS; not together with `endpoints`.
    pub(super) dns: Option<RawDns>,
    /// Endpoints from EndpointSlices of Kubernetes: the ready ones of a service; not together with `endpoints` or `dns`.
    pub(super) kubernetes: Option<RawServiceRule>,
    /// Share the table of Higress's `ai-load-balancer`. Needs `per_route: true`; not on Redis Cluster.
    pub(super) higress_table: bool,
    /// Capacity relative to others, of endpoints that name none.
    #[schemars(range(min = 0.001, max = 1000), extend("default" = 1))]
    pub(super) weight: Option<f64>,
    /// Most requests in flight on an endpoint that names none; 0 is unlimited.
    #[schemars(range(min = 0, max = 4294967295u32), extend("default" = 0))]
    pub(super) cap: Option<u32>,
    /// While Redis is away, and for a request whose call to it failed: choose from local knowledge, let the gateway
    /// choose, or deny with 503.
    #[schemars(with = "Outage", extend("default" = "local"))]
    pub(super) on_store_failure: Option<OnStoreFailure>,
    /// `Retry-After` of the 429 when every endpoint is at its cap; whole seconds.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "1s", "x-range" = "1s..1h"))]
    pub(super) full_retry_after: Option<Duration>,
}

/// An endpoint.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEndpoint {
    /// Written as the gateway knows it, usually `IP:port`.
    #[schemars(length(min = 1, max = 256))]
    pub(super) address: String,
    /// Capacity relative to the others.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 1000), extend("x-default" = "the pool's"))]
    pub(super) weight: Option<f64>,
    /// Most requests in flight; 0 is unlimited.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4294967295u32), extend("x-default" = "the pool's"))]
    pub(super) cap: Option<u32>,
}

/// Endpoints from DNS: A records where there are any, or else AAAA records.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDns {
    /// Every address of the name is an endpoint, such as a headless service's, up to 1024. Written with a dot at the
    /// end it is looked up as it stands, without the search domains of `/etc/resolv.conf`.
    #[schemars(length(min = 1, max = 256))]
    pub(super) name: String,
    /// Port of all of them.
    #[schemars(range(min = 1, max = 65535))]
    pub(super) port: u16,
    /// Longest time between look-ups; a shorter time to live of the answer is followed, down to 1s.
    #[serde(default, with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "5s", "x-range" = "100ms..1h"))]
    pub(super) refresh: Option<Duration>,
    /// The server to ask.
    #[serde(default)]
    #[schemars(with = "Socket", extend("x-default" = "the system's"))]
    pub(super) nameserver: Option<String>,
}

/// What applies to clusters that no rule fits.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawUnlisted {
    /// `false` refuses them: Admit answers NOT_FOUND, and the gateway's `on_error` applies.
    pub(super) accept: bool,
    /// Each route has a table of its own.
    pub(super) per_route: bool,
    /// Clusters that are named as Istio and Higress name a service have its endpoints. Without `service`.
    pub(super) kubernetes: Option<RawServiceRule>,
    /// Capacity relative to others, of endpoints that name none.
    #[schemars(range(min = 0.001, max = 1000), extend("default" = 1))]
    pub(super) weight: Option<f64>,
    /// Most requests in flight on an endpoint that names none; 0 is unlimited.
    #[schemars(range(min = 0, max = 4294967295u32), extend("default" = 0))]
    pub(super) cap: Option<u32>,
    /// While Redis is away: choose from local knowledge, let the gateway choose, or deny with 503.
    #[schemars(with = "Outage", extend("default" = "local"))]
    pub(super) on_store_failure: Option<OnStoreFailure>,
    /// `Retry-After` of the 429 when every endpoint is at its cap; whole seconds.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "1s", "x-range" = "1s..1h"))]
    pub(super) full_retry_after: Option<Duration>,
}

impl Default for RawUnlisted {
    fn default() -> Self {
        Self {
            accept: true,
            per_route: false,
            kubernetes: None,
            weight: None,
            cap: None,
            on_store_failure: None,
            full_retry_after: None,
        }
    }
}
