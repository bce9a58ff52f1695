//! Reads the attributes of a request from the gateway and builds the Admit message from them.

use std::cell::Cell;

use evenkeel_proto::v1::{AdmitRequest, Candidate, RequestBody, Subject};
use serde_json::Value;

use crate::{
    config::{Config, Source},
    host::Host,
    lease_table::PoolKey,
    path,
    request_body::PrefixSettings,
    text::{sanitize, shorten},
};

/// Longest name of a pool or endpoint, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Longest consumer, model, session, header value or descriptor that the plugin sends, in bytes. It replaces the end of a
/// longer one by a digest. A client must not be able to keep the worker and the sidecar busy with long headers.
pub(crate) const VALUE_BYTES_MAX: usize = 4 << 10;

/// Most bytes of headers and descriptors that the plugin sends together. Beyond it, it shortens each further value to
/// [`VALUE_BYTES_MIN`]: a value that it left out would escape the limits of that header.
const VALUES_BYTES_MAX: usize = 16 << 10;

/// What remains of a value beyond [`VALUES_BYTES_MAX`].
const VALUE_BYTES_MIN: usize = 64;

/// Longest path, with its query, and longest `cookie` header that the sidecar wants. The plugin refuses a request with a
/// longer one: a limit may use any part of them, so none can be left out.
pub(crate) const WHOLE_BYTES_MAX: usize = 16 << 10;

/// Length at which a path or cookie is cut, so that it still counts as too long: more than a character beyond the maximum.
const CUT_BYTES: usize = WHOLE_BYTES_MAX + 4;

const REQUEST_ID_BYTES_MAX: usize = 128;
const TRACEPARENT_BYTES_MAX: usize = 64;
const TRACESTATE_BYTES_MAX: usize = 512;

/// Header whose parts limits use.
const COOKIE: &str = "cookie";

/// Header with the request id that gateways write to their access logs.
const REQUEST_ID: &str = "x-request-id";

/// Maximum number of candidates in one Admit.
const CANDIDATES_MAX: usize = 1024;

/// Returns the pool of the effective stream; `None` if the stream's cluster is unknown.
pub fn pool(host: &dyn Host, config: &Config) -> Option<PoolKey> {
    let name = |configured: &Option<String>, property: &str| match configured {
        Some(name) => name.clone(),
        // Envoy has these properties inside `xds`; older versions and Higress have them at the top level.
        None => text_property(host, &["xds", property])
            .or_else(|| text_property(host, &[property]))
            .unwrap_or_default(),
    };
    let cluster = name(&config.pool_cluster, "cluster_name");
    // In mode `name`, the header with the endpoint selects the route. The route that is matched now may therefore be
    // the client's choice.
    let route = match &config.pool_route {
        None if !config.apply.by_address() => String::new(),
        route => name(route, "route_name"),
    };
    let key = PoolKey { route: shorten(&route, NAME_BYTES_MAX), cluster: shorten(&cluster, NAME_BYTES_MAX) };
    (!cluster.is_empty()).then_some(key)
}

/// Returns the name of the gateway: the id of Envoy's node. It is the same in all workers.
pub fn gateway(host: &dyn Host) -> String {
    let id = text_property(host, &["xds", "node", "id"]).or_else(|| text_property(host, &["node", "id"]));
    shorten(&id.unwrap_or_default(), NAME_BYTES_MAX)
}

/// What the sidecar uses of a request. Reading a property costs about two microseconds, so the plugin reads the address only
/// if it is wanted.
#[derive(Debug)]
pub struct Wanted {
    /// Names of the headers that the sidecar requested and the configuration does not list, in lower case.
    pub headers: Vec<String>,
    pub source_ip: bool,
    /// How to hash prompts; `None` if no pool of the sidecar uses the hashes.
    pub prefixes: Option<PrefixSettings>,
}

impl Default for Wanted {
    /// Before its first answer, the sidecar may want the address.
    fn default() -> Self {
        Self { headers: Vec::new(), source_ip: true, prefixes: None }
    }
}

/// Builds the Admit message of the effective stream, without pool, holder and lease.
pub fn admit_request(host: &dyn Host, config: &Config, wanted: &Wanted, body: &RequestBody) -> AdmitRequest {
    AdmitRequest {
        candidates: candidates(host, config),
        subject: Some(subject(host, config, wanted)),
        model: body.model.clone(),
        prompt_bytes: body.prompt_bytes,
        max_output_tokens: body.max_output_tokens,
        choices: body.choices,
        generation: body.generation,
        session: session(host, config),
        request_id: sanitize(&host.request_header(REQUEST_ID).unwrap_or_default(), REQUEST_ID_BYTES_MAX),
        traceparent: header_within(host, "traceparent", TRACEPARENT_BYTES_MAX),
        tracestate: header_within(host, "tracestate", TRACESTATE_BYTES_MAX),
        ..AdmitRequest::default()
    }
}

/// Returns whether the path or the cookies of a request are too long to send.
pub fn is_too_long(request: &AdmitRequest) -> bool {
    request.subject.as_ref().is_some_and(|subject| {
        let cookie = subject.headers.get(COOKIE);
        subject.path.len().max(cookie.map_or(0, String::len)) > WHOLE_BYTES_MAX
    })
}

/// Returns the value of a header, or an empty string if the value is longer than `bytes_max`. A truncated trace context
/// would identify another trace.
fn header_within(host: &dyn Host, name: &str, bytes_max: usize) -> String {
    host.request_header(name).filter(|value| value.len() <= bytes_max).unwrap_or_default()
}

/// Returns whether the consumer header has several different values. The client may have sent any of these values.
/// Ignores empty values.
pub fn consumer_is_ambiguous(host: &dyn Host, config: &Config) -> bool {
    consumer_header(host, config).is_some_and(|(_, ambiguous)| ambiguous)
}

/// Returns the first value of the consumer header and whether another value differs from it.
fn consumer_header(host: &dyn Host, config: &Config) -> Option<(String, bool)> {
    let Source::Header(name) = &config.consumer else { return None };
    // Reading all values copies all headers, so first check that the header exists.
    host.request_header(name)?;
    let mut values = host.request_header_values(name).into_iter().filter(|value| !value.is_empty());
    let first = values.next()?;
    let ambiguous = values.any(|value| value != first);
    Some((first, ambiguous))
}

/// Returns the request path of the effective stream, without its query.
pub fn request_path(host: &dyn Host) -> String {
    let mut path = host.request_header(":path").unwrap_or_default();
    path.truncate(path::without_query(&path).len());
    path
}

/// Returns the upstream address of the effective stream; `None` before the gateway has chosen one.
pub fn upstream_address(host: &dyn Host) -> Option<String> {
    text_property(host, &["upstream", "address"]).map(|address| sanitize(&address, NAME_BYTES_MAX))
}

/// Returns whether the response came from upstream rather than from the gateway itself; `None` for gateways that do not
/// set `response.code_details`. A gateway does not itself answer with success once it has chosen an upstream host.
pub fn is_via_upstream(host: &dyn Host, status: Option<u32>, has_upstream: bool) -> Option<bool> {
    if has_upstream && status.is_some_and(|status| status < 400) {
        return Some(true);
    }
    text_property(host, &["response", "code_details"]).map(|details| details == "via_upstream")
}

/// Returns an integer property, or 0 if it is absent. Gateways encode integers as 64 bits, little-endian.
pub fn number_property(host: &dyn Host, path: &[&str]) -> u64 {
    let bytes = host.property(path).unwrap_or_default();
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn text_property(host: &dyn Host, path: &[&str]) -> Option<String> {
    let bytes = host.property(path)?;
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the value of the first session header that is present and not empty.
fn session(host: &dyn Host, config: &Config) -> String {
    let sessions = config.session_headers.iter().filter_map(|name| host.request_header(name));
    let session = sessions.into_iter().find(|session| !session.is_empty()).unwrap_or_default();
    shorten(&session, VALUE_BYTES_MAX)
}

fn source_value(host: &dyn Host, source: &Source) -> Option<String> {
    let property = |path: &[&str]| {
        // Numbers arrive as eight bytes. Only text without control characters is accepted.
        let text = String::from_utf8(host.property(path)?).ok()?;
        (!text.chars().any(char::is_control)).then_some(text)
    };
    match source {
        Source::Header(name) => host.request_header(name),
        Source::Metadata(path) => {
            let path = path.iter().map(String::as_str);
            property(&["metadata", "filter_metadata"].into_iter().chain(path).collect::<Vec<_>>())
        }
        Source::Property(path) => property(&path.iter().map(String::as_str).collect::<Vec<_>>()),
        Source::Value(text) => Some(text.clone()),
    }
}

fn subject(host: &dyn Host, config: &Config, wanted: &Wanted) -> Subject {
    let header = |name: &str| host.request_header(name);
    let rest = Cell::new(VALUES_BYTES_MAX);
    let within_rest = |value: &str| {
        let value = shorten(value, rest.get().clamp(VALUE_BYTES_MIN, VALUE_BYTES_MAX));
        rest.set(rest.get().saturating_sub(value.len()));
        value
    };
    Subject {
        consumer: match &config.consumer {
            Source::Header(_) => consumer_header(host, config).map(|(consumer, _)| consumer),
            verified => source_value(host, verified),
        }
        .map(|consumer| shorten(&consumer, VALUE_BYTES_MAX))
        .unwrap_or_default(),
        source_ip: wanted
            .source_ip
            .then(|| text_property(host, &["source", "address"]))
            .flatten()
            .map(|address| without_port(&address).to_owned())
            .unwrap_or_default(),
        path: header(":path").map(|path| sanitize(&path, CUT_BYTES)).unwrap_or_default(),
        headers: config
            .pass_headers
            .iter()
            .chain(&wanted.headers)
            .filter_map(|name| {
                let value = header(name)?;
                let value = if name == COOKIE { sanitize(&value, CUT_BYTES) } else { within_rest(&value) };
                Some((name.clone(), value))
            })
            .collect(),
        descriptors: config
            .descriptors
            .iter()
            .filter_map(|(name, source)| Some((name.clone(), within_rest(&source_value(host, source)?))))
            .collect(),
    }
}

/// Returns the healthy hosts that the gateway lists, with the weight and cap configured for their address. If there are
/// none, returns the configured candidates.
fn candidates(host: &dyn Host, config: &Config) -> Vec<Candidate> {
    let configured = |address: &str| config.candidates.iter().find(|c| c.address == address);
    let offered: Vec<Candidate> = host
        .upstream_hosts()
        .into_iter()
        .filter(|(address, description)| {
            let is_valid =
                (1..=NAME_BYTES_MAX).contains(&address.len()) && !address.contains(char::is_control);
            is_valid && is_healthy(description)
        })
        .take(CANDIDATES_MAX)
        .map(|(address, _)| {
            let (weight, cap) = configured(&address).map_or((0.0, 0), |c| (c.weight, c.cap));
            Candidate { address, weight, cap }
        })
        .collect();
    if !offered.is_empty() {
        return offered;
    }
    let candidate =
        |c: &crate::config::Candidate| Candidate { address: c.address.clone(), weight: c.weight, cap: c.cap };
    config.candidates.iter().map(candidate).collect()
}

/// Returns whether Higress's JSON description of a host reports it as healthy.
fn is_healthy(description: &str) -> bool {
    serde_json::from_str::<Value>(description)
        .is_ok_and(|value| value.get("health_status").and_then(Value::as_str) == Some("Healthy"))
}

fn without_port(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((ip, _)) if ip.starts_with('[') => ip.trim_matches(['[', ']']),
        Some((ip, _)) if !ip.contains(':') => ip,
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_removed_from_an_address() {
        let cases = [
            ("10.0.0.1:80", "10.0.0.1"),
            ("[::1]:80", "::1"),
            ("::1", "::1"),
            ("10.0.0.1", "10.0.0.1"),
            ("", ""),
        ];
        for (address, ip) in cases {
            assert_eq!(without_port(address), ip);
        }
    }

    #[test]
    fn health_is_read_from_the_description() {
        let cases = [
            (r#"{"health_status":"Healthy"}"#, true),
            (r#"{"health_status":"Healthy","metrics":""}"#, true),
            (r#"{"health_status":"Degraded"}"#, false),
            (r#"{"health_status":"Unhealthy"}"#, false),
            ("{}", false),
            ("Healthy", false),
        ];
        for (description, expected) in cases {
            assert_eq!(is_healthy(description), expected, "{description}");
        }
    }
}
