//! The connection to the Kubernetes API server, and the services whose endpoints form pools.

use std::{path::PathBuf, time::Duration};

/// Maximum number of services that a sidecar watches. Each service needs a connection to the API server.
pub const SERVICES_MAX: usize = 256;

/// How to reach the API server, and how long to wait for it.
#[derive(Clone, Debug, PartialEq)]
pub struct KubernetesOptions {
    pub api: KubernetesApi,
    /// Namespace of services whose rule sets none; `None` for the pod's namespace.
    pub namespace: Option<String>,
    /// Duration of one watch, and time after which the sidecar closes a silent connection.
    pub watch_timeout: Duration,
    /// Maximum wait between two attempts.
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
    /// From `KUBECONFIG`, or else the pod's service account, or else `~/.kube/config`.
    Inferred,
    /// From the current context of a kubeconfig file.
    Kubeconfig(PathBuf),
    Server {
        /// A URL with `https://` or `http://`.
        url: http::Uri,
        /// File with the bearer token. The sidecar reads the file again when it changes.
        token_file: Option<PathBuf>,
        /// File with CA certificates; `None` for the system's certificates.
        ca_file: Option<PathBuf>,
    },
}

/// The service whose endpoints form the pools of a pool rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceRule {
    /// Name of the service. `None`: the cluster's name contains it.
    pub service: Option<String>,
    /// Namespace of the service. If `service` is `None`, only clusters of services in this namespace match.
    pub namespace: Option<String>,
    /// Port of the endpoints. `None`: the only port or, if there are several, the port in the cluster's name.
    pub port: Option<ServicePort>,
}

impl ServiceRule {
    /// Returns the service of a cluster. `None` if neither the rule nor the cluster's name contains a service, or if
    /// the namespaces differ.
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
    /// The port number on which the endpoints listen.
    Number(u16),
    /// The only port or, if there are several, the port with this number.
    Only {
        /// The number in the cluster's name.
        or: Option<u16>,
    },
}

/// The service whose endpoints form a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolService {
    pub service: String,
    /// `None` for the default namespace.
    pub namespace: Option<String>,
    pub port: ServicePort,
}

/// Parses service, namespace and port from a cluster's name in the form of Istio and Higress:
/// `outbound|80||llm.models.svc.cluster.local`. Returns `None` if the third part names a subset, because EndpointSlices
/// do not show which endpoints belong to a subset.
pub fn of_cluster_name(cluster: &str) -> Option<(&str, &str, u16)> {
    let parts: Vec<&str> = cluster.split('|').collect();
    let &["outbound", port, "", host] = parts.as_slice() else { return None };
    let mut labels = host.split('.');
    let (service, namespace) = (labels.next()?, labels.next()?);
    let is_service = labels.next() == Some("svc") && is_label(service) && is_label(namespace);
    is_service.then_some((service, namespace, port.parse().ok().filter(|port| *port > 0)?))
}

/// Returns whether a text is a valid name of a namespace. The rules for names of services and ports are stricter.
pub fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
