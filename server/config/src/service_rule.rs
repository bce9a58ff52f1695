//! The field `kubernetes` of a pool: the Kubernetes service whose endpoints form the pool.

use evenkeel_domain::settings::{ServicePort, ServiceRule, is_label, of_cluster_name};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    check::Check,
    formats::{Label, ServicePortText},
};

/// A Kubernetes service, whose ready endpoints form the pool. The configuration may name at most 256 services.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServiceRule {
    /// Name of the service. Optional in two cases: if `cluster` has the form
    /// `outbound|80||llm.models.svc.cluster.local`, which contains the service, namespace and port, or if `cluster` is
    /// `"*"`. With `"*"`, a cluster whose name lacks that form takes its endpoints from each request.
    #[schemars(with = "Label", extend("x-default" = "from the cluster's name"))]
    service: Option<String>,
    /// Namespace of the service. If `service` is absent, only clusters of services in this namespace get their
    /// endpoints from Kubernetes.
    #[schemars(with = "Label", extend("x-default" = "`kubernetes.namespace`, or from the cluster's name"))]
    namespace: Option<String>,
    /// Port of the endpoints: its number, or its name in the service.
    #[schemars(with = "ServicePortText", extend("x-default" = "the only port, or the port in the cluster's name if there are several"))]
    port: Option<String>,
}

/// Validates the field. `cluster` is the cluster that the pool's rule names, if any.
pub(super) fn validate(
    check: &mut Check,
    path: &str,
    cluster: Option<&str>,
    raw: RawServiceRule,
) -> ServiceRule {
    let rule = ServiceRule {
        service: label(check, &format!("{path}.service"), raw.service),
        namespace: label(check, &format!("{path}.namespace"), raw.namespace),
        port: raw.port.map(|port| service_port(check, &format!("{path}.port"), port)),
    };
    if let (Some(cluster), None) = (cluster, &rule.service) {
        match of_cluster_name(cluster) {
            None => check.required(
                &format!("{path}.service"),
                "given if cluster is not as outbound|80||SERVICE.NAMESPACE.svc.cluster.local",
            ),
            Some((_, namespace, _)) => {
                if let Some(given) = rule.namespace.as_ref().filter(|given| *given != namespace) {
                    let expected = format!("absent, or {namespace}, which cluster names");
                    check.fault(&format!("{path}.namespace"), &expected, format!("{given:?}"));
                }
            }
        }
    }
    rule
}

pub(super) fn label(check: &mut Check, path: &str, value: Option<String>) -> Option<String> {
    if let Some(value) = value.as_deref().filter(|value| !is_label(value)) {
        check.fault(path, "1..63 of a-z 0-9 -, not - at an end", format!("{value:?}"));
    }
    value
}

fn service_port(check: &mut Check, path: &str, value: String) -> ServicePort {
    let number = value.bytes().all(|c| c.is_ascii_digit()).then(|| value.parse::<u16>().unwrap_or(0));
    if number == Some(0) || (number.is_none() && !is_label(&value)) {
        check.fault(path, "1..65535, or the name of a port", format!("{value:?}"));
    }
    number.map_or(ServicePort::Name(value), ServicePort::Number)
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::settings::PoolService;

    use super::*;

    fn service(service: &str, namespace: Option<&str>, port: ServicePort) -> Option<PoolService> {
        Some(PoolService { service: service.to_owned(), namespace: namespace.map(str::to_owned), port })
    }

    #[test]
    fn a_clusters_name_determines_its_service() {
        let any = ServiceRule::default();
        let port = ServicePort::Only { or: Some(80) };
        let cluster = "outbound|80||llm.models.svc.cluster.local";
        assert_eq!(any.of(cluster), service("llm", Some("models"), port.clone()));
        assert_eq!(any.of("outbound|80||llm.models.svc"), service("llm", Some("models"), port));
        for other in [
            "llm",
            "outbound|80|v1|llm.models.svc.cluster.local",
            "outbound|0||llm.models.svc.cluster.local",
            "outbound|x||llm.models.svc.cluster.local",
            "inbound|80||llm.models.svc.cluster.local",
            "outbound|80||api.example.com",
            "outbound|80||Llm.models.svc.cluster.local",
            "outbound|80||llm.models.svc.cluster.local|",
        ] {
            assert_eq!(any.of(other), None, "{other}");
        }
        let kept =
            |namespace: &str| ServiceRule { namespace: Some(namespace.to_owned()), ..ServiceRule::default() };
        assert!(kept("models").of(cluster).is_some() && kept("other").of(cluster).is_none());
    }
}
