//! Extracts the relevant part of EndpointSlices, and computes the endpoints of a pool from several slices.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use evenkeel_domain::settings::ServicePort;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

/// The relevant part of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    family: Family,
    ports: Vec<Port>,
    /// Addresses of endpoints that may get requests.
    ready: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    /// Host names (the deprecated type FQDN), and unknown types.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    /// `None` means any port. 0 means an invalid port.
    number: Option<u16>,
}

/// The endpoints of several slices for one port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<SocketAddr>,
    /// Number of ready endpoints that lack the port.
    pub(super) without_port: usize,
    /// Number of slices whose addresses are not IP addresses.
    pub(super) of_other_family: usize,
}

impl From<EndpointSlice> for Slice {
    fn from(slice: EndpointSlice) -> Self {
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => Family::Other,
        };
        let endpoints = slice.endpoints.unwrap_or_default();
        let ready = endpoints.iter().filter(|endpoint| may_serve(endpoint));
        // The API defines no meaning for the addresses after the first, and kube-proxy ignores them.
        let addresses = ready.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok());
        Self { family, ready: addresses.collect(), ports: tcp(slice.ports.unwrap_or_default()) }
    }
}

/// Returns whether an endpoint may get requests. An endpoint without conditions is ready. A terminating endpoint gets
/// no new requests, even if the service publishes endpoints that are not ready.
fn may_serve(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .is_none_or(|conditions| conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false))
}

fn tcp(ports: Vec<EndpointPort>) -> Vec<Port> {
    let is_tcp = |port: &EndpointPort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let kept = |port: EndpointPort| Port {
        name: port.name.unwrap_or_default(),
        number: port.port.map(|number| u16::try_from(number).unwrap_or(0)),
    };
    ports.into_iter().filter(is_tcp).map(kept).collect()
}

impl Slice {
    fn port(&self, wanted: &ServicePort) -> Option<u16> {
        let port = match wanted {
            ServicePort::Name(name) => {
                self.ports.iter().find(|port| port.name == *name).and_then(|port| port.number)
            }
            ServicePort::Number(number) => self.port_with_number(*number),
            ServicePort::Only { or } => match (self.ports.as_slice(), or) {
                ([only], or) => only.number.or(*or),
                (_, Some(number)) => self.port_with_number(*number),
                (_, None) => None,
            },
        };
        port.filter(|port| *port > 0)
    }

    /// Returns the port number if the slice allows it. A slice without ports (of a headless service without ports), or
    /// with a port without a number, allows every port.
    fn port_with_number(&self, number: u16) -> Option<u16> {
        let matches = |port: &Port| port.number.is_none_or(|known| known == number);
        (self.ports.is_empty() || self.ports.iter().any(matches)).then_some(number)
    }
}

/// Returns the endpoints of a service. A dual-stack service has slices of both families for the same pods. If the
/// service has IPv4 slices, only their endpoints are used, even if none of them is ready.
pub(super) fn endpoints<'s>(slices: impl Iterator<Item = &'s Slice> + Clone, wanted: &ServicePort) -> Found {
    let has_v4 = slices.clone().any(|slice| slice.family == Family::V4);
    let family = if has_v4 { Family::V4 } else { Family::V6 };
    let mut found = Found::default();
    let (mut addresses, mut without_port) = (BTreeSet::new(), BTreeSet::<IpAddr>::new());
    for slice in slices {
        if slice.family == Family::Other {
            found.of_other_family += 1;
        }
        if slice.family != family {
            continue;
        }
        match slice.port(wanted) {
            Some(port) => addresses.extend(slice.ready.iter().map(|ip| SocketAddr::new(*ip, port))),
            None => without_port.extend(&slice.ready),
        }
    }
    found.addresses = addresses.into_iter().collect();
    found.without_port = without_port.len();
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(value: Value) -> Slice {
        serde_json::from_value::<EndpointSlice>(value).unwrap().into()
    }

    fn of(family: &str, ports: &Value, addresses: &[&str]) -> Slice {
        let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        slice(json!({"metadata": {}, "addressType": family, "ports": ports, "endpoints": endpoints}))
    }

    fn http() -> Value {
        json!([{"name": "http", "port": 8000, "protocol": "TCP"}])
    }

    fn found(slices: &[Slice], wanted: &ServicePort) -> (Vec<String>, usize) {
        let found = endpoints(slices.iter(), wanted);
        (found.addresses.iter().map(ToString::to_string).collect(), found.without_port)
    }

    fn addresses(slices: &[Slice]) -> Vec<String> {
        found(slices, &ServicePort::Only { or: None }).0
    }

    #[test]
    fn several_slices_form_one_pool_without_duplicates() {
        let slices =
            [of("IPv4", &http(), &["10.0.0.2", "10.0.0.1"]), of("IPv4", &http(), &["10.0.0.3", "10.0.0.1"])];
        assert_eq!(addresses(&slices), ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]);
        assert!(addresses(&[]).is_empty());
        // The slice of a service without pods.
        let nothing = json!({"metadata": {}, "addressType": "IPv4", "ports": null, "endpoints": null});
        assert!(addresses(&[slice(nothing)]).is_empty());
    }

    #[test]
    fn endpoints_are_used_unless_they_are_not_ready_or_terminating() {
        let endpoint = |last: u8, conditions: Value| json!({"addresses": [format!("10.0.0.{last}")], "conditions": conditions});
        let all = slice(json!({"metadata": {}, "addressType": "IPv4", "ports": http(), "endpoints": [
            {"addresses": ["10.0.0.1", "10.0.0.101"]},
            endpoint(2, json!({})),
            endpoint(3, json!({"ready": true, "serving": true, "terminating": false})),
            endpoint(4, json!({"ready": null, "serving": false})),
            endpoint(5, json!({"ready": false})),
            endpoint(6, json!({"ready": false, "serving": true, "terminating": true})),
            // A terminating pod of a service that also publishes endpoints that are not ready.
            endpoint(7, json!({"ready": true, "serving": true, "terminating": true})),
            {"addresses": []},
            {"addresses": ["host"]},
        ]}));
        assert_eq!(addresses(&[all]), ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000", "10.0.0.4:8000"]);
    }

    #[test]
    fn a_dual_stack_service_has_its_ipv4_addresses() {
        let (v4, v6) = (of("IPv4", &http(), &["10.0.0.1"]), of("IPv6", &http(), &["fd00::1"]));
        assert_eq!(addresses(&[v6.clone(), v4]), ["10.0.0.1:8000"]);
        assert_eq!(addresses(std::slice::from_ref(&v6)), ["[fd00::1]:8000"]);
        // The service was scaled to zero, and only the IPv4 slice has been updated.
        assert!(addresses(&[of("IPv4", &http(), &[]), v6.clone()]).is_empty());
        let named = of("FQDN", &http(), &["llm.example.com"]);
        let both = endpoints([v6, named].iter(), &ServicePort::Only { or: None });
        assert_eq!((both.addresses.len(), both.of_other_family), (1, 1));
    }

    #[test]
    fn ports_are_found_by_name_by_number_or_as_the_only_one() {
        let two = json!([{"name": "http", "port": 8000}, {"name": "metrics", "port": 9000}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let (name, number) = (|name: &str| ServicePort::Name(name.to_owned()), ServicePort::Number);
        let only = |or| ServicePort::Only { or };
        let none = |count| (Vec::<String>::new(), count);
        let at = |port: u16| (vec![format!("10.0.0.1:{port}")], 0);
        let cases = [
            (two.clone(), name("metrics"), at(9000)),
            (two.clone(), name("other"), none(1)),
            (two.clone(), name("dns"), none(1)),
            (two.clone(), number(9000), at(9000)),
            (two.clone(), number(80), none(1)),
            (two.clone(), only(None), none(1)),
            (two.clone(), only(Some(8000)), at(8000)),
            (two, only(Some(80)), none(1)),
            // The port number of a service may differ from the port number of its endpoints.
            (http(), only(Some(80)), at(8000)),
            // A service with one port may omit the port's name.
            (json!([{"name": "", "port": 8000}]), only(None), at(8000)),
            (json!([{"port": 8000}]), only(None), at(8000)),
            // A slice without ports, or with a port without a number.
            (json!(null), number(8000), at(8000)),
            (json!([]), only(None), none(1)),
            (json!([{"name": "any"}]), number(8000), at(8000)),
            (json!([{"name": "any"}]), name("any"), none(1)),
            (json!([{"name": "", "port": 0}]), only(None), none(1)),
        ];
        for (ports, wanted, expected) in cases {
            assert_eq!(found(&[of("IPv4", &ports, &["10.0.0.1"])], &wanted), expected, "{ports} {wanted:?}");
        }
    }

    /// Two versions of a pod may have different numbers for a port of the same name. Kubernetes then puts their
    /// endpoints into two slices.
    #[test]
    fn each_slice_has_its_own_ports() {
        let slices = [
            of("IPv4", &http(), &["10.0.0.1"]),
            of("IPv4", &json!([{"name": "http", "port": 8001}]), &["10.0.0.2"]),
            of("IPv4", &json!([{"name": "grpc", "port": 9000}]), &["10.0.0.3"]),
        ];
        let wanted = ServicePort::Name("http".to_owned());
        assert_eq!(
            found(&slices, &wanted),
            (vec!["10.0.0.1:8000".to_owned(), "10.0.0.2:8001".to_owned()], 1)
        );
    }
}
