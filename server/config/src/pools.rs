//! The sections `pools` and `unlisted_pools`.

use std::time::Duration;

use evenkeel_domain::{
    ENDPOINTS_MAX, Endpoint,
    settings::{OnStoreFailure, Policy, PoolRule, Source},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    check::Check,
    formats::{Choosing, Outage, Socket, Span},
    prefix::{RawAffinity, RawPrefixCache, prefix_cache, session_affinity},
    service_rule::{self, RawServiceRule},
};

const WEIGHT: std::ops::RangeInclusive<f64> = 0.001..=1000.0;

/// Settings of a cluster's pools. If `endpoints`, `dns` and `kubernetes` are all absent, each request brings its
/// endpoints: the plugin's `candidates`, or Higress's own list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["cluster"]))]
pub(super) struct RawPool {
    /// The gateway's name of the upstream cluster, or `"*"` for any cluster.
    #[schemars(length(min = 1, max = 256))]
    cluster: String,
    /// The gateway's name of the route, or `"*"` for any route. A name requires `per_route: true`, because routes that
    /// share a table share its rule.
    #[schemars(length(min = 1, max = 256), extend("x-default" = "any route"))]
    route: Option<String>,
    /// Whether each route has its own table of requests in flight. Set `true` only if the routes do not share model
    /// servers.
    per_route: bool,
    /// The endpoints of the pool. Addresses must be unique.
    #[schemars(length(max = 1024))]
    endpoints: Vec<RawEndpoint>,
    /// Endpoints from DNS. Not allowed together with `endpoints`.
    dns: Option<RawDns>,
    /// Endpoints from Kubernetes: the ready endpoints in the EndpointSlices of a service. Not allowed together with
    /// `endpoints` or `dns`.
    kubernetes: Option<RawServiceRule>,
    /// Whether to share the table of Higress's `ai-load-balancer`. Requires `per_route: true`; not allowed on Redis
    /// Cluster.
    higress_table: bool,
    /// Relative capacity of endpoints that set no `weight`.
    #[schemars(range(min = 0.001, max = 1000), extend("default" = 1))]
    weight: Option<f64>,
    /// Maximum number of requests in flight on an endpoint that sets no `cap`; 0 means unlimited.
    #[schemars(range(min = 0, max = 4294967295u32), extend("default" = 0))]
    cap: Option<u32>,
    /// How endpoints are chosen. `least_work`: the endpoint with the fewest prompt tokens to read, by weight; needs
    /// gateways that report the sizes of prompts, and is `least_request` without them. `least_request`: the endpoint
    /// with the fewest requests in flight, by weight.
    #[schemars(with = "Choosing", extend("default" = "least_request"))]
    policy: Option<Policy>,
    /// If set, requests prefer endpoints whose prefix caches probably have the beginning of the prompt. Requires
    /// `policy: least_work`, endpoints that reuse the KV cache of equal prefixes, and gateways that read request bodies.
    prefix_cache: Option<RawPrefixCache>,
    /// If set, the requests of a session prefer, or keep, the endpoint of the session's latest request, over all gateways
    /// and sidecars. Gateways name the session (the plugin's `session_headers`).
    affinity: Option<RawAffinity>,
    /// Policy while Redis is unavailable, and for a request whose call to Redis has failed. `local`: the sidecar
    /// chooses an endpoint from the leases of its own gateways and the last table that it read. `open`: the gateway
    /// chooses the endpoint. `closed`: the request is refused with 503.
    #[schemars(with = "Outage", extend("default" = "local"))]
    on_store_failure: Option<OnStoreFailure>,
    /// Value of `Retry-After` in the 429 response to a request that finds every endpoint at its cap, in whole seconds.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "1s", "x-range" = "1s..1h"))]
    full_retry_after: Option<Duration>,
}

/// One endpoint of the pool.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawEndpoint {
    /// Address of the endpoint as the gateway knows it, usually `IP:port`.
    #[schemars(length(min = 1, max = 256))]
    address: String,
    /// Relative capacity.
    #[serde(default)]
    #[schemars(range(min = 0.001, max = 1000), extend("x-default" = "the pool's value"))]
    weight: Option<f64>,
    /// Maximum number of requests in flight; 0 means unlimited.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4294967295u32), extend("x-default" = "the pool's value"))]
    cap: Option<u32>,
}

/// Endpoints from DNS: the A records of a name or, if there are none, its AAAA records.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawDns {
    /// A DNS name, such as the name of a headless service. Each address of the name is an endpoint, up to 1024
    /// endpoints. A name that ends with a dot is looked up as it is, without the search domains of `/etc/resolv.conf`.
    #[schemars(length(min = 1, max = 256))]
    name: String,
    /// Port of every endpoint.
    #[schemars(range(min = 1, max = 65535))]
    port: u16,
    /// Maximum time between two look-ups of the name. If the TTL of the answer is shorter, the sidecar looks the name
    /// up again after the TTL, but at most once per second.
    #[serde(default, with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "5s", "x-range" = "100ms..1h"))]
    refresh: Option<Duration>,
    /// Address of the DNS server.
    #[serde(default)]
    #[schemars(with = "Socket", extend("x-default" = "the system's DNS server"))]
    nameserver: Option<String>,
}

/// Settings for clusters that no rule under `pools` matches.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawUnlisted {
    /// Whether the sidecar serves these clusters. If `false`, Admit fails with NOT_FOUND, and the plugin's `on_error`
    /// applies.
    accept: bool,
    /// Whether each route has its own table of requests in flight.
    per_route: bool,
    /// If set, a cluster whose name contains a Kubernetes service, in the form
    /// `outbound|80||llm.models.svc.cluster.local` of Istio and Higress, gets the endpoints of the service. `service`
    /// must be absent.
    kubernetes: Option<RawServiceRule>,
    /// Relative capacity of endpoints that set no `weight`.
    #[schemars(range(min = 0.001, max = 1000), extend("default" = 1))]
    weight: Option<f64>,
    /// Maximum number of requests in flight on an endpoint that sets no `cap`; 0 means unlimited.
    #[schemars(range(min = 0, max = 4294967295u32), extend("default" = 0))]
    cap: Option<u32>,
    /// How endpoints are chosen. `least_work`: the endpoint with the fewest prompt tokens to read, by weight; needs
    /// gateways that report the sizes of prompts, and is `least_request` without them. `least_request`: the endpoint
    /// with the fewest requests in flight, by weight.
    #[schemars(with = "Choosing", extend("default" = "least_request"))]
    policy: Option<Policy>,
    /// If set, requests prefer endpoints whose prefix caches probably have the beginning of the prompt. Requires
    /// `policy: least_work`, endpoints that reuse the KV cache of equal prefixes, and gateways that read request bodies.
    prefix_cache: Option<RawPrefixCache>,
    /// If set, the requests of a session prefer, or keep, the endpoint of the session's latest request, over all gateways
    /// and sidecars. Gateways name the session (the plugin's `session_headers`).
    affinity: Option<RawAffinity>,
    /// Policy while Redis is unavailable, and for a request whose call to Redis has failed. `local`: the sidecar
    /// chooses an endpoint from the leases of its own gateways and the last table that it read. `open`: the gateway
    /// chooses the endpoint. `closed`: the request is refused with 503.
    #[schemars(with = "Outage", extend("default" = "local"))]
    on_store_failure: Option<OnStoreFailure>,
    /// Value of `Retry-After` in the 429 response to a request that finds every endpoint at its cap, in whole seconds.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "1s", "x-range" = "1s..1h"))]
    full_retry_after: Option<Duration>,
}

impl Default for RawUnlisted {
    fn default() -> Self {
        Self {
            accept: true,
            per_route: false,
            kubernetes: None,
            weight: None,
            cap: None,
            policy: None,
            prefix_cache: None,
            affinity: None,
            on_store_failure: None,
            full_retry_after: None,
        }
    }
}

pub(super) fn validate(
    check: &mut Check,
    raw: Vec<RawPool>,
    on_redis_cluster: bool,
    prefixes_max: usize,
) -> Vec<PoolRule> {
    let rule = |(i, raw)| pool_rule(check, &format!("pools[{i}]"), raw, on_redis_cluster, prefixes_max);
    let rules: Vec<PoolRule> = raw.into_iter().enumerate().map(rule).collect();
    for (i, rule) in rules.iter().enumerate() {
        let same = |other: &PoolRule| other.cluster == rule.cluster && other.route == rule.route;
        if let Some(earlier) = rules[..i].iter().position(same) {
            let got = format!("those of pools[{earlier}]");
            check.fault(&format!("pools[{i}]"), "unique in cluster and route", got);
        }
    }
    rules
}

fn pool_rule(
    check: &mut Check,
    path: &str,
    raw: RawPool,
    on_redis_cluster: bool,
    prefixes_max: usize,
) -> PoolRule {
    if raw.cluster != "*" {
        check.name(&format!("{path}.cluster"), &raw.cluster);
    }
    if let Some(route) = raw.route.as_deref().filter(|route| *route != "*") {
        check.name(&format!("{path}.route"), route);
    }
    if raw.higress_table && on_redis_cluster {
        let expected = "false on Redis Cluster: Higress's key has no hash tag";
        check.fault(&format!("{path}.higress_table"), expected, "true");
    }
    if raw.higress_table && raw.policy == Some(Policy::LeastWork) {
        let expected = "least_request if higress_table is true: Higress counts requests";
        check.fault(&format!("{path}.policy"), expected, "least_work");
    }
    if raw.higress_table && !raw.per_route {
        let expected = "true if higress_table is: Higress keeps a table for each route";
        check.fault(&format!("{path}.per_route"), expected, "false");
    } else if raw.route.as_deref().is_some_and(|route| route != "*") && !raw.per_route {
        let expected = "true if route is given: routes that share a table share its rule";
        check.fault(&format!("{path}.per_route"), expected, "false");
    }
    let weight = weight_of(check, &format!("{path}.weight"), raw.weight, 1.0);
    let cap = raw.cap.unwrap_or(0);
    if raw.dns.is_some() && !raw.endpoints.is_empty() {
        check.fault(&format!("{path}.dns"), "absent if endpoints are given", "both");
    }
    if raw.kubernetes.is_some() && (raw.dns.is_some() || !raw.endpoints.is_empty()) {
        check.fault(&format!("{path}.kubernetes"), "absent if endpoints or dns are given", "both");
    }
    let cluster = Some(raw.cluster).filter(|cluster| cluster != "*");
    let source = match (raw.kubernetes, raw.dns) {
        (Some(raw), _) => {
            let path = format!("{path}.kubernetes");
            Source::Kubernetes(service_rule::validate(check, &path, cluster.as_deref(), raw))
        }
        (None, Some(raw)) => dns(check, &format!("{path}.dns"), raw),
        (None, None) if raw.endpoints.is_empty() => Source::Request,
        (None, None) => endpoints(check, &format!("{path}.endpoints"), raw.endpoints, weight, cap),
    };
    PoolRule {
        cluster,
        route: raw.route.filter(|route| route != "*"),
        per_route: raw.per_route,
        source,
        weight,
        cap,
        policy: raw.policy.unwrap_or_default(),
        prefix_cache: prefix_cache(check, path, raw.policy, raw.prefix_cache, prefixes_max),
        session_affinity: session_affinity(check, path, raw.policy, raw.affinity),
        on_store_failure: raw.on_store_failure.unwrap_or_default(),
        full_retry_after: retry_after(check, path, raw.full_retry_after),
        higress_table: raw.higress_table,
    }
}

fn weight_of(check: &mut Check, path: &str, value: Option<f64>, default: f64) -> f64 {
    let value = value.unwrap_or(default);
    if !WEIGHT.contains(&value) {
        check.fault(path, "0.001..1000", value);
    }
    value
}

fn retry_after(check: &mut Check, path: &str, value: Option<Duration>) -> Duration {
    let s = Duration::from_secs;
    check.duration(&format!("{path}.full_retry_after"), value, s(1), s(1), s(3600))
}

fn endpoints(check: &mut Check, path: &str, raw: Vec<RawEndpoint>, weight: f64, cap: u32) -> Source {
    if raw.len() > ENDPOINTS_MAX {
        check.fault(path, "at most 1024 endpoints", raw.len());
    }
    let mut seen = std::collections::HashSet::new();
    let endpoints = raw.into_iter().enumerate().map(|(i, raw)| {
        check.name(&format!("{path}[{i}].address"), &raw.address);
        if !seen.insert(raw.address.clone()) {
            let got = format!("{:?} again", raw.address);
            check.fault(&format!("{path}[{i}].address"), "named once", got);
        }
        Endpoint {
            weight: weight_of(check, &format!("{path}[{i}].weight"), raw.weight, weight),
            cap: raw.cap.unwrap_or(cap),
            address: raw.address.into(),
        }
    });
    Source::Static(endpoints.collect())
}

fn dns(check: &mut Check, path: &str, raw: RawDns) -> Source {
    check.name(&format!("{path}.name"), &raw.name);
    if raw.port == 0 {
        check.fault(&format!("{path}.port"), "1..65535", 0);
    }
    let s = Duration::from_secs;
    let refresh =
        check.duration(&format!("{path}.refresh"), raw.refresh, s(5), Duration::from_millis(100), s(3600));
    let nameserver = raw.nameserver.and_then(|address| check.socket(&format!("{path}.nameserver"), &address));
    Source::Dns { name: raw.name, port: raw.port, refresh, nameserver }
}

pub(super) fn unlisted(check: &mut Check, raw: RawUnlisted, prefixes_max: usize) -> Option<PoolRule> {
    let path = "unlisted_pools.kubernetes";
    let source = raw.kubernetes.map_or(Source::Request, |raw| {
        let rule = service_rule::validate(check, path, None, raw);
        if let Some(service) = &rule.service {
            let expected = "absent: the name of the cluster determines it";
            check.fault(&format!("{path}.service"), expected, format!("{service:?}"));
        }
        Source::Kubernetes(rule)
    });
    let rule = PoolRule {
        cluster: None,
        route: None,
        per_route: raw.per_route,
        source,
        weight: weight_of(check, "unlisted_pools.weight", raw.weight, 1.0),
        cap: raw.cap.unwrap_or(0),
        policy: raw.policy.unwrap_or_default(),
        prefix_cache: prefix_cache(check, "unlisted_pools", raw.policy, raw.prefix_cache, prefixes_max),
        session_affinity: session_affinity(check, "unlisted_pools", raw.policy, raw.affinity),
        on_store_failure: raw.on_store_failure.unwrap_or_default(),
        full_retry_after: retry_after(check, "unlisted_pools", raw.full_retry_after),
        higress_table: false,
    };
    raw.accept.then_some(rule)
}
