//! One service's EndpointSlices, listed and then watched, for as long as a pool wants them.
//!
//! A watch that ends, or is cut, is begun again where it ended. Where the API server answers with an error, such as
//! 410 as that place is no longer known, the slices are listed anew, and take the place of those known in one step.
//! Nothing that fails takes an endpoint away.

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

/// Slices of one service at most; Kubernetes puts 100 endpoints into each, and a pool has room for 1024.
const SLICES_MAX: usize = 256;
/// Longest wait for a list, or for a watch to begin.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How much longer than it was asked to last a watch is listened to.
const WATCH_MARGIN: Duration = Duration::from_secs(2);
/// A watch that lasts this long is in order.
const LASTING: Duration = Duration::from_secs(1);
/// Longest wait before the second attempt; it doubles from one to the next, up to `retry_max`.
const RETRY_MIN: Duration = Duration::from_millis(200);

/// What is known of one service.
#[derive(Clone, Default)]
pub(super) struct Known {
    /// By name; `None` before the first list.
    pub(super) slices: Option<Arc<BTreeMap<String, Slice>>>,
    /// Whether the API server tells of changes.
    pub(super) up: bool,
}

/// Why the service is not watched at present.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing to ask with.
    Client(String),
    /// No connection, or no answer.
    NoAnswer(String),
    /// The watch was cut, or ended as soon as it had begun.
    Cut(String),
    /// 410: changes since the last one known are not known there any more.
    Gone,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden {
        /// Where it is not allowed.
        namespace: String,
    },
    /// Any other answer.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(why) => write!(f, "no access to the API server: {why}"),
            Self::NoAnswer(why) => write!(f, "no answer from the API server: {why}"),
            Self::Cut(why) => write!(f, "the watch was cut: {why}"),
            Self::Gone => f.write_str("the API server no longer knows the last change seen"),
            Self::Unauthorized => f.write_str("the API server does not accept the token"),
            Self::Forbidden { namespace } => write!(
                f,
                "forbidden: the service account needs a Role in namespace {namespace} with get, list and watch of \
                 endpointslices in discovery.k8s.io"
            ),
            Self::Refused(why) => write!(f, "the API server answers {why}"),
        }
    }
}

impl Failure {
    fn new(error: &kube::Error, namespace: &str) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(status, namespace),
            kube::Error::SerdeError(error) => Self::Refused(format!("what is no EndpointSlice: {error}")),
            kube::Error::Service(error) => Self::NoAnswer(innermost(&**error)),
            other => Self::NoAnswer(innermost(other)),
        }
    }

    fn answered(status: &Status, namespace: &str) -> Self {
        match status.code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden { namespace: namespace.to_owned() },
            410 => Self::Gone,
            code if status.message.is_empty() => Self::Refused(format!("{code} {}", status.reason)),
            code => Self::Refused(format!("{code} {}", status.message)),
        }
    }

    /// Whether a watch may go on where it ended; else all is listed anew.
    fn is_of_connection(&self) -> bool {
        matches!(self, Self::Client(_) | Self::NoAnswer(_) | Self::Cut(_))
    }
}

/// The cause at the end of the chain: what is before it says the same in general.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Follows one service.
pub(super) struct Watch<'w> {
    pub(super) service: &'w str,
    pub(super) options: &'w KubernetesOptions,
    pub(super) known: &'w watch::Sender<Known>,
    pub(super) metrics: &'w Metrics,
    slices: BTreeMap<String, Slice>,
    /// Where to go on; `None` to list first.
    version: Option<String>,
    /// Attempts since a watch was in order.
    failures: u32,
    /// What was told of in the log, so that it is told once.
    told: Option<std::mem::Discriminant<Failure>>,
}

impl<'w> Watch<'w> {
    pub(super) fn new(
        service: &'w str,
        options: &'w KubernetesOptions,
        known: &'w watch::Sender<Known>,
        metrics: &'w Metrics,
    ) -> Self {
        let (slices, version, failures, told) = (BTreeMap::new(), None, 0, None);
        Self { service, options, known, metrics, slices, version, failures, told }
    }

    /// Follows it until that fails.
    pub(super) async fn attempt(&mut self, api: &Api<EndpointSlice>, namespace: &str) -> Failure {
        let mut since = None;
        let failure = self.list_and_watch(api, namespace, &mut since).await;
        if since.is_some_and(|since: Instant| since.elapsed() >= LASTING) {
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
            let began = *since.insert(Instant::now());
            self.is_up();
            let mut events = pin!(events);
            // A connection that says nothing for longer than the watch lasts is not trusted any more.
            while let Ok(Some(event)) =
                timeout(self.options.watch_timeout + WATCH_MARGIN, events.next()).await
            {
                let taken = match event {
                    Ok(event) => self.take(event, namespace),
                    Err(kube::Error::SerdeError(error)) => {
                        Err(Failure::Refused(format!("what is no event: {error}")))
                    }
                    Err(error) => Err(Failure::Cut(innermost(&error))),
                };
                if let Err(failure) = taken {
                    return self.failed(failure);
                }
            }
            if began.elapsed() < LASTING {
                return Failure::Cut("it ended as soon as it had begun".to_owned());
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

    /// Takes all slices as they are; the place from which on to watch.
    async fn list(&mut self, api: &Api<EndpointSlice>, namespace: &str) -> Result<String, Failure> {
        let params = ListParams::default().labels(&self.labels()).limit(SLICES_MAX as u32);
        let answer = timeout(ANSWER_MAX, api.list(&params)).await;
        let answer = answer.map_err(|_| Failure::NoAnswer(format!("none within {ANSWER_MAX:?}")))?;
        let list = answer.map_err(|error| Failure::new(&error, namespace))?;
        let version = list.metadata.resource_version.filter(|version| !version.is_empty());
        let version = version.ok_or_else(|| Failure::Refused("a list without a version".to_owned()))?;
        if list.metadata.continue_.is_some_and(|token| !token.is_empty()) {
            self.warn_of_too_many(namespace);
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

    fn take(&mut self, event: WatchEvent<EndpointSlice>, namespace: &str) -> Result<(), Failure> {
        let (slice, is_there) = match event {
            WatchEvent::Added(slice) | WatchEvent::Modified(slice) => (slice, true),
            WatchEvent::Deleted(slice) => (slice, false),
            WatchEvent::Bookmark(bookmark) => {
                self.version = Some(bookmark.metadata.resource_version);
                return Ok(());
            }
            WatchEvent::Error(status) => return Err(Failure::answered(&status, namespace)),
        };
        self.version.clone_from(&slice.metadata.resource_version);
        let Some(name) = slice.metadata.name.clone() else { return Ok(()) };
        if !is_there {
            self.slices.remove(&name);
        } else if self.slices.len() < SLICES_MAX || self.slices.contains_key(&name) {
            self.slices.insert(name, slice.into());
        } else {
            self.warn_of_too_many(namespace);
        }
        self.publish();
        Ok(())
    }

    fn warn_of_too_many(&self, namespace: &str) {
        let service = self.service;
        warn!(service, namespace, used = SLICES_MAX, "more EndpointSlices than are looked at");
    }

    fn publish(&self) {
        let slices = Arc::new(self.slices.clone());
        self.known.send_modify(|known| known.slices = Some(slices));
    }

    fn is_up(&mut self) {
        if self.told.take().is_some() {
            info!(service = self.service, "the API server tells endpoints again");
        }
        self.known.send_if_modified(|known| !std::mem::replace(&mut known.up, true));
    }

    /// Waits for the next attempt. The first after a watch that was in order is an ordinary matter: connections are
    /// cut, and what is old is forgotten. The log and the metrics tell where that did not help.
    pub(super) async fn rest(&mut self, failure: Failure) {
        self.failures = self.failures.saturating_add(1);
        if self.failures > 1 || !self.known.borrow().up {
            self.metrics.discovery.errors_kubernetes.inc();
            self.known.send_if_modified(|known| std::mem::replace(&mut known.up, false));
            let kind = std::mem::discriminant(&failure);
            if self.told.replace(kind) != Some(kind) {
                let service = self.service;
                warn!(%failure, service, "endpoints are not told: keeping those known");
            }
        } else {
            debug!(%failure, service = self.service, "watching again");
        }
        let longest = retry_after_max(self.failures, self.options.retry_max);
        let part: f64 = rand::rng().random_range(0.5..=1.0);
        sleep(longest.mul_f64(part)).await;
    }
}

/// The longest wait after so many failures.
fn retry_after_max(failures: u32, retry_max: Duration) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    RETRY_MIN.saturating_mul(doubled).min(retry_max)
}

#[cfg(test)]
mod tests;
