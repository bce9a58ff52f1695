//! What the gateway knows of a request, put into the words of Admit.

use crate::{body::BodyFacts, book::PoolKey, config::Config, host::Host};
use evenkeel_proto::v1::{AdmitRequest, Candidate, Subject};
use serde_json::Value;

/// Longest name of a pool, endpoint or consumer, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Longest path or header value passed on, in bytes.
const VALUE_BYTES_MAX: usize = 2048;

/// Most candidates of one Admit.
const CANDIDATES_MAX: usize = 1024;

/// The pool of the effective stream; none when its cluster is unknown.
pub fn pool(host: &dyn Host, config: &Config) -> Option<PoolKey> {
    let name = |configured: &Option<String>, property: &str| match configured {
        Some(name) => name.clone(),
        // Envoy names them below `xds`; older versions, and Higress, at the top.
        None => text(host, &["xds", property]).or_else(|| text(host, &[property])).unwrap_or_default(),
    };
    let cluster = name(&config.pool_cluster, "cluster_name");
    // Where the endpoint's name decides the route, the route found now may be one the client asked for.
    let route = match &config.pool_route {
        None if !config.apply.by_address() => String::new(),
        route => name(route, "route_name"),
    };
    (!cluster.is_empty()).then(|| PoolKey {
        route: cut(&route, NAME_BYTES_MAX).to_owned(),
        cluster: cut(&cluster, NAME_BYTES_MAX).to_owned(),
    })
}

/// The question for one request.
pub fn admit(
    host: &dyn Host,
    config: &Config,
    holder: &str,
    pool: &PoolKey,
    lease: u64,
    body: BodyFacts,
) -> AdmitRequest {
    AdmitRequest {
        pool: Some(pool.message()),
        holder: holder.to_owned(),
        lease,
        candidates: candidates(host, config),
        subject: Some(subject(host, config)),
        model: body.model,
        prompt_bytes: body.prompt_bytes,
        max_output_tokens: body.max_output_tokens,
        prefix_hashes: Vec::new(),
        ..AdmitRequest::default()
    }
}

/// The upstream address of the effective stream; none before one was chosen.
pub fn upstream_address(host: &dyn Host) -> Option<String> {
    text(host, &["upstream", "address"]).map(|address| cut(&address, NAME_BYTES_MAX).to_owned())
}

/// Whether the response came from upstream, and is not the gateway's own. Gateways that do not tell are
/// taken to pass on what came.
pub fn is_via_upstream(host: &dyn Host) -> bool {
    text(host, &["response", "code_details"]).is_none_or(|details| details == "via_upstream")
}

/// A whole-number property; gateways give them as 64 bits, least significant byte first.
pub fn number(host: &dyn Host, path: &[&str]) -> u64 {
    let bytes = host.property(path).unwrap_or_default();
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// The longest prefix of at most `bytes_max` bytes that is whole characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn text(host: &dyn Host, path: &[&str]) -> Option<String> {
    let bytes = host.property(path)?;
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

fn subject(host: &dyn Host, config: &Config) -> Subject {
    let header = |name: &str| host.request_header(name);
    let short = |value: String, max: usize| cut(&value, max).to_owned();
    Subject {
        consumer: header(&config.consumer_header).map(|v| short(v, NAME_BYTES_MAX)).unwrap_or_default(),
        source_ip: text(host, &["source", "address"])
            .map(|a| without_port(&a).to_owned())
            .unwrap_or_default(),
        path: header(":path").map(|v| short(v, VALUE_BYTES_MAX)).unwrap_or_default(),
        headers: config
            .pass_headers
            .iter()
            .filter_map(|name| Some((name.clone(), short(header(name)?, VALUE_BYTES_MAX))))
            .collect(),
        ..Subject::default()
    }
}

/// The configured candidates; those the gateway offers, where it can list them.
fn candidates(host: &dyn Host, config: &Config) -> Vec<Candidate> {
    let configured = |address: &str| config.candidates.iter().find(|c| c.address == address);
    let offered: Vec<Candidate> = host
        .upstream_hosts()
        .into_iter()
        .filter(|(address, about)| !address.is_empty() && address.len() <= NAME_BYTES_MAX && healthy(about))
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

/// Whether Higress's description of a host calls it healthy.
fn healthy(about: &str) -> bool {
    serde_json::from_str::<Value>(about)
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
    fn ports_are_taken_off() {
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
    fn only_healthy_hosts_are_candidates() {
        let cases = [
            (r#"{"health_status":"Healthy"}"#, true),
            (r#"{"health_status":"Healthy","metrics":""}"#, true),
            (r#"{"health_status":"Degraded"}"#, false),
            (r#"{"health_status":"Unhealthy"}"#, false),
            ("{}", false),
            ("Healthy", false),
        ];
        for (about, expected) in cases {
            assert_eq!(healthy(about), expected, "{about}");
        }
    }

    #[test]
    fn texts_are_cut_at_whole_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("a", 9), "a");
    }
}
