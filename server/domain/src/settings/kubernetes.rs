//! How to reach the API server of Kubernetes, and which service a pool belongs to.

use std::{path::PathBuf, time::Duration};

/// Services one sidecar follows at most: each is a connection to the API server.
pub const SERVICES_MAX: usize = 256;

/// How to reach the API server, and how to wait for it.
#[derive(Clone, Debug, PartialEq)]
pub struct KubernetesOptions {
    /// Where it is.
    pub api: KubernetesApi,
    /// Namespace of services that name none; `None` for the pod's own.
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

/// Where the API server is.
#[derive(Clone, Debug, PartialEq)]
pub enum KubernetesApi {
    /// What `KUBECONFIG` names, or else the cluster of this pod, or else `~/.kube/config`.
    Inferred,
    /// What a kubeconfig's current context names.
    Kubeconfig(PathBuf),
    /// A URL.
    Server {
        /// `https://` or `http://`.
        url: http::Uri,
        /// Holds the bearer token; read again as it changes.
        token_file: Option<PathBuf>,
        /// Holds certificates of authorities; `None` for the system's.
        ca_file: Option<PathBuf>,
    },
}

/// Which service a rule's endpoints are of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceRule {
    /// Its name; `None` where the name of the cluster tells.
    pub service: Option<String>,
    /// Its namespace. Where the name of the cluster tells, others than this are not followed.
    pub namespace: Option<String>,
    /// Its port; `None` for the one that the cluster's name tells, or the only one.
    pub port: Option<ServicePort>,
}

impl ServiceRule {
    /// The service of a cluster; none where the rule names none and the cluster's name tells none.
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
    /// By its name.
    Name(String),
    /// By its number: the one endpoints listen on.
    Number(u16),
    /// The only one, or the one of this number where there are several.
    Only {
        /// The number the gateway's name of the cluster has.
        or: Option<u16>,
    },
}

/// The service one pool's endpoints are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolService {
    /// Its name.
    pub service: String,
    /// Its namespace; `None` for the default one.
    pub namespace: Option<String>,
    /// Which port of its endpoints.
    pub port: ServicePort,
}

/// Service, namespace and port of a cluster as Istio and Higress name them: `outbound|80||llm.models.svc.cluster.local`.
/// A subset, which the third part names, is some endpoints of a service only, which slices do not tell.
pub fn of_cluster_name(cluster: &str) -> Option<(&str, &str, u16)> {
    let parts: Vec<&str> = cluster.split('|').collect();
    let &["outbound", port, "", host] = parts.as_slice() else { return None };
    let mut labels = host.split('.');
    let (service, namespace) = (labels.next()?, labels.next()?);
    let is_service = labels.next() == Some("svc") && is_label(service) && is_label(namespace);
    is_service.then_some((service, namespace, port.parse().ok().filter(|port| *port > 0)?))
}

/// Whether a text can be the name of a namespace; services and ports have stricter rules.
pub fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
