//! How to reach the Kubernetes API server, and which service has a pool's endpoints.

use std::{path::PathBuf, time::Duration};

/// Most services that a sidecar watches. Each is a connection to the API server.
pub const SERVICES_MAX: usize = 256;

/// How to reach the API server, and how long to wait for it.
#[derive(Clone, Debug, PartialEq)]
pub struct KubernetesOptions {
    pub api: KubernetesApi,
    /// Namespace of services that name none; `None` for the pod's.
    pub namespace: Option<String>,
    /// How long one watch lasts, and how long a silent connection is trusted.
    pub watch_timeout: Duration,
    /// Longest wait between two attempts.
    pub retry_max: Duration,
}

impl Default for KubernetesOptions {
    fn default() -> Self {
        Self {
            api: KubernetesApi::Inferred,
            namespace: None,
            watch_timeout: Duration::from_secs(120),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// How to find the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum KubernetesApi {
    /// By `KUBECONFIG`, or else the pod's service account, or else `~/.kube/config`.
    Inferred,
    /// By a kubeconfig's current context.
    Kubeconfig(PathBuf),
    Server {
        /// `https://` or `http://`.
        url: http::Uri,
        /// Holds the bearer token; read again when it changes.
        token_file: Option<PathBuf>,
        /// Holds CA certificates; `None` for the system's.
        ca_file: Option<PathBuf>,
    },
}

/// The service that has the endpoints of a rule's pools.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceRule {
    /// Its name; `None` to take it from the cluster's name.
    pub service: Option<String>,
    /// Its namespace. If `service` is `None`, only clusters of this namespace match.
    pub namespace: Option<String>,
    /// Its port; `None` for the one in the cluster's name, or the only one.
    pub port: Option<ServicePort>,
}

impl ServiceRule {
    /// Returns the service of a cluster, or `None` if neither the rule nor the cluster's name contains one.
    #[must_use]
    pub fn of(&self, cluster: &str) -> Option<PoolService> {
        if let Some(service) = &self.service {
            let port = self.port.clone().unwrap_or(ServicePort::Only { or: None });
            return Some(PoolService { service: service.clone(), namespace: self.namespace.clone(), port });
        }
        let (service, namespace, number) = of_cluster_name(cluster)?;
        if self.namespace.as_ref().is_some_and(|wanted| wanted != namespace) {
            return None;
        }
        let port = self.port.clone().unwrap_or(ServicePort::Only { or: Some(number) });
        Some(PoolService { service: service.to_owned(), namespace: Some(namespace.to_owned()), port })
    }
}

/// A port of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServicePort {
    Name(String),
    /// By the number that endpoints listen on.
    Number(u16),
    /// The only one, or the one of this number if there are several.
    Only {
        /// The number in the cluster's name.
        or: Option<u16>,
    },
}

/// The service that has a pool's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolService {
    pub service: String,
    /// `None` for the default namespace.
    pub namespace: Option<String>,
    pub port: ServicePort,
}

/// Parses service, namespace and port from a cluster's name in the form of Istio and Higress:
/// `outbound|80||llm.models.svc.cluster.local`. Returns `None` for a subset, which the third part names, because slices do
/// not say which endpoints belong to it.
pub fn of_cluster_name(cluster: &str) -> Option<(&str, &str, u16)> {
    let parts: Vec<&str> = cluster.split('|').collect();
    let &["outbound", port, "", host] = parts.as_slice() else { return None };
    let mut labels = host.split('.');
    let (service, namespace) = (labels.next()?, labels.next()?);
    let is_service = labels.next() == Some("svc") && is_label(service) && is_label(namespace);
    is_service.then_some((service, namespace, port.parse().ok().filter(|port| *port > 0)?))
}

/// Whether a text is a valid name of a namespace. Services and ports have stricter rules.
pub fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
