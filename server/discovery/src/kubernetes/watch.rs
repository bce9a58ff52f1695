//! Lists a service's EndpointSlices and then watches them, as long as a pool uses the service.
//!
//! After a watch ends or its connection breaks, the next watch continues from the same resource version. If the API
//! server answers with an error, such as 410 because it no longer has that version, the sidecar lists the slices again
//! and replaces all known slices at once. No failure removes an endpoint.

use std::{collections::BTreeMap, fmt, pin::pin, sync::Arc, time::Duration};

use evenkeel_domain::settings::KubernetesOptions;
use evenkeel_telemetry::Metrics;
use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
    core::Status,
};
use rand::Rng as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::slices::Slice;

/// Maximum number of slices of a service. Kubernetes puts up to 100 endpoints into a slice, and a pool has at most
/// 1024.
const SLICES_MAX: usize = 256;
/// Maximum wait for a list, or for the start of a watch.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Time by which a watch may exceed its requested duration.
const WATCH_MARGIN: Duration = Duration::from_secs(2);
/// A watch that lasts at least this long resets the number of failures.
const STABLE_AFTER: Duration = Duration::from_secs(1);
/// Maximum wait before the second attempt. The maximum doubles with each attempt, up to `retry_max`.
const RETRY_MIN: Duration = Duration::from_millis(200);

/// The state of a service.
#[derive(Clone, Default)]
pub(super) struct ServiceState {
    /// Slices by name; `None` before the first list.
    pub(super) slices: Option<Arc<BTreeMap<String, Slice>>>,
    /// Whether a watch of the service is running.
    pub(super) up: bool,
}

/// Why a service is not being watched.
#[derive(Debug)]
pub(super) enum Failure {
    /// The sidecar could not create a client.
    Client(String),
    /// The API server could not be reached, or did not answer.
    NoAnswer(String),
    /// The watch was cut off, or ended as soon as it had started.
    Interrupted(String),
    /// 410: the API server no longer has the changes since the last known version.
    Gone,
    Unauthorized,
    Forbidden {
        namespace: String,
    },
    UnexpectedAnswer(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(reason) => write!(f, "cannot access the API server: {reason}"),
            Self::NoAnswer(reason) => write!(f, "no answer from the API server: {reason}"),
            Self::Interrupted(reason) => write!(f, "the watch was interrupted: {reason}"),
            Self::Gone => f.write_str("the API server no longer has the last known version"),
            Self::Unauthorized => f.write_str("the API server rejects the token"),
            Self::Forbidden { namespace } => write!(
                f,
                "forbidden: the service account needs a Role in namespace {namespace} with get, list and watch of \
                 endpointslices in discovery.k8s.io"
            ),
            Self::UnexpectedAnswer(reason) => write!(f, "the API server answers {reason}"),
        }
    }
}

impl Failure {
    fn new(error: &kube::Error, namespace: &str) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(status, namespace),
            kube::Error::SerdeError(error) => {
                Self::UnexpectedAnswer(format!("something other than an EndpointSlice: {error}"))
            }
            kube::Error::Service(error) => Self::NoAnswer(innermost(&**error)),
            other => Self::NoAnswer(innermost(other)),
        }
    }

    fn from_status(status: &Status, namespace: &str) -> Self {
        match status.code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden { namespace: namespace.to_owned() },
            410 => Self::Gone,
            code if status.message.is_empty() => Self::UnexpectedAnswer(format!("{code} {}", status.reason)),
            code => Self::UnexpectedAnswer(format!("{code} {}", status.message)),
        }
    }

    /// Returns whether the next watch may continue where this one ended. If not, the slices must be listed again.
    fn is_of_connection(&self) -> bool {
        matches!(self, Self::Client(_) | Self::NoAnswer(_) | Self::Interrupted(_))
    }
}

/// Returns the last error of a chain, because only that error is specific.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

pub(super) struct Watch<'w> {
    pub(super) service: &'w str,
    pub(super) options: &'w KubernetesOptions,
    pub(super) state: &'w watch::Sender<ServiceState>,
    pub(super) metrics: &'w Metrics,
    slices: BTreeMap<String, Slice>,
    /// The resource version to continue from. `None` means that the slices must be listed first.
    version: Option<String>,
    /// Failed attempts since the last stable watch.
    failures: u32,
    /// Kind of the failure logged last, so that a repeated failure is logged once.
    logged: Option<std::mem::Discriminant<Failure>>,
}

impl<'w> Watch<'w> {
    pub(super) fn new(
        service: &'w str,
        options: &'w KubernetesOptions,
        state: &'w watch::Sender<ServiceState>,
        metrics: &'w Metrics,
    ) -> Self {
        let (slices, version, failures, logged) = (BTreeMap::new(), None, 0, None);
        Self { service, options, state, metrics, slices, version, failures, logged }
    }

    /// Watches the service until the watch fails.
    pub(super) async fn attempt(&mut self, api: &Api<EndpointSlice>, namespace: &str) -> Failure {
        let mut since = None;
        let failure = self.list_and_watch(api, namespace, &mut since).await;
        if since.is_some_and(|since: Instant| since.elapsed() >= STABLE_AFTER) {
            self.failures = 0;
        }
        failure
    }

    async fn list_and_watch(
        &mut self,
        api: &Api<EndpointSlice>,
        namespace: &str,
        since: &mut Option<Instant>,
    ) -> Failure {
        loop {
            let version = match self.version.clone() {
                Some(version) => version,
                None => match self.list(api, namespace).await {
                    Ok(version) => self.version.insert(version).clone(),
                    Err(failure) => return failure,
                },
            };
            let labels = self.labels();
            let seconds = u32::try_from(self.options.watch_timeout.as_secs()).unwrap_or(u32::MAX);
            let params = WatchParams::default().labels(&labels).timeout(seconds);
            let events = match timeout(ANSWER_MAX, api.watch(&params, &version)).await {
                Err(_) => return Failure::NoAnswer(format!("none within {ANSWER_MAX:?}")),
                Ok(Err(error)) => return self.failed(Failure::new(&error, namespace)),
                Ok(Ok(events)) => events,
            };
            let started = *since.insert(Instant::now());
            self.set_up();
            let mut events = pin!(events);
            // Do not trust a connection that is silent for longer than the watch lasts.
            while let Ok(Some(event)) =
                timeout(self.options.watch_timeout + WATCH_MARGIN, events.next()).await
            {
                let applied = match event {
                    Ok(event) => self.apply(event, namespace),
                    Err(kube::Error::SerdeError(error)) => {
                        Err(Failure::UnexpectedAnswer(format!("something other than an event: {error}")))
                    }
                    Err(error) => Err(Failure::Interrupted(innermost(&error))),
                };
                if let Err(failure) = applied {
                    return self.failed(failure);
                }
            }
            if started.elapsed() < STABLE_AFTER {
                return Failure::Interrupted("it ended as soon as it had started".to_owned());
            }
        }
    }

    fn failed(&mut self, failure: Failure) -> Failure {
        if !failure.is_of_connection() {
            self.version = None;
        }
        failure
    }

    fn labels(&self) -> String {
        format!("kubernetes.io/service-name={}", self.service)
    }

    /// Replaces all slices, and returns the resource version to watch from.
    async fn list(&mut self, api: &Api<EndpointSlice>, namespace: &str) -> Result<String, Failure> {
        let params = ListParams::default().labels(&self.labels()).limit(SLICES_MAX as u32);
        let answer = timeout(ANSWER_MAX, api.list(&params)).await;
        let answer = answer.map_err(|_| Failure::NoAnswer(format!("none within {ANSWER_MAX:?}")))?;
        let list = answer.map_err(|error| Failure::new(&error, namespace))?;
        let version = list.metadata.resource_version.filter(|version| !version.is_empty());
        let version = version
            .ok_or_else(|| Failure::UnexpectedAnswer("a list without a resource version".to_owned()))?;
        if list.metadata.continue_.is_some_and(|token| !token.is_empty()) {
            self.warn_too_many(namespace);
        }
        self.slices = list
            .items
            .into_iter()
            .filter_map(|mut slice| Some((slice.metadata.name.take()?, slice.into())))
            .take(SLICES_MAX)
            .collect();
        self.publish();
        Ok(version)
    }

    fn apply(&mut self, event: WatchEvent<EndpointSlice>, namespace: &str) -> Result<(), Failure> {
        let (slice, exists) = match event {
            WatchEvent::Added(slice) | WatchEvent::Modified(slice) => (slice, true),
            WatchEvent::Deleted(slice) => (slice, false),
            WatchEvent::Bookmark(bookmark) => {
                self.version = Some(bookmark.metadata.resource_version);
                return Ok(());
            }
            WatchEvent::Error(status) => return Err(Failure::from_status(&status, namespace)),
        };
        self.version.clone_from(&slice.metadata.resource_version);
        let Some(name) = slice.metadata.name.clone() else { return Ok(()) };
        if !exists {
            self.slices.remove(&name);
        } else if self.slices.len() < SLICES_MAX || self.slices.contains_key(&name) {
            self.slices.insert(name, slice.into());
        } else {
            self.warn_too_many(namespace);
        }
        self.publish();
        Ok(())
    }

    fn warn_too_many(&self, namespace: &str) {
        let service = self.service;
        warn!(service, namespace, used = SLICES_MAX, "more EndpointSlices than the sidecar reads");
    }

    fn publish(&self) {
        let slices = Arc::new(self.slices.clone());
        self.state.send_modify(|state| state.slices = Some(slices));
    }

    fn set_up(&mut self) {
        if self.logged.take().is_some() {
            info!(service = self.service, "the API server sends endpoints again");
        }
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.up, true));
    }

    /// Waits before the next attempt. The first failure after a stable watch is normal, because connections break and
    /// old versions expire. Later failures are logged and counted.
    pub(super) async fn wait_for_retry(&mut self, failure: Failure) {
        self.failures = self.failures.saturating_add(1);
        if self.failures > 1 || !self.state.borrow().up {
            self.metrics.discovery.errors_kubernetes.inc();
            self.state.send_if_modified(|state| std::mem::replace(&mut state.up, false));
            let kind = std::mem::discriminant(&failure);
            if self.logged.replace(kind) != Some(kind) {
                let service = self.service;
                warn!(%failure, service, "cannot watch the endpoints; keeping the last ones");
            }
        } else {
            debug!(%failure, service = self.service, "restarting the watch");
        }
        let longest = retry_wait_max(self.failures, self.options.retry_max);
        let fraction: f64 = rand::rng().random_range(0.5..=1.0);
        sleep(longest.mul_f64(fraction)).await;
    }
}

/// Returns the maximum wait after a number of failures.
fn retry_wait_max(failures: u32, retry_max: Duration) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    RETRY_MIN.saturating_mul(doubled).min(retry_max)
}

#[cfg(test)]
mod tests;
