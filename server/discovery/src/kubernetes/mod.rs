//! Endpoints from Kubernetes. All pools of a service share one watch of its EndpointSlices. The watch ends when no pool
//! uses the service any more.

use std::{collections::HashMap, sync::Arc, time::Duration};

use evenkeel_domain::settings::{KubernetesOptions, PoolService, SERVICES_MAX};
use evenkeel_telemetry::Metrics;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, watch as channel};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use self::{
    access::client,
    slices::{Found, endpoints},
    watch::{Failure, ServiceState, Watch},
};
use super::Target;

mod access;
mod slices;
mod watch;

/// Interval at which a pool's task checks whether the pool is still used, and whether its service can be watched.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Identifies a service by its namespace (`None` means the default namespace) and its name.
type Key = (Option<String>, String);

/// The watches, and the client that they share.
pub(super) struct Hub {
    options: KubernetesOptions,
    client: OnceCell<Client>,
    /// The state of each watched service, at most `SERVICES_MAX`.
    watched: Mutex<HashMap<Key, Arc<channel::Sender<ServiceState>>>>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Hub {
    pub(super) fn new(
        options: KubernetesOptions,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let (client, watched) = (OnceCell::new(), Mutex::default());
        Arc::new(Self { options, client, watched, metrics, tasks, shutdown })
    }

    /// Subscribes to the state of a service. Returns `None` if the sidecar already watches the maximum number of
    /// services.
    fn subscribe(self: &Arc<Self>, service: &PoolService) -> Option<channel::Receiver<ServiceState>> {
        let namespace = service.namespace.clone().or_else(|| self.options.namespace.clone());
        let key = (namespace, service.service.clone());
        let mut watched = self.watched.lock();
        if let Some(state) = watched.get(&key) {
            return Some(state.subscribe());
        }
        if watched.len() >= SERVICES_MAX {
            return None;
        }
        let state = Arc::new(channel::Sender::default());
        let receiver = state.subscribe();
        watched.insert(key.clone(), Arc::clone(&state));
        let hub = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = hub.watch(&key, &state) => {}
                () = hub.until_unused(&key, &state) => {}
                () = hub.shutdown.cancelled() => {}
            }
        });
        Some(receiver)
    }

    /// Waits until no pool uses the service, and removes the service. The lock prevents a subscription between the
    /// check and the removal.
    async fn until_unused(&self, key: &Key, state: &channel::Sender<ServiceState>) {
        loop {
            state.closed().await;
            let mut watched = self.watched.lock();
            if state.receiver_count() == 0 {
                watched.remove(key);
                return;
            }
        }
    }

    async fn watch(&self, (namespace, service): &Key, state: &channel::Sender<ServiceState>) {
        let mut watch = Watch::new(service, &self.options, state, &self.metrics);
        loop {
            let failure = match self.client.get_or_try_init(|| client(&self.options)).await {
                Ok(client) => {
                    let namespace = namespace.as_deref().unwrap_or_else(|| client.default_namespace());
                    let api = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
                    watch.attempt(&api, namespace).await
                }
                Err(reason) => Failure::Client(reason),
            };
            watch.wait_for_retry(failure).await;
        }
    }
}

/// Keeps a pool's roster equal to the endpoints of its service.
pub(super) async fn follow(target: &Target<'_>, service: &PoolService, hub: &Arc<Hub>) {
    let entry = target.entry;
    let mut warned = false;
    let mut state = loop {
        match hub.subscribe(service) {
            Some(state) => break state,
            None if entry.is_forgotten() => return,
            None if !warned => warn!(
                pool = %entry.pool.id, watched = SERVICES_MAX,
                "too many Kubernetes services are watched; the pool stays empty"
            ),
            None => {}
        }
        warned = true;
        tokio::time::sleep(CHECK_INTERVAL).await;
    };
    let mut warnings = Warnings::default();
    loop {
        let now = state.borrow_and_update().clone();
        target.set_source_up(now.up);
        if let Some(slices) = &now.slices {
            let found = endpoints(slices.values(), &service.port);
            warnings.update(target, service, slices.is_empty(), &found);
            target.apply(found.addresses);
        }
        match tokio::time::timeout(CHECK_INTERVAL, state.changed()).await {
            // The watch has ended, because the sidecar is stopping.
            Ok(Err(_)) => return,
            Err(_) if entry.is_forgotten() => return,
            Ok(Ok(())) | Err(_) => {}
        }
    }
}

/// The warnings that currently apply, so that each is logged once.
#[derive(Default)]
struct Warnings {
    no_slices: bool,
    without_port: bool,
    other_family: bool,
}

impl Warnings {
    fn update(&mut self, target: &Target<'_>, service: &PoolService, is_empty: bool, found: &Found) {
        let (pool, name) = (&target.entry.pool.id, &service.service);
        target.set_without_port(found.without_port);
        let is_new = |warned: &mut bool, now: bool| !std::mem::replace(warned, now) && now;
        if is_new(&mut self.no_slices, is_empty) {
            warn!(%pool, service = name, "no EndpointSlices; does the service exist, with a selector?");
        }
        if is_new(&mut self.without_port, found.without_port > 0) {
            let (port, endpoints) = (&service.port, found.without_port);
            warn!(%pool, service = name, ?port, endpoints, "endpoints without the port are not used");
        }
        if is_new(&mut self.other_family, found.of_other_family > 0) {
            warn!(%pool, service = name, "EndpointSlices of names are not used, only those of IP addresses");
        }
    }
}
