//! What the gateway knows of a request, put into the words of Admit.

use crate::{
    body::BodyFacts,
    book::PoolKey,
    config::{Config, Source},
    host::Host,
};
use evenkeel_proto::v1::{AdmitRequest, Candidate, Subject};
use serde_json::Value;

/// Longest name of a pool, endpoint or consumer, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Longest path or header value passed on, in bytes.
pub(crate) const VALUE_BYTES_MAX: usize = 2048;

/// Stands for a control character.
const REPLACEMENT: &str = "\u{fffd}";

/// Longest session passed on, in bytes.
const SESSION_BYTES_MAX: usize = 128;
/// Bytes of a request's id passed on.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Where gateways keep the id of a request, which their access logs have too.
const REQUEST_ID: &str = "x-request-id";

/// Longest `traceparent` and `tracestate` passed on, in bytes.
const TRACEPARENT_BYTES_MAX: usize = 64;
const TRACESTATE_BYTES_MAX: usize = 512;

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
    (!cluster.is_empty())
        .then(|| PoolKey { route: clean(&route, NAME_BYTES_MAX), cluster: clean(&cluster, NAME_BYTES_MAX) })
}

/// Who asks, and what for: the question for one request, but for its pool, holder and lease. `wanted` are headers
/// the sidecar asked to see.
pub fn admit(host: &dyn Host, config: &Config, wanted: &[String], body: &BodyFacts) -> AdmitRequest {
    let subject = subject(host, config, wanted);
    // Where the path names one, servers take it, whatever the body says.
    let model = model_of_path(&path(host)).unwrap_or_else(|| body.model.clone());
    let model = clean(&model, NAME_BYTES_MAX);
    AdmitRequest {
        candidates: candidates(host, config),
        subject: Some(subject),
        model,
        prompt_bytes: body.prompt_bytes,
        max_output_tokens: body.max_output_tokens,
        session: session(host, config),
        request_id: clean(&host.request_header(REQUEST_ID).unwrap_or_default(), REQUEST_ID_BYTES_MAX),
        traceparent: whole(host, "traceparent", TRACEPARENT_BYTES_MAX),
        tracestate: whole(host, "tracestate", TRACESTATE_BYTES_MAX),
        ..AdmitRequest::default()
    }
}

/// A header whose beginning says nothing: what is too long is left out.
fn whole(host: &dyn Host, name: &str, bytes_max: usize) -> String {
    host.request_header(name).filter(|value| value.len() <= bytes_max).unwrap_or_default()
}

/// Whether the consumer's header has several values: one of them the client may have sent itself, and which one is not
/// known. Empty ones do not count.
pub fn consumer_is_ambiguous(host: &dyn Host, config: &Config) -> bool {
    consumers(host, config).is_some_and(|(_, ambiguous)| ambiguous)
}

/// The consumer in a header, and whether there is another.
fn consumers(host: &dyn Host, config: &Config) -> Option<(String, bool)> {
    let Source::Header(name) = &config.consumer else { return None };
    // Seldom there: all headers are only taken from the gateway where it is.
    host.request_header(name)?;
    let mut values = host.request_header_values(name).into_iter().filter(|value| !value.is_empty());
    let first = values.next()?;
    let ambiguous = values.any(|value| value != first);
    Some((first, ambiguous))
}

/// The path of the effective stream's request, without its query.
pub fn path(host: &dyn Host) -> String {
    let mut path = host.request_header(":path").unwrap_or_default();
    path.truncate(path.find(['?', '#']).unwrap_or(path.len()));
    path
}

/// The upstream address of the effective stream; none before one was chosen.
pub fn upstream_address(host: &dyn Host) -> Option<String> {
    text(host, &["upstream", "address"]).map(|address| clean(&address, NAME_BYTES_MAX))
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

/// A text the sidecar takes, whatever a client wrote: control characters are replaced, and it is cut to `bytes_max`. To
/// be used *after* invalid UTF-8 was replaced, as each wrong byte becomes three.
pub(crate) fn clean(text: &str, bytes_max: usize) -> String {
    let mut clean = cut(text, bytes_max).to_owned();
    if clean.contains(char::is_control) {
        clean = clean.replace(char::is_control, REPLACEMENT);
        clean.truncate(cut(&clean, bytes_max).len());
    }
    clean
}

/// The same of the beginning of a text, which may end within a character.
pub(crate) fn decode(bytes: &[u8], bytes_max: usize) -> String {
    let cut_off = |len: usize| {
        let tail = bytes.len().checked_sub(len).map(|at| str::from_utf8(&bytes[at..]));
        matches!(tail, Some(Err(fault)) if fault.valid_up_to() == 0 && fault.error_len().is_none())
    };
    let end = (1..4).find(|len| cut_off(*len)).unwrap_or(0);
    clean(&String::from_utf8_lossy(&bytes[..bytes.len() - end]), bytes_max)
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

/// A path as servers may read it: decoded, without empty parts, `.` and `..`, and without its query.
pub(crate) fn plain_path(path: &str) -> String {
    let decoded = percent_decoded(without_query(path));
    let mut parts: Vec<&str> = Vec::new();
    for part in decoded.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.iter().flat_map(|part| ["/", part]).collect()
}

fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

fn percent_decoded(text: &str) -> String {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let digits = hex(after.first()).zip(hex(after.get(1))).filter(|_| *byte == b'%');
        match digits {
            Some((high, low)) => {
                decoded.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            None => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The model in a path of Gemini's, `/v1beta/models/gemini-2.5-flash:generateContent`, or of Azure's,
/// `/openai/deployments/gpt-4o/chat/completions`. None in a path with `..`, which may mean another.
fn model_of_path(path: &str) -> Option<String> {
    let decoded = percent_decoded(without_query(path));
    let parts: Vec<&str> = decoded.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return None;
    }
    let azure = parts.windows(4).find(|parts| {
        parts[0].eq_ignore_ascii_case("openai") && parts[1].eq_ignore_ascii_case("deployments")
    });
    if let Some(parts) = azure {
        return Some(parts[2].to_owned());
    }
    // A model of several parts was one whose slashes were encoded.
    let (_, last) = without_query(path).trim_end_matches('/').rsplit_once("/models/")?;
    let last = if last.contains('/') { return None } else { percent_decoded(last) };
    let (model, method) = last.rsplit_once(':')?;
    let sound = !model.is_empty() && !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphabetic());
    sound.then(|| model.to_owned())
}

/// The first session that is named.
fn session(host: &dyn Host, config: &Config) -> String {
    let named = config.session_headers.iter().filter_map(|name| host.request_header(name));
    let session = named.into_iter().find(|session| !session.is_empty()).unwrap_or_default();
    clean(&session, SESSION_BYTES_MAX)
}

/// A value from where it is configured to come from.
fn value(host: &dyn Host, source: &Source) -> Option<String> {
    let property = |path: &[&str]| {
        // Numbers come as eight bytes: what is no text counts as absent.
        let text = String::from_utf8(host.property(path)?).ok()?;
        (!text.chars().any(char::is_control)).then_some(text)
    };
    match source {
        Source::Header(name) => host.request_header(name),
        Source::Metadata(path) => {
            let within = path.iter().map(String::as_str);
            property(&["metadata", "filter_metadata"].into_iter().chain(within).collect::<Vec<_>>())
        }
        Source::Property(path) => property(&path.iter().map(String::as_str).collect::<Vec<_>>()),
        Source::Value(text) => Some(text.clone()),
    }
}

fn subject(host: &dyn Host, config: &Config, wanted: &[String]) -> Subject {
    let header = |name: &str| host.request_header(name);
    let short = |value: String, max: usize| clean(&value, max);
    Subject {
        consumer: match &config.consumer {
            Source::Header(_) => consumers(host, config).map(|(consumer, _)| consumer),
            verified => value(host, verified),
        }
        .map(|v| short(v, NAME_BYTES_MAX))
        .unwrap_or_default(),
        source_ip: text(host, &["source", "address"])
            .map(|a| without_port(&a).to_owned())
            .unwrap_or_default(),
        path: header(":path").map(|v| short(v, VALUE_BYTES_MAX)).unwrap_or_default(),
        headers: config
            .pass_headers
            .iter()
            .chain(wanted)
            .filter_map(|name| Some((name.clone(), short(header(name)?, VALUE_BYTES_MAX))))
            .collect(),
        descriptors: config
            .descriptors
            .iter()
            .filter_map(|(name, source)| Some((name.clone(), short(value(host, source)?, NAME_BYTES_MAX))))
            .collect(),
    }
}

/// The configured candidates; those the gateway offers, where it can list them.
fn candidates(host: &dyn Host, config: &Config) -> Vec<Candidate> {
    let configured = |address: &str| config.candidates.iter().find(|c| c.address == address);
    let offered: Vec<Candidate> = host
        .upstream_hosts()
        .into_iter()
        .filter(|(address, about)| {
            let sound = (1..=NAME_BYTES_MAX).contains(&address.len()) && !address.contains(char::is_control);
            sound && healthy(about)
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
    fn the_model_may_be_in_the_path() {
        let cases = [
            ("/v1beta/models/gemini-2.5-flash:generateContent", Some("gemini-2.5-flash")),
            (
                "/v1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent?alt=sse",
                Some("g"),
            ),
            ("/v1beta/models/gemini%2d2.5%3AgenerateContent", Some("gemini-2.5")),
            ("/v1beta/models/google%2Fgemini:generateContent/", Some("google/gemini")),
            ("/v1beta//models/llama3:8b:generateContent", Some("llama3:8b")),
            ("/v1/models/llama", None),
            ("/v1/models/a/b:c", None),
            ("/v1/models/:c", None),
            ("/v1/models/a:", None),
            ("/v1/chat?x=/models/a:b", None),
            ("/v1/models/a:b/../../chat/completions", None),
            ("/v1/models/..%2f..%2fchat:b", None),
            ("/openai/deployments/gpt-4o/chat/completions?api-version=1", Some("gpt-4o")),
            ("/x//OpenAI/deployments/gpt%2D4o/embeddings", Some("gpt-4o")),
            ("/openai/deployments/gpt-4o", None),
            ("/openai/deployments/a/../b/chat/completions", None),
            ("", None),
        ];
        for (path, model) in cases {
            assert_eq!(model_of_path(path).as_deref(), model, "{path}");
        }
    }

    #[test]
    fn paths_are_compared_as_servers_read_them() {
        let cases = [
            ("/quota", "/quota"),
            ("/v1/quota/", "/v1/quota"),
            ("//v1//quota//?x=/y", "/v1/quota"),
            ("/v1/%71uot%61", "/v1/quota"),
            ("/v1%2Fquota%2f", "/v1/quota"),
            ("/v1/./quota/.", "/v1/quota"),
            ("/v1/quota/x/%2e%2E", "/v1/quota"),
            ("/../..", ""),
            ("/a%", "/a%"),
            ("/a%zz%4", "/a%zz%4"),
            ("/%e9", "/\u{fffd}"),
        ];
        for (path, plain) in cases {
            assert_eq!(plain_path(path), plain, "{path}");
        }
    }

    #[test]
    fn texts_are_cut_at_whole_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("a", 9), "a");
    }

    #[test]
    fn nothing_is_left_that_the_sidecar_would_refuse() {
        let long = "a".repeat(300);
        let wrong = String::from_utf8_lossy(&[0xff; 200]).into_owned();
        let cases = [
            ("gpt-4", "gpt-4"),
            ("x\u{1}", "x\u{fffd}"),
            ("\u{7f}\u{85}\n", "\u{fffd}\u{fffd}\u{fffd}"),
            (&long, &long[..256]),
            (&wrong, &wrong[..255]),
            (&"\0".repeat(200), &wrong[..255]),
        ];
        for (text, expected) in cases {
            assert_eq!(clean(text, 256), expected);
        }
        // Wrong bytes stay visible: a name of nothing else is no absent one.
        let cases: [(&[u8], &str); 6] = [
            (b"", ""),
            ("aé".as_bytes(), "aé"),
            (&"aé".as_bytes()[..2], "a"),
            (&"a👋".as_bytes()[..4], "a"),
            (b"\xff\xff", "\u{fffd}\u{fffd}"),
            (b"a\x80", "a\u{fffd}"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(decode(bytes, 256), expected);
        }
    }
}
