//! The configuration file as written, before validation. The doc comment of a field is its entry in
//! docs/configuration-reference.md and in the schema (`schema/mod.rs`).

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    formats::{Socket, SocketOrOff, Span},
    higress::RawHigressRules,
    kubernetes::RawKubernetes,
    limits::raw::{RawAdmin, RawLedger, RawLimit, RawLimitHeader, RawModel, RawPrice, RawQuota},
    pools::{RawPool, RawUnlisted},
    rate_limit_service::RawRateLimitService,
    store::RawStore,
    traces::RawTraces,
};

/// The configuration of the Evenkeel sidecar: one YAML file in which every field is optional.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "Evenkeel's configuration")]
pub(super) struct RawConfig {
    /// The addresses to listen on.
    pub(super) listen: RawListen,
    /// How often gateways report what they hold. A worker that is silent for 1.5 intervals counts as dead; its leases are
    /// released within 2. A shorter interval heals sooner and costs more calls. All sidecars that share a Redis need the
    /// same value.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "2s", "x-range" = "100ms..60s"))]
    pub(super) keep_alive_interval: Option<Duration>,
    /// How long the sidecar keeps serving after SIGTERM, with `/readyz` at 503 and gRPC health at NOT_SERVING, before it
    /// refuses new connections. If clients reach it through a Kubernetes service, set about `5s`, the time until the
    /// service's endpoints are updated.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "0s", "x-range" = "0s..5m"))]
    pub(super) shutdown_delay: Option<Duration>,
    /// The log, on standard error.
    pub(super) log: RawLog,
    /// The threads that serve.
    pub(super) runtime: RawRuntime,
    /// Where the tables are stored.
    pub(super) store: RawStore,
    /// How to reach the Kubernetes API server, for pools with `kubernetes`. Optional in a pod.
    pub(super) kubernetes: Option<RawKubernetes>,
    /// Rules for pools. The first that matches a request's cluster and route applies. If a rule names its cluster, the
    /// page and the metrics show the pool from the start. No two rules may name the same cluster and route.
    pub(super) pools: Vec<RawPool>,
    /// For clusters that no rule under `pools` matches; their endpoints come with each request, or from Kubernetes. One
    /// sidecar serves at most 4096 pools.
    pub(super) unlisted_pools: RawUnlisted,
    /// Limits. Every limit that applies to a request counts it; the request is admitted if all of them have room. At most
    /// 256 limits and quotas in total, and at most 16 that could apply to one request.
    pub(super) limits: Vec<RawLimit>,
    /// Limits read from the configuration of Higress's plugins.
    pub(super) higress_rules: Vec<RawHigressRules>,
    /// Quotas. Each consumer has a balance or a budget in each of them, which administrators change at runtime. Requests
    /// without a consumer are not counted.
    pub(super) quotas: Vec<RawQuota>,
    /// Prices of models, for limits, quotas and reports of cost. The first that matches the model applies.
    #[schemars(length(max = 1024))]
    pub(super) prices: Vec<RawPrice>,
    /// Estimates for a model until requests have reported its usage; then each sidecar learns. The first that matches
    /// applies.
    #[schemars(length(max = 1024))]
    pub(super) models: Vec<RawModel>,
    /// Headers that report limits to clients: `ietf` sends `RateLimit` and `RateLimit-Policy` of the IETF draft, `x` sends
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`. `[]` sends none.
    #[schemars(extend("default" = ["ietf"]))]
    pub(super) limit_headers: Option<Vec<RawLimitHeader>>,
    /// Consumers that may use the gateway's `/quota` paths.
    #[schemars(length(max = 1024), inner(length(min = 1, max = 256)))]
    pub(super) quota_admins: Vec<String>,
    /// Administrators, who may change quotas and overrides and drain endpoints through the sidecar's API.
    pub(super) admin: RawAdmin,
    /// Which usage is recorded: tokens and cost by day, consumer, model and route.
    pub(super) ledger: RawLedger,
    /// Envoy's rate limit service, with files of limits in the format of envoyproxy/ratelimit. Without this section the
    /// sidecar does not serve it.
    pub(super) rate_limit_service: Option<RawRateLimitService>,
    /// Where to export the spans of requests, by OTLP. Without an endpoint none are exported.
    pub(super) traces: RawTraces,
}

/// The addresses to listen on.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawListen {
    /// gRPC over TCP; port 0 selects a free one. `off` needs `grpc_socket`.
    #[schemars(with = "SocketOrOff", extend("default" = "127.0.0.1:9190"))]
    pub(super) grpc: Option<String>,
    /// gRPC over a Unix socket as well. Its directory must exist; a socket left by a dead process is replaced.
    #[schemars(length(min = 1, max = 107), extend("x-default" = "none"))]
    pub(super) grpc_socket: Option<String>,
    /// Mode of the socket's file, in octal. Every process that may write to the file may call the sidecar.
    #[schemars(regex(pattern = "^0*[0-7]{1,3}$"), extend("default" = "0660", "x-range" = "octal, up to 0777"))]
    pub(super) grpc_socket_mode: Option<String>,
    /// Metrics, health, JSON and the page.
    #[schemars(with = "Socket", extend("default" = "127.0.0.1:9191"))]
    pub(super) http: Option<String>,
}

/// The log, on standard error.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    /// One line or one JSON object per event.
    #[schemars(extend("default" = "text"))]
    pub(super) format: Option<RawLogFormat>,
    /// A level, or a filter such as `evenkeel=debug`. `error` needs a person, `warn` recovered without one, `info` is
    /// lifecycle, `debug` is each request. `--log-level` and `EVENKEEL_LOG` override it.
    #[schemars(extend("default" = "info"))]
    pub(super) level: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawLogFormat {
    Text,
    Json,
}

/// The threads that serve.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRuntime {
    /// Number of threads. 1 costs the least per call; set more only if one core is not enough.
    #[schemars(range(min = 1, max = 64), extend("default" = 1))]
    pub(super) worker_threads: Option<usize>,
}
