//! Starts the sidecar from its configuration, and stops its parts in order.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use evenkeel_api::{Access, Api, WATCHERS_MAX};
use evenkeel_config::{Config, StoreConfig};
use evenkeel_domain::{
    limit::LimitRules,
    settings::{PoolRule, RateLimitService},
};
use evenkeel_engine::{
    activity::{
        History, Recorder,
        report::{About, PoolTotals, Reporter},
    },
    admission::Admission,
    balancer::{Balancer, directory::Directory, drains::Drains, sharing, sweep},
    change_log::ChangeLog,
    holders::Holders,
    ledger::Ledger,
    limiter::{Limiter, overrides::Overrides, quotas::Quotas},
    rls::{LoadMetrics, Loader, RateLimitMetrics, RateLimitVectors, RateLimiter},
};
use evenkeel_store::{Undelivered, counters::Counters, redis::Background};
use evenkeel_telemetry::Metrics;
use evenkeel_tls::ServerTls;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

pub use crate::listeners::{Addresses, Listeners};
use crate::{
    doors, reload, serve,
    stores::{Opened, open_store, open_usage_and_activity, store_kind},
    ticket_keys, tracer,
    transport::{
        access::RoleCheck,
        connections::{self, Gates},
        grpc, http,
        memory::{self, MemoryBudget},
    },
};

/// Maximum time that a shutdown waits for gateways' calls in progress.
const CALLS_MAX: Duration = Duration::from_secs(10);
/// Maximum time that a shutdown waits for each of three groups: gRPC connections, HTTP requests, background tasks.
const END_MAX: Duration = Duration::from_secs(1);
/// Maximum time that a shutdown waits for the export of traces.
const TRACES_MAX: Duration = Duration::from_secs(2);
/// Maximum time that a shutdown waits for the store, if settlements wait for it.
const STORE_MAX: Duration = Duration::from_secs(5);
/// Maximum time that a shutdown then waits for the ledger to write usage, in addition to what settlements left of
/// [`STORE_MAX`].
const LEDGER_MAX: Duration = Duration::from_secs(2);

/// Serves until `shutdown` is cancelled, then stops in this order: reports that it is not ready, waits `shutdown_delay`
/// so that load balancers notice, accepts no new gRPC connections, waits for calls in progress, writes usage, exports
/// traces, ends HTTP and the background tasks.
///
/// # Errors
/// Fails if the sidecar cannot start, for example because the store's options or the rate limit files are invalid.
pub async fn run(
    config: Config,
    listeners: Listeners,
    ready: impl FnOnce(&Addresses) -> anyhow::Result<()>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    evenkeel_discovery::check_support(config.pools.iter().chain(&config.unlisted))?;
    let addresses = listeners.addresses(config.tls.as_ref())?;
    let metrics = Metrics::new()?;
    let (tasks, background) = (TaskTracker::new(), CancellationToken::new());
    let id = instance_id()?;
    let tracer = tracer::start(config.traces.as_ref(), &id, &metrics.traces)?;
    let live = reload::start(&config, &metrics, &tasks, &background);
    let connections = Background { tasks: tasks.clone(), shutdown: background.clone() };
    let Opened { store, counters, holders, records, drains, overrides, changes, ticket_keys, placements } =
        open_store(&config, &metrics, &connections).await?;
    let tickets = ticket_keys::open(&live.tickets, ticket_keys, &*store).await;
    let (directory, discovered) = Directory::new(config.pools.clone(), config.unlisted.clone());
    let unrecorded = metrics.refusals_unrecorded.clone();
    let recorder = Arc::new(Recorder::new(name_of(&addresses.http), unrecorded));
    if let Some(tls) = &live.tls {
        let (recorder, mut tls) = (Arc::clone(&recorder), tls.clone());
        tls.mark_changed();
        tasks.spawn(reload::follow(tls, background.clone(), move |tls: ServerTls| {
            recorder.set_certificate_expiry(tls.validity.not_after_s * 1000);
        }));
    }
    let balancer = Balancer::new(directory, store, Arc::clone(&recorder), Arc::clone(&metrics));
    let balancer = Arc::new(balancer);
    let rules_of_pools = || config.pools.iter().chain(&config.unlisted);
    if let Some(store) = placements.filter(|_| rules_of_pools().any(PoolRule::considers_placements)) {
        let sidecar = u64::from_str_radix(&id, 16).unwrap_or_default();
        tasks.spawn(sharing::run(Arc::clone(&balancer), store, sidecar, background.clone()));
    }
    let views = Arc::new(sweep::Views::default());
    let (usage, activity) = open_usage_and_activity(&config, &metrics, &connections)?;
    let ledger = Ledger::new(config.ledger.clone(), usage, Arc::clone(&metrics));

    tasks.spawn(Arc::clone(&ledger).run(background.clone()));
    tasks.spawn(evenkeel_discovery::run(
        discovered,
        config.kubernetes.clone(),
        Arc::clone(&metrics),
        tasks.clone(),
        background.clone(),
    ));
    tasks.spawn(sweep::run(
        Arc::clone(&balancer),
        Arc::clone(&views),
        Arc::clone(&metrics),
        config.sweep_interval(),
        background.clone(),
    ));
    let rules = Arc::new(ArcSwap::new(Arc::clone(&config.rules)));
    metrics.limits.set_revision(config.rules.fingerprint());
    let (rules_applied, rules_changed) = watch::channel(());
    tasks.spawn(reload::follow(live.rules.clone(), background.clone(), {
        let (rules, metrics) = (Arc::clone(&rules), Arc::clone(&metrics));
        move |new: Arc<LimitRules>| {
            metrics.limits.set_revision(new.fingerprint());
            rules.store(new);
            rules_applied.send_replace(());
        }
    }));
    let change_log = Arc::new(ChangeLog::new(changes, tasks.clone(), Arc::clone(&metrics)));
    let drains =
        Arc::new(Drains::new(drains, Arc::clone(&balancer), Arc::clone(&views), Arc::clone(&change_log)));
    tasks.spawn(Arc::clone(&drains).run(config.keep_alive_interval, background.clone()));
    let overrides = Arc::new(Overrides::new(overrides, Arc::clone(&rules), Arc::clone(&change_log)));
    tasks.spawn(Arc::clone(&overrides).run(config.keep_alive_interval, background.clone()));
    let quotas = Arc::new(Quotas::new(records, Arc::clone(&rules), Arc::clone(&change_log)));

    let limiter = Limiter::new(
        Arc::clone(&rules),
        overrides.current(),
        Arc::clone(&counters),
        config.holder_ttl(),
        Arc::clone(&tickets),
        Arc::clone(&recorder),
        Arc::clone(&metrics),
    );
    tasks.spawn(reload::follow(live.tickets.clone(), background.clone(), {
        let tickets = Arc::clone(&tickets);
        move |new| tickets.replace(&new)
    }));
    let limiter = Arc::new(limiter);
    let admission = Arc::new(Admission {
        balancer: Arc::clone(&balancer),
        limiter: Arc::clone(&limiter),
        ledger: Arc::clone(&ledger),
        quotas,
        tickets,
        unverified: Default::default(),
        restores: Default::default(),
        recorder: Arc::clone(&recorder),
        tracer: tracer.clone(),
        metrics: Arc::clone(&metrics),
    });
    tasks.spawn(Arc::clone(&admission).housekeeping(
        id.clone(),
        config.keep_alive_interval,
        background.clone(),
    ));
    let holders = Holders::new(holders, Arc::clone(&metrics));
    tasks.spawn(Arc::clone(&holders).housekeeping(config.keep_alive_interval, background.clone()));
    let about = About { id, store: store_kind(&config.store), holder_ttl: config.holder_ttl() };
    let reporter = Reporter::new(
        about.clone(),
        Arc::clone(&recorder),
        Arc::clone(&balancer) as Arc<dyn PoolTotals>,
        Arc::clone(&balancer.store),
        Arc::clone(&activity),
        Arc::clone(&rules),
    );
    let api = Arc::new(Api {
        about,
        started_at_ms: reporter.started_at_ms(),
        keep_alive_interval: config.keep_alive_interval,
        history: History::new(activity),
        views: Arc::clone(&views),
        balancer: Arc::clone(&balancer),
        limiter,
        quotas: Arc::clone(&admission.quotas),
        rules,
        overrides,
        drains,
        change_log,
        access: Arc::new(Access::new(live.roles.clone(), Arc::clone(&metrics))),
        ledger: Arc::clone(&ledger),
        limit_request: grpc::limit_request,
        watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
        watched: Default::default(),
    });
    tasks.spawn(reporter.run(background.clone()));

    let (end_streams, stop_http) = (grpc::Shutdown::default(), CancellationToken::new());
    let stop_grpc = end_streams.stop.clone();
    let calls = TaskTracker::new();
    let rate_limits = config
        .rate_limit_service
        .as_ref()
        .map(|service| rate_limits(service, Arc::clone(&counters), &metrics, &tasks, &background))
        .transpose()?
        .map(|limiter| grpc::RateLimits {
            limiter,
            metrics: Arc::clone(&metrics),
            response_max: response_max(&config.store),
        });
    let gateways = grpc::Gateways {
        admission: Arc::clone(&admission),
        holders,
        keep_alive_interval: config.keep_alive_interval,
        calls: calls.clone(),
        prompt_blocks: config.prompt_blocks,
        rules: rules_changed,
        sidecar: name_of(&addresses.http),
        shutdown: end_streams.clone(),
        memory: MemoryBudget::new(memory::REQUESTS, metrics.bounds.request_bytes.clone()),
    };
    let roles = RoleCheck { access: Arc::clone(&api.access), open_metrics: config.listen.open_metrics };
    let (routes, mut health) = grpc::routes(gateways, Arc::clone(&api), rate_limits, roles.clone()).await?;
    let gates = Gates::new(&connections::places(config.listen.connections_max), &metrics.bounds);
    let (doors, socket_file) = doors::open(&config, listeners, live.tls.as_ref(), &gates, &metrics);
    let http = Arc::new(http::Http {
        api,
        memory: MemoryBudget::new(memory::RESPONSES, metrics.bounds.response_bytes.clone()),
        hosts: config.listen.hosts.clone(),
        unverified: Arc::clone(&admission.unverified),
        metrics,
        stop: stop_http.clone(),
    });

    let (grpc_servers, http_server) = (TaskTracker::new(), TaskTracker::new());
    serve::http(&http_server, doors.http, http::router(http, |router| roles.before_http(router)), &stop_http);
    serve::grpc(&grpc_servers, doors.grpc, doors.grpc_socket, &routes, &stop_grpc);
    tasks.spawn(gates.watch(background.clone()));
    doors::log_access(&config, &addresses);
    ready(&addresses)?;
    info!(grpc = addresses.grpc, socket = ?addresses.grpc_socket, http = addresses.http, "serving");

    shutdown.cancelled().await;
    info!(delay_ms = config.shutdown_delay.as_millis() as u64, "shutting down");
    recorder.set_stopping();
    end_streams.leaving.cancel();
    grpc::set_not_serving(&health).await;
    tokio::time::sleep(config.shutdown_delay).await;
    stop_grpc.cancel();
    grpc::end_health_watches(&mut health).await;
    let calls_until = Instant::now() + CALLS_MAX;
    let _ = ends_within(CALLS_MAX, &calls).await;
    // Clients may still be reading the last responses. A client that has stopped reading must not delay the shutdown.
    if !ends_within(END_MAX, &grpc_servers).await {
        info!("connections still open: stopping anyway");
    }
    // A settlement that arrives while its connection closes goes on after that.
    if !ends_within(calls_until.saturating_duration_since(Instant::now()), &calls).await {
        warn!(after_s = CALLS_MAX.as_secs(), "calls still in progress: stopping anyway");
    }
    let store_until = Instant::now() + STORE_MAX;
    // This sidecar has acknowledged these settlements, so nobody else sends them.
    let Undelivered { settlements, tokens } = admission.drain(STORE_MAX).await;
    if settlements > 0 {
        warn!(
            settlements,
            tokens, "the store is unavailable: settlements are lost, and their reservations stay charged"
        );
    }
    // Flush the ledger after the last settlements, which record usage, and before the store closes.
    ledger.flush_all(LEDGER_MAX + store_until.saturating_duration_since(Instant::now())).await;
    if !tracer.shutdown(TRACES_MAX).await {
        info!("the trace collector is too slow: the remaining traces are not exported");
    }
    // End HTTP after gRPC, so that probes can read the readiness as long as the sidecar serves gateways.
    stop_http.cancel();
    if !ends_within(END_MAX, &http_server).await {
        warn!("HTTP requests still in progress: stopping anyway");
    }
    background.cancel();
    if !ends_within(END_MAX, &tasks).await {
        warn!("background tasks still running: stopping anyway");
    }
    if let Some(file) = socket_file {
        file.remove();
    }
    info!("stopped");
    Ok(())
}

/// Returns a random id that distinguishes this sidecar from all others.
fn instance_id() -> anyhow::Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("cannot read random bytes from the system")?;
    Ok(format!("{:016x}", u64::from_be_bytes(random)))
}

/// Closes the tracker and waits for its tasks. Returns false if the tasks take longer than `limit`.
async fn ends_within(limit: Duration, tasks: &TaskTracker) -> bool {
    tasks.close();
    tokio::time::timeout(limit, tasks.wait()).await.is_ok()
}

/// Creates the limiter of the rate limit service, and starts the task that watches the service's limit files.
fn rate_limits(
    service: &RateLimitService,
    counters: Arc<dyn Counters>,
    metrics: &Metrics,
    tasks: &TaskTracker,
    background: &CancellationToken,
) -> anyhow::Result<Arc<RateLimiter>> {
    let rls = &metrics.rls;
    let rate_limit_metrics = Arc::new(RateLimitMetrics::new(RateLimitVectors {
        descriptors: rls.descriptors.clone(),
        hits: rls.hits.clone(),
        near_limit_hits: rls.near_limit_hits.clone(),
        detailed: rls.detailed.clone(),
    }));
    let loads = LoadMetrics {
        valid: rls.config_valid.clone(),
        loaded: rls.config_applied.clone(),
        rejected: rls.config_rejected.clone(),
    };
    let loader = Loader::start(service.files.clone(), Arc::clone(&rate_limit_metrics), loads)
        .with_context(|| format!("rate_limit_service.config: {}", service.files.path.display()))?;
    let rate_limiter = RateLimiter::new(loader.rules(), counters, service.options, &rate_limit_metrics);
    tasks.spawn(loader.run(background.clone()));
    Ok(Arc::new(rate_limiter))
}

/// Returns how long a decision about limits may take. A request waits for its own call of the store, and for at most one
/// call that was already in progress.
fn response_max(store: &StoreConfig) -> Option<Duration> {
    match store {
        StoreConfig::Memory => None,
        StoreConfig::Redis(options) => Some(options.timeout * 2),
    }
}

/// Returns a name that identifies this sidecar to people: host name and port. In Kubernetes the host name is the pod's.
fn name_of(http: &str) -> String {
    let host = rustix::system::uname();
    let port = http.rsplit(':').next().unwrap_or_default();
    format!("{}:{port}", host.nodename().to_string_lossy())
}
