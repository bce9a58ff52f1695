//! Validates [`RawConfig`] into [`Config`].

use std::{collections::HashSet, mem::take, sync::Arc, time::Duration};

use evenkeel_domain::settings::{Log, Role, Topology};

use super::{
    Config, Faults, Files, StoreConfig,
    check::Check,
    higress, kubernetes,
    limits::{
        self,
        raw::{RawLimitHeader, RawSections},
    },
    listen, pools, rate_limit_service,
    raw::{RawConfig, RawLog, RawLogFormat},
    roles, store, tickets, tls, traces,
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
    check.within("runtime.worker_threads", worker_threads, 1..=64);
    let limits = limit_sections(&mut check, files, &mut raw);
    let limits = limits::validate(&mut check, limits);
    let section = raw.rate_limit_service.take();
    let kubernetes = raw.kubernetes.take();
    let store = store::validate(&mut check, files, raw.store);
    let on_redis_cluster =
        matches!(&store, StoreConfig::Redis(options) if options.topology == Topology::Cluster);
    let prefixes_max = raw.prefix_index.entries_max(&mut check);
    let pools = pools::validate(&mut check, raw.pools, on_redis_cluster, prefixes_max);
    let unlisted = pools::unlisted(&mut check, raw.unlisted_pools, prefixes_max);
    let blocks = raw.prefix_index.blocks(&mut check);
    let has_prefix_cache = pools.iter().chain(&unlisted).any(|rule| rule.prefix_cache.is_some());
    let rules = pools.iter().chain(&unlisted);
    let kubernetes = kubernetes::options(&mut check, files, kubernetes, rules);
    // The files may be wrong, so ask the section, not its result.
    let has_client_ca = raw.tls.as_ref().is_some_and(tls::RawTls::has_client_ca);
    let sections =
        [(Role::Gateway, raw.gateway), (Role::Reader, raw.reader), (Role::Admin, raw.admin.into_role())];
    let roles = roles::validate(&mut check, files, sections, has_client_ca);
    let mut config = Config {
        listen: listen::validate(&mut check, raw.listen),
        tls: raw.tls.and_then(|tls| tls::validate(&mut check, files, tls)),
        keep_alive_interval,
        shutdown_delay,
        log: log(&mut check, raw.log),
        worker_threads,
        store,
        kubernetes,
        prompt_blocks: has_prefix_cache.then_some(blocks),
        pools,
        unlisted,
        rules: Arc::new(limits.rules),
        roles: Arc::new(roles),
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
        through_gateway: raw.admin.through_gateway.unwrap_or(false),
        ledger: take(&mut raw.ledger),
    }
}

fn with_paths<T>(section: &str, entries: Vec<T>) -> Vec<(String, T)> {
    entries.into_iter().enumerate().map(|(i, entry)| (format!("{section}[{i}]"), entry)).collect()
}

fn log(check: &mut Check, raw: RawLog) -> Log {
    let level = raw.level.unwrap_or_else(|| "info".to_owned());
    if level.parse::<tracing_subscriber::filter::EnvFilter>().is_err() {
        check.fault("log.level", "a level or filter such as info or evenkeel=debug", format!("{level:?}"));
    }
    Log { json: raw.format == Some(RawLogFormat::Json), level }
}
