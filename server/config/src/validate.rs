//! Validates [`RawConfig`] into [`Config`].

use std::{collections::HashSet, mem::take, net::SocketAddr, sync::Arc, time::Duration};

use evenkeel_domain::settings::{Log, Topology};

use super::{
    Config, Faults, Files, Listen, StoreConfig,
    check::Check,
    higress, kubernetes,
    limits::{
        self,
        raw::{RawLimitHeader, RawSections},
    },
    pools, rate_limit_service,
    raw::{RawConfig, RawListen, RawLog, RawLogFormat},
    store, tickets, traces,
};

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
    let limits = limit_sections(&mut check, files, &mut raw);
    let limits = limits::validate(&mut check, files, limits);
    let section = raw.rate_limit_service.take();
    let kubernetes = raw.kubernetes.take();
    let store = store::validate(&mut check, files, raw.store);
    let on_redis_cluster =
        matches!(&store, StoreConfig::Redis(options) if options.topology == Topology::Cluster);
    let pools = pools::validate(&mut check, raw.pools, on_redis_cluster);
    let unlisted = pools::unlisted(&mut check, raw.unlisted_pools);
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
        tickets: Arc::new(tickets::validate(&mut check, files, raw.tickets)),
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

/// Takes the sections about limits out of `raw`, and adds the limits of Higress's plugins.
fn limit_sections(check: &mut Check, files: &mut Files, raw: &mut RawConfig) -> RawSections {
    let mut names: HashSet<String> = raw.limits.iter().map(|limit| limit.name.clone()).collect();
    names.extend(raw.quotas.iter().map(|quota| quota.name.clone()));
    let shows_x = raw.limit_headers.iter().flatten().any(|header| *header == RawLimitHeader::X);
    let mut limits = with_paths("limits", take(&mut raw.limits));
    for (path, rules) in with_paths("higress_rules", take(&mut raw.higress_rules)) {
        limits.extend(higress::load(check, files, &path, &rules, &mut names, shows_x));
    }
    RawSections {
        limits,
        quotas: with_paths("quotas", take(&mut raw.quotas)),
        prices: take(&mut raw.prices),
        models: take(&mut raw.models),
        limit_headers: raw.limit_headers.take(),
        quota_admins: take(&mut raw.quota_admins),
        admin: take(&mut raw.admin),
        ledger: take(&mut raw.ledger),
    }
}

fn with_paths<T>(section: &str, entries: Vec<T>) -> Vec<(String, T)> {
    entries.into_iter().enumerate().map(|(i, entry)| (format!("{section}[{i}]"), entry)).collect()
}

fn listen(check: &mut Check, raw: RawListen) -> Listen {
    let default = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let grpc = match raw.grpc.as_deref() {
        None => Some(default(9190)),
        Some("off") => None,
        Some(address) => check.socket("listen.grpc", address),
    };
    if raw.grpc.as_deref() == Some("off") && raw.grpc_socket.is_none() {
        check.fault("listen.grpc_socket", "a path if listen.grpc is off", "none");
    }
    // A Unix socket address holds at most 107 bytes of path and a terminating zero.
    if let Some(path) = raw.grpc_socket.as_deref().filter(|path| path.is_empty() || path.len() > 107) {
        check.fault("listen.grpc_socket", "a path of 1..107 bytes", format!("{path:?}"));
    }
    let mode = raw.grpc_socket_mode.as_deref().unwrap_or("0660");
    let grpc_socket_mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777);
    if grpc_socket_mode.is_none() {
        check.fault("listen.grpc_socket_mode", "an octal file mode such as \"0660\"", format!("{mode:?}"));
    }
    if raw.hosts.len() > 64 {
        check.fault("listen.hosts", "at most 64 entries", raw.hosts.len());
    }
    for (i, host) in raw.hosts.iter().enumerate().filter(|(_, host)| !is_host(host)) {
        check.fault(
            &format!("listen.hosts[{i}]"),
            "a host name without port, or an IP address",
            format!("{host:?}"),
        );
    }
    let connections_max = raw.connections_max.unwrap_or(2048);
    if !(16..=65536).contains(&connections_max) {
        check.fault("listen.connections_max", "16..65536", connections_max);
    }
    let http = raw.http.map_or(Some(default(9191)), |address| check.socket("listen.http", &address));
    Listen {
        grpc,
        grpc_socket: raw.grpc_socket.map(Into::into),
        grpc_socket_mode: grpc_socket_mode.unwrap_or(0o660),
        http: http.unwrap_or_else(|| default(9191)),
        hosts: raw.hosts.iter().map(|host| host.trim_end_matches('.').to_owned()).collect(),
        connections_max,
    }
}

/// Returns whether a text is a host name, which no scheme, port or path belongs to.
fn is_host(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=253).contains(&text.len()) && text.chars().all(is_part) && text.contains(char::is_alphanumeric)
}

fn log(check: &mut Check, raw: RawLog) -> Log {
    let level = raw.level.unwrap_or_else(|| "info".to_owned());
    if level.parse::<tracing_subscriber::filter::EnvFilter>().is_err() {
        check.fault("log.level", "a level or filter such as info or evenkeel=debug", format!("{level:?}"));
    }
    Log { json: raw.format == Some(RawLogFormat::Json), level }
}
