//! The configuration file as written, before validation. The doc comment of a field is the field's entry in
//! docs/configuration-reference.md and its description in the schema (`schema/mod.rs`).

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    formats::Span,
    higress::RawHigressRules,
    kubernetes::RawKubernetes,
    limits::raw::{RawLedger, RawLimit, RawLimitHeader, RawModel, RawPrice, RawQuota},
    listen::RawListen,
    pools::{RawPool, RawUnlisted},
    prefix::RawPrefixIndex,
    rate_limit_service::RawRateLimitService,
    roles::{RawAdmin, RawRole},
    store::RawStore,
    tickets::RawTickets,
    tls::RawTls,
    traces::RawTraces,
};

/// The configuration of the Evenkeel sidecar: one YAML file in which every field is optional.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "Evenkeel's configuration")]
pub(super) struct RawConfig {
    /// The addresses on which the sidecar listens, and the roles of callers without a token or a certificate.
    pub(super) listen: RawListen,
    /// TLS on the TCP listeners. Without this section, the sidecar speaks no TLS.
    pub(super) tls: Option<RawTls>,
    /// Time between two KeepAlive calls, with which a gateway worker reports all its leases. A worker that is silent
    /// for 1.5 intervals counts as dead, and its leases are released within 2 intervals of its last call. A shorter
    /// interval corrects errors in the tables of requests in flight sooner, but costs more calls. All sidecars that
    /// share a Redis need the same value.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "2s", "x-range" = "100ms..60s"))]
    pub(super) keep_alive_interval: Option<Duration>,
    /// Time for which the sidecar continues to serve after SIGTERM, before it refuses new connections. Meanwhile,
    /// `/readyz` returns 503 and gRPC health returns NOT_SERVING. If clients reach the sidecar through a Kubernetes
    /// service, set this to about `5s`, so that Kubernetes can remove the sidecar from the service's endpoints first.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "0s", "x-range" = "0s..5m"))]
    pub(super) shutdown_delay: Option<Duration>,
    /// The log, which the sidecar writes to standard error.
    pub(super) log: RawLog,
    /// The threads that serve calls.
    pub(super) runtime: RawRuntime,
    /// Where counters, quota records, usage and the tables of requests in flight are stored.
    pub(super) store: RawStore,
    /// Connection to the Kubernetes API server, for pools that set `kubernetes`. Optional if the sidecar runs in a pod.
    pub(super) kubernetes: Option<RawKubernetes>,
    /// Rules for pools. The first rule that matches a request's cluster and route applies. If a rule names its cluster,
    /// the sidecar's web page and metrics show the pool even before its first request. No two rules may name the same
    /// cluster and route.
    pub(super) pools: Vec<RawPool>,
    /// Settings for clusters that no rule under `pools` matches. Their endpoints come with each request, or from
    /// Kubernetes. A sidecar serves at most 4096 pools.
    pub(super) unlisted_pools: RawUnlisted,
    /// How the sidecar finds common prefixes of prompts, for pools that set `prefix_cache`.
    pub(super) prefix_index: RawPrefixIndex,
    /// Limits. Every limit that applies to a request counts the request, and any of them can refuse it. The
    /// configuration may contain at most 256 limits and quotas; a configuration in which more than 16 of them could
    /// apply to the same request is rejected.
    pub(super) limits: Vec<RawLimit>,
    /// Limits that the sidecar reads from the configuration of Higress's plugins.
    pub(super) higress_rules: Vec<RawHigressRules>,
    /// Quotas. In each quota, every consumer has a balance or a budget, which administrators can change at runtime.
    /// Requests without a consumer are not counted.
    pub(super) quotas: Vec<RawQuota>,
    /// Prices of models, which limits, quotas and cost reports use. The first entry that matches the model applies.
    #[schemars(length(max = 1024))]
    pub(super) prices: Vec<RawPrice>,
    /// Initial estimates of the tokens that requests to a model use. Once it knows the usage of a few requests, each
    /// sidecar uses its own estimates. The first entry that matches the model applies.
    #[schemars(length(max = 1024))]
    pub(super) models: Vec<RawModel>,
    /// Headers that report limits to clients. `ietf` sends `RateLimit` and `RateLimit-Policy` of the IETF draft. `x`
    /// sends `X-RateLimit-Limit`, `-Remaining` and `-Reset`. `[]` sends none.
    #[schemars(extend("default" = ["ietf"]))]
    pub(super) limit_headers: Option<Vec<RawLimitHeader>>,
    /// Consumers that may read and change quotas through the gateway's `/quota` paths.
    #[schemars(length(max = 1024), inner(length(min = 1, max = 256)))]
    pub(super) quota_admins: Vec<String>,
    /// Gateways, which may admit, settle and keep alive requests, and call the rate limit service.
    pub(super) gateway: RawRole,
    /// Readers, who may look at everything and change nothing.
    pub(super) reader: RawRole,
    /// Administrators, who may drain endpoints, change quotas and overrides, and do all that readers may. If nobody has
    /// this role, the API rejects all changes.
    pub(super) admin: RawAdmin,
    /// The tickets that gateways get for admitted requests and send back at their end.
    pub(super) tickets: RawTickets,
    /// The usage ledger, which records tokens and cost by day, consumer, model and route.
    pub(super) ledger: RawLedger,
    /// Envoy's rate limit service, configured with files in the format of envoyproxy/ratelimit. Without this section,
    /// the sidecar does not serve the rate limit service.
    pub(super) rate_limit_service: Option<RawRateLimitService>,
    /// Export of request spans over OTLP. Without `endpoint`, the sidecar exports no spans.
    pub(super) traces: RawTraces,
}

/// The log, which the sidecar writes to standard error.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    /// Whether each event is a line of text or a JSON object.
    #[schemars(extend("default" = "text"))]
    pub(super) format: Option<RawLogFormat>,
    /// A level, or a filter such as `evenkeel=debug`. `error` events need a person. After a `warn` event, the sidecar
    /// recovered by itself. `info` events report the lifecycle, and `debug` events report each request. `--log-level`
    /// and `EVENKEEL_LOG` override this field.
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

/// The threads that serve calls.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRuntime {
    /// Number of threads. One thread costs the least per call; set more only if one CPU core is not enough.
    #[schemars(range(min = 1, max = 64), extend("default" = 1))]
    pub(super) worker_threads: Option<usize>,
}
