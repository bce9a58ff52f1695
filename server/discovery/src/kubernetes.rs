//! Endpoints from Kubernetes: the pools of one service share one watch of its EndpointSlices, which lasts for as
//! long as one of them does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use evenkeel_domain::settings::{KubernetesOptions, PoolService, SERVICES_MAX};
use evenkeel_telemetry::Metrics;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    Target,
    access::client,
    slices::{Found, endpoints},
    watch::{Failure, Known, Watch},
};

/// How often a pool looks whether it is still wanted, and whether there is room for its service.
const LOOK: Duration = Duration::from_secs(60);

/// A service: namespace (`None` for the default one) and name.
type Key = (Option<String>, String);

/// The watches, and the way to the API server they share.
pub(super) struct Hub {
    options: KubernetesOptions,
    client: OnceCell<Client>,
    /// At most `SERVICES_MAX`.
    watched: Mutex<HashMap<Key, Arc<watch::Sender<Known>>>>,
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

    /// What is known of a service, now and later; none where too many are watched.
    fn subscribe(self: &Arc<Self>, service: &PoolService) -> Option<watch::Receiver<Known>> {
        let namespace = service.namespace.clone().or_else(|| self.options.namespace.clone());
        let key = (namespace, service.service.clone());
        let mut watched = self.watched.lock();
        if let Some(known) = watched.get(&key) {
            return Some(known.subscribe());
        }
        if watched.len() >= SERVICES_MAX {
            return None;
        }
        let known = Arc::new(watch::Sender::default());
        let receiver = known.subscribe();
        watched.insert(key.clone(), Arc::clone(&known));
        let hub = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = hub.watch(&key, &known) => {}
                () = hub.until_unwanted(&key, &known) => {}
                () = hub.shutdown.cancelled() => {}
            }
        });
        Some(receiver)
    }

    /// Until no pool wants the service. Nobody can begin to between the look and the removal.
    async fn until_unwanted(&self, key: &Key, known: &watch::Sender<Known>) {
        loop {
            known.closed().await;
            let mut watched = self.watched.lock();
            if known.receiver_count() == 0 {
                watched.remove(key);
                return;
            }
        }
    }

    async fn watch(&self, (namespace, service): &Key, known: &watch::Sender<Known>) {
        let mut watch = Watch::new(service, &self.options, known, &self.metrics);
        loop {
            let failure = match self.client.get_or_try_init(|| client(&self.options)).await {
                Ok(client) => {
                    let namespace = namespace.as_deref().unwrap_or_else(|| client.default_namespace());
                    let api = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
                    watch.attempt(&api, namespace).await
                }
                Err(why) => Failure::Client(why),
            };
            watch.rest(failure).await;
        }
    }
}

/// Keeps the roster of a pool equal to what is known of its service.
pub(super) async fn follow(target: &Target<'_>, service: &PoolService, hub: &Arc<Hub>) {
    let entry = target.entry;
    let mut told = false;
    let mut known = loop {
        match hub.subscribe(service) {
            Some(known) => break known,
            None if entry.is_forgotten() => return,
            None if !told => warn!(
                pool = %entry.pool.id, watched = SERVICES_MAX,
                "as many services of Kubernetes are watched as can be: the pool stays empty"
            ),
            None => {}
        }
        told = true;
        tokio::time::sleep(LOOK).await;
    };
    let mut told = Told::default();
    loop {
        let now = known.borrow_and_update().clone();
        target.set_up(now.up);
        if let Some(slices) = &now.slices {
            let found = endpoints(slices.values(), &service.port);
            told.tell(target, service, slices.is_empty(), &found);
            target.apply(found.addresses);
        }
        match tokio::time::timeout(LOOK, known.changed()).await {
            // The watch ended, with the sidecar.
            Ok(Err(_)) => return,
            Err(_) if entry.is_forgotten() => return,
            Ok(Ok(())) | Err(_) => {}
        }
    }
}

/// What the log was told, so that each is told once.
#[derive(Default)]
struct Told {
    nothing: bool,
    without_port: bool,
    other_family: bool,
}

impl Told {
    fn tell(&mut self, target: &Target<'_>, service: &PoolService, is_empty: bool, found: &Found) {
        let (pool, name) = (&target.entry.pool.id, &service.service);
        target.set_without_port(found.without_port);
        let is_news = |told: &mut bool, now: bool| !std::mem::replace(told, now) && now;
        if is_news(&mut self.nothing, is_empty) {
            warn!(%pool, service = name, "no EndpointSlices: is there such a service, with a selector?");
        }
        if is_news(&mut self.without_port, found.without_port > 0) {
            let (port, endpoints) = (&service.port, found.without_port);
            warn!(%pool, service = name, ?port, endpoints, "no such port of endpoints: not used");
        }
        if is_news(&mut self.other_family, found.of_other_family > 0) {
            warn!(%pool, service = name, "EndpointSlices of names are not used, only of IP addresses");
        }
    }
}
