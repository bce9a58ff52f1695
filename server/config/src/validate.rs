//! Raw shapes to [`Config`]. Each check adds its fault and goes on, so that all are told at once.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use evenkeel_domain::{
    ENDPOINTS_MAX, Endpoint, NAME_BYTES_MAX,
    settings::{Log, PoolRule, RedisOptions, Source},
};

use super::{
    Config, Faults, Files, Listen, StoreConfig, credentials, kubernetes, limits, rate_limit_service,
    raw::{RawConfig, RawDns, RawEndpoint, RawListen, RawLog, RawPool, RawStore, RawUnlisted},
    traces,
};

const WEIGHT: std::ops::RangeInclusive<f64> = 0.001..=1000.0;

/// Faults found so far, and what is allowed but probably not meant.
#[derive(Default)]
pub(super) struct Check {
    faults: Vec<String>,
    warnings: Vec<String>,
}

impl Check {
    pub(super) fn fault(&mut self, path: &str, expected: &str, got: impl std::fmt::Display) {
        self.faults.push(format!("{path}: must be {expected}, got {got}"));
    }

    /// A fault in words of its own.
    pub(super) fn push(&mut self, fault: String) {
        self.faults.push(fault);
    }

    pub(super) fn required(&mut self, path: &str, expected: &str) {
        self.fault(path, expected, "none");
    }

    pub(super) fn warn(&mut self, path: &str, warning: &str) {
        self.warnings.push(format!("{path}: {warning}"));
    }

    /// What was found: faults, and warnings.
    pub(super) fn into_parts(self) -> (Vec<String>, Vec<String>) {
        (self.faults, self.warnings)
    }

    pub(super) fn duration(
        &mut self,
        path: &str,
        value: Option<Duration>,
        default: Duration,
        min: Duration,
        max: Duration,
    ) -> Duration {
        let value = value.unwrap_or(default);
        if value < min || value > max {
            self.fault(path, &format!("{min:?}..{max:?}"), format!("{value:?}"));
        }
        value
    }

    pub(super) fn socket(&mut self, path: &str, value: &str) -> Option<SocketAddr> {
        match value.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                self.fault(path, "an IP address and port such as 127.0.0.1:9190", format!("{value:?}"));
                None
            }
        }
    }

    pub(super) fn name(&mut self, path: &str, value: &str) {
        if value.is_empty() || value.len() > NAME_BYTES_MAX || value.chars().any(char::is_control) {
            self.fault(path, "a name of 1..256 bytes without control characters", format!("{value:?}"));
        }
    }

    fn weight(&mut self, path: &str, value: Option<f64>, default: f64) -> f64 {
        let value = value.unwrap_or(default);
        if !WEIGHT.contains(&value) {
            self.fault(path, "0.001..1000", value);
        }
        value
    }
}

pub(super) fn validate(mut raw: RawConfig, files: &mut Files) -> Result<Config, Faults> {
    let mut check = Check::default();
    let seconds = Duration::from_secs;
    let keep_alive_interval = check.duration(
        "keep_alive_interval",
        raw.keep_alive_interval,
        seconds(2),
        Duration::from_millis(100),
        seconds(60),
    );
    let shutdown_delay =
        check.duration("shutdown_delay", raw.shutdown_delay, Duration::ZERO, Duration::ZERO, seconds(300));
    let worker_threads = raw.runtime.worker_threads.unwrap_or(1);
    if !(1..=64).contains(&worker_threads) {
        check.fault("runtime.worker_threads", "1..64", worker_threads);
    }
    let limits = limits::validate(&mut check, files, &mut raw);
    let section = raw.rate_limit_service.take();
    let kubernetes = raw.kubernetes.take();
    let store = store(&mut check, files, raw.store);
    let on_cluster = matches!(&store, StoreConfig::Redis(options) if options.cluster);
    let pools: Vec<PoolRule> = raw
        .pools
        .into_iter()
        .enumerate()
        .map(|(i, pool)| pool_rule(&mut check, &format!("pools[{i}]"), pool, on_cluster))
        .collect();
    for (i, rule) in pools.iter().enumerate() {
        let same = |other: &PoolRule| other.cluster == rule.cluster && other.route == rule.route;
        if let Some(earlier) = pools[..i].iter().position(same) {
            check.push(format!(
                "pools[{i}]: must name a cluster and route of its own, got those of pools[{earlier}]"
            ));
        }
    }
    let unlisted = unlisted(&mut check, raw.unlisted_pools);
    let rules = pools.iter().chain(&unlisted);
    let kubernetes = kubernetes::options(&mut check, files, kubernetes, rules);
    let mut config = Config {
        listen: listen(&mut check, raw.listen),
        keep_alive_interval,
        shutdown_delay,
        log: log(&mut check, raw.log),
        worker_threads,
        store,
        kubernetes,
        pools,
        unlisted,
        rules: Arc::new(limits.rules),
        admin: Arc::new(limits.admin),
        ledger: limits.ledger,
        warnings: Vec::new(),
        path: None,
        files: Vec::new(),
        sections: super::Sections::default(),
        traces: traces::validate(&mut check, files, raw.traces),
        rate_limit_service: section.map(|section| rate_limit_service::validate(&mut check, files, section)),
    };
    let (faults, warnings) = check.into_parts();
    config.warnings = warnings;
    if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
}

fn listen(check: &mut Check, raw: RawListen) -> Listen {
    let default = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let grpc = match raw.grpc.as_deref() {
        None => Some(default(9190)),
        Some("off") => None,
        Some(address) => check.socket("listen.grpc", address),
    };
    if raw.grpc.as_deref() == Some("off") && raw.grpc_socket.is_none() {
        check.fault("listen.grpc_socket", "a path where listen.grpc is off", "none");
    }
    // Longest path a Unix socket address holds, with its closing zero.
    if let Some(path) = raw.grpc_socket.as_deref().filter(|path| path.is_empty() || path.len() > 107) {
        check.fault("listen.grpc_socket", "a path of 1..107 bytes", format!("{path:?}"));
    }
    let mode = raw.grpc_socket_mode.as_deref().unwrap_or("0660");
    let grpc_socket_mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777);
    if grpc_socket_mode.is_none() {
        check.fault("listen.grpc_socket_mode", "an octal file mode such as \"0660\"", format!("{mode:?}"));
    }
    let http = raw.http.map_or(Some(default(9191)), |address| check.socket("listen.http", &address));
    Listen {
        grpc,
        grpc_socket: raw.grpc_socket.map(Into::into),
        grpc_socket_mode: grpc_socket_mode.unwrap_or(0o660),
        http: http.unwrap_or_else(|| default(9191)),
    }
}

fn log(check: &mut Check, raw: RawLog) -> Log {
    let format = raw.format.as_deref().unwrap_or("text");
    if !matches!(format, "text" | "json") {
        check.fault("log.format", "text or json", format!("{format:?}"));
    }
    let level = raw.level.unwrap_or_else(|| "info".to_owned());
    if level.parse::<tracing_subscriber::filter::EnvFilter>().is_err() {
        check.fault("log.level", "a level or filter such as info or evenkeel=debug", format!("{level:?}"));
    }
    Log { json: format == "json", level }
}

fn store(check: &mut Check, files: &mut Files, raw: RawStore) -> StoreConfig {
    match raw.kind.as_deref().unwrap_or("memory") {
        "memory" => {
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
                check.fault("store.type", &format!("redis where store.{field} is given"), "memory");
            }
            StoreConfig::Memory
        }
        "redis" => StoreConfig::Redis(redis_options(check, files, raw)),
        other => {
            check.fault("store.type", "memory or redis", format!("{other:?}"));
            StoreConfig::Memory
        }
    }
}

fn redis_options(check: &mut Check, files: &mut Files, raw: RawStore) -> RedisOptions {
    if raw.url.is_some() && !raw.urls.is_empty() {
        check.fault("store.urls", "absent where store.url is given", "both");
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
        if redis_url_is_wrong(url) {
            // The URL may hold a password: say where, not what.
            let path = if urls.len() == 1 { "store.url".to_owned() } else { format!("store.urls[{i}]") };
            check.fault(&path, "a redis:// or rediss:// URL", "something else");
        }
    }
    credentials::put_into(check, files, &mut urls, raw.user.as_deref(), raw.password_file.as_deref());
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

fn redis_url_is_wrong(url: &str) -> bool {
    !redis::parse_redis_url(url).is_some()
}

fn pool_rule(check: &mut Check, path: &str, raw: RawPool, on_cluster: bool) -> PoolRule {
    if raw.cluster != "*" {
        check.name(&format!("{path}.cluster"), &raw.cluster);
    }
    if let Some(route) = raw.route.as_deref().filter(|route| *route != "*") {
        check.name(&format!("{path}.route"), route);
    }
    if raw.higress_table && on_cluster {
        let expected = "false on Redis Cluster: Higress's key has no hash tag";
        check.fault(&format!("{path}.higress_table"), expected, "true");
    }
    if raw.higress_table && !raw.per_route {
        let expected = "true where higress_table is: Higress keeps a table for each route";
        check.fault(&format!("{path}.per_route"), expected, "false");
    } else if raw.route.as_deref().is_some_and(|route| route != "*") && !raw.per_route {
        let expected = "true where route is given: routes that share a table share its rule";
        check.fault(&format!("{path}.per_route"), expected, "false");
    }
    let weight = check.weight(&format!("{path}.weight"), raw.weight, 1.0);
    let cap = raw.cap.unwrap_or(0);
    if raw.dns.is_some() && !raw.endpoints.is_empty() {
        check.fault(&format!("{path}.dns"), "absent where endpoints are given", "both");
    }
    if raw.kubernetes.is_some() && (raw.dns.is_some() || !raw.endpoints.is_empty()) {
        check.fault(&format!("{path}.kubernetes"), "absent where endpoints or dns are given", "both");
    }
    let cluster = Some(raw.cluster).filter(|cluster| cluster != "*");
    let source = match (raw.kubernetes, raw.dns) {
        (Some(raw), _) => {
            let path = format!("{path}.kubernetes");
            Source::Kubernetes(kubernetes::service_rule(check, &path, cluster.as_deref(), raw))
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
        on_store_failure: raw.on_store_failure.unwrap_or_default(),
        full_retry_after: retry_after(check, path, raw.full_retry_after),
        higress_table: raw.higress_table,
    }
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
            weight: check.weight(&format!("{path}[{i}].weight"), raw.weight, weight),
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

fn unlisted(check: &mut Check, raw: RawUnlisted) -> Option<PoolRule> {
    let path = "unlisted_pools.kubernetes";
    let source = raw.kubernetes.map_or(Source::Request, |raw| {
        let rule = kubernetes::service_rule(check, path, None, raw);
        if let Some(service) = &rule.service {
            let expected = "absent: the names of clusters tell it";
            check.fault(&format!("{path}.service"), expected, format!("{service:?}"));
        }
        Source::Kubernetes(rule)
    });
    let rule = PoolRule {
        cluster: None,
        route: None,
        per_route: raw.per_route,
        source,
        weight: check.weight("unlisted_pools.weight", raw.weight, 1.0),
        cap: raw.cap.unwrap_or(0),
        on_store_failure: raw.on_store_failure.unwrap_or_default(),
        full_retry_after: retry_after(check, "unlisted_pools", raw.full_retry_after),
        higress_table: false,
    };
    raw.accept.then_some(rule)
}
