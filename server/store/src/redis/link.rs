//! Sends each call to the server that has its keys: the only one, the primary that the sentinels name, or the node of a
//! Redis Cluster that has the keys' slot.
//!
//! Each server has its own connections and its own circuit breaker ([`super::node`]), so that a lost node of a cluster
//! affects only the pools and keys in its slots.

use std::sync::Arc;

use evenkeel_domain::{
    StoreError,
    settings::{RedisOptions, Topology},
};
use evenkeel_telemetry::Metrics;
use redis::{Cmd, RedisError, Value};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    access::{Access, Address},
    circuit::Outages,
    cluster,
    node::{Shared, is_moved},
    routes::Routes,
    sentinel,
    slot::slot_of_command,
};

pub(crate) use super::node::Way;

/// Maximum number of redirections of one call on a cluster. A slot that moves answers with one; a slot map that is out of
/// date adds another.
const REDIRECTIONS_MAX: usize = 3;

/// Background tasks of the connections: probes, and the watch on the store's servers.
#[derive(Clone, Default)]
pub struct Background {
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

pub(crate) struct Link {
    routes: Arc<Routes>,
    shared: Arc<Shared>,
    /// Ends the link's tasks when the link is dropped.
    _end: tokio_util::sync::DropGuard,
}

impl Link {
    /// Prepares the connections. If requests use them (`metrics` is given), connects in the background. Otherwise, the
    /// first call connects.
    pub(crate) fn new(
        options: &RedisOptions,
        metrics: Option<Arc<Metrics>>,
        background: &Background,
    ) -> Result<Self, RedisError> {
        let timeout_beside = options.connect_timeout.max(options.timeout);
        let login = match &options.topology {
            Topology::Sentinel(sentinel) => &sentinel.credentials,
            Topology::Single | Topology::Cluster => &options.credentials,
        };
        let parse = |url: &String| {
            Access::parse(url, login.clone(), options.tls.clone(), options.connect_timeout, timeout_beside)
        };
        let mut seeds = options.urls.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let (first, access) = seeds.first().cloned().ok_or_else(|| {
            RedisError::from((redis::ErrorKind::InvalidClientConfig, "no URL of a Redis server"))
        })?;
        let mut sentinels = Vec::new();
        let access = match &options.topology {
            Topology::Sentinel(sentinel) => {
                sentinels = std::mem::take(&mut seeds);
                access.for_primary(options.credentials.clone(), sentinel.primary_uses_tls)
            }
            Topology::Single | Topology::Cluster => access,
        };
        let shutdown = background.shutdown.child_token();
        let shared = Arc::new(Shared {
            access,
            timeout: options.timeout,
            timeout_beside,
            serves_requests: metrics.is_some(),
            outages: Outages::new(metrics),
            has_slots: options.topology == Topology::Cluster,
            last_call_failed: false.into(),
            changed: Arc::new(Notify::new()),
            tasks: background.tasks.clone(),
            shutdown: shutdown.clone(),
        });
        let routes = Arc::new(Routes::new(Arc::clone(&shared), &options.key_prefix));
        match &options.topology {
            Topology::Single => routes.use_one(first),
            Topology::Cluster => {
                let seeds = seeds.into_iter().map(|(address, _)| address).collect();
                let watch = cluster::watch(Arc::clone(&routes), seeds, Arc::clone(&shared));
                background.tasks.spawn(shutdown.clone().run_until_cancelled_owned(watch));
            }
            Topology::Sentinel(sentinel) => {
                let (name, routes, shared) =
                    (sentinel.master_name.clone(), Arc::clone(&routes), Arc::clone(&shared));
                let watch = sentinel::watch(routes, name, sentinels, shared);
                background.tasks.spawn(shutdown.clone().run_until_cancelled_owned(watch));
            }
        }
        Ok(Self { routes, shared, _end: shutdown.drop_guard() })
    }

    /// Sends one command and waits for its answer. The inner error is one that Redis answered.
    pub(crate) async fn query(&self, cmd: &Cmd, way: Way) -> Result<Result<Value, RedisError>, StoreError> {
        let timeout = match way {
            Way::Request => self.shared.timeout,
            Way::Beside => self.shared.timeout_beside,
        };
        let slot = if self.shared.has_slots { slot_of_command(cmd) } else { None };
        let mut node = match (self.routes.of(slot), way) {
            (Some(node), _) => node,
            (None, Way::Request) => return Err(unknown()),
            (None, Way::Beside) => self.routes.wait_for(slot, timeout).await.ok_or_else(unknown)?,
        };
        let deadline = Instant::now() + timeout;
        let mut asking = false;
        for _ in 0..REDIRECTIONS_MAX {
            let answer = node.query(cmd, way, asking, deadline).await?;
            let error = match answer {
                Err(error) if self.shared.has_slots => error,
                answer => return Ok(answer),
            };
            if error.code() == Some("TRYAGAIN") {
                // The slot is moving, and some keys of the call have moved already. Redis has not executed the call.
                return Err(StoreError::Refused(error.to_string()));
            }
            if !is_moved(&error) {
                return Ok(Err(error));
            }
            let Some(target) = redirected(&error, node.address()) else { return Ok(Err(error)) };
            asking = error.code() == Some("ASK");
            if !asking {
                self.shared.changed.notify_one();
            }
            node = self.routes.redirected_to(target);
        }
        Err(StoreError::Refused(format!("Redis Cluster redirected a call {REDIRECTIONS_MAX} times")))
    }

    /// Waits until all servers that are known can be used.
    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        let mut found = self.shared.outages.found_again();
        let all = async {
            while !self.shared.outages.is_complete() {
                if found.changed().await.is_err() {
                    return;
                }
            }
        };
        match tokio::time::timeout(self.shared.timeout_beside, all).await {
            Ok(()) => Ok(()),
            Err(_) => Err(StoreError::Unavailable("not connected to all servers of the store".to_owned())),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.shared.outages.is_up()
    }

    pub(crate) fn losses(&self) -> u64 {
        self.shared.outages.losses()
    }

    pub(crate) fn found_again(&self) -> watch::Receiver<u64> {
        self.shared.outages.found_again()
    }
}

fn unknown() -> StoreError {
    StoreError::NotSent("no server is known for these keys yet".to_owned())
}

/// Returns the node that a redirection names. A node that does not know its own host leaves the host out.
fn redirected(error: &RedisError, from: &Address) -> Option<Address> {
    let (target, _) = error.redirect_node()?;
    let (host, port) = target.rsplit_once(':')?;
    let host = if host.is_empty() { Arc::clone(&from.host) } else { host.into() };
    Some(Address { host, port: port.parse().ok()? })
}
