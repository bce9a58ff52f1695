//! What EndpointSlices say, in as little as is needed of them, and the addresses that make of several slices one pool.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use evenkeel_domain::settings::ServicePort;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

/// One slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    family: Family,
    /// Of TCP.
    ports: Vec<Port>,
    /// Addresses of endpoints that may be given requests.
    ready: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    /// Names, which are deprecated, and whatever comes after.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    /// `None`: any; 0: none that can be.
    number: Option<u16>,
}

/// What several slices say of one port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Endpoints, each once.
    pub(super) addresses: Vec<SocketAddr>,
    /// Ready endpoints without such a port.
    pub(super) without_port: usize,
    /// Slices of other things than IP addresses.
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
        // Nothing is said of addresses after the first; Kubernetes itself does not look at them.
        let addresses = ready.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok());
        Self { family, ready: addresses.collect(), ports: tcp(slice.ports.unwrap_or_default()) }
    }
}

/// Ready where nothing else is said. What is about to end gets no new requests, even where not ready endpoints are
/// published as ready.
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
            ServicePort::Number(number) => self.numbered(*number),
            ServicePort::Only { or } => match (self.ports.as_slice(), or) {
                ([only], or) => only.number.or(*or),
                (_, Some(number)) => self.numbered(*number),
                (_, None) => None,
            },
        };
        port.filter(|port| *port > 0)
    }

    /// A slice may say nothing of ports, as those of a headless service without any, or name one without a number,
    /// which is all.
    fn numbered(&self, number: u16) -> Option<u16> {
        let is_it = |port: &Port| port.number.is_none_or(|known| known == number);
        (self.ports.is_empty() || self.ports.iter().any(is_it)).then_some(number)
    }
}

/// The endpoints of a service. A service of both families has slices of both, with the same pods in each: those of
/// IPv4 are used where there are any, whatever is ready in them.
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
    fn slices_are_one_pool_and_duplicates_once() {
        let slices =
            [of("IPv4", &http(), &["10.0.0.2", "10.0.0.1"]), of("IPv4", &http(), &["10.0.0.3", "10.0.0.1"])];
        assert_eq!(addresses(&slices), ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]);
        assert!(addresses(&[]).is_empty());
        // As a service without pods has one.
        let nothing = json!({"metadata": {}, "addressType": "IPv4", "ports": null, "endpoints": null});
        assert!(addresses(&[slice(nothing)]).is_empty());
    }

    #[test]
    fn ready_is_what_is_not_said_to_be_otherwise_and_does_not_end() {
        let endpoint = |last: u8, conditions: Value| json!({"addresses": [format!("10.0.0.{last}")], "conditions": conditions});
        let all = slice(json!({"metadata": {}, "addressType": "IPv4", "ports": http(), "endpoints": [
            {"addresses": ["10.0.0.1", "10.0.0.101"]},
            endpoint(2, json!({})),
            endpoint(3, json!({"ready": true, "serving": true, "terminating": false})),
            endpoint(4, json!({"ready": null, "serving": false})),
            endpoint(5, json!({"ready": false})),
            endpoint(6, json!({"ready": false, "serving": true, "terminating": true})),
            // As published of a pod that ends, where not ready endpoints are.
            endpoint(7, json!({"ready": true, "serving": true, "terminating": true})),
            {"addresses": []},
            {"addresses": ["host"]},
        ]}));
        assert_eq!(addresses(&[all]), ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000", "10.0.0.4:8000"]);
    }

    #[test]
    fn a_service_of_both_families_is_its_ipv4_addresses() {
        let (v4, v6) = (of("IPv4", &http(), &["10.0.0.1"]), of("IPv6", &http(), &["fd00::1"]));
        assert_eq!(addresses(&[v6.clone(), v4]), ["10.0.0.1:8000"]);
        assert_eq!(addresses(std::slice::from_ref(&v6)), ["[fd00::1]:8000"]);
        // Scaled to nothing, where one family is told before the other.
        assert!(addresses(&[of("IPv4", &http(), &[]), v6.clone()]).is_empty());
        let named = of("FQDN", &http(), &["llm.example.com"]);
        let both = endpoints([v6, named].iter(), &ServicePort::Only { or: None });
        assert_eq!((both.addresses.len(), both.of_other_family), (1, 1));
    }

    #[test]
    fn ports_are_found_by_name_by_number_or_by_being_the_only_one() {
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
            // The port of a service is another than that of its endpoints.
            (http(), only(Some(80)), at(8000)),
            // Without a name, as where a service has one port.
            (json!([{"name": "", "port": 8000}]), only(None), at(8000)),
            (json!([{"port": 8000}]), only(None), at(8000)),
            // No ports, or all.
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

    /// Pods of two releases, whose port of one name has two numbers, are in two slices.
    #[test]
    fn each_slice_has_ports_of_its_own() {
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
