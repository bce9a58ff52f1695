//! Plugin configuration. Every error names the field and the expected value.

mod fields;
pub mod path;
mod source;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use fields::Fields;
use serde_json::Value;
pub use source::Source;

/// Default name of the header with the endpoint, which Envoy's `override_host` policy reads.
pub const ENDPOINT_HEADER: &str = "x-gateway-destination-endpoint";

/// Header that Envoy's original-destination clusters read.
pub const ORIGINAL_DST_HEADER: &str = "x-envoy-original-dst-host";

/// Default of `body_bytes_max`: just below the size of Envoy's buffer, 1 MiB by default. If a body exceeds the buffer,
/// Envoy answers 413.
const BODY_BYTES_MAX: u64 = 960 << 10;

/// Maximum number of candidates in one configuration.
const CANDIDATES_MAX: usize = 1024;

/// Bounds of a candidate's weight, the same as in the sidecar.
const WEIGHT: RangeInclusive<f64> = 0.001..=1000.0;

const ADDRESS: &str = "an address or name of 1 to 256 bytes without control characters";

const CLUSTER: &str = "a cluster name of 1 to 256 bytes without control characters";

/// Largest value of `open_per_second`, more than a worker serves.
const OPEN_PER_SECOND_MAX: u64 = 1_000_000;

/// Maximum number of clusters in `sidecar.cluster`.
const SIDECAR_CLUSTERS_MAX: usize = 8;

/// Maximum number of entries in `pass_headers`.
const PASS_HEADERS_MAX: usize = 32;

/// Maximum number of entries in `session_headers`.
const SESSION_HEADERS_MAX: usize = 16;

/// Headers in which agents send their session. Higress reads the first four of them.
const SESSION_HEADERS: [&str; 7] = [
    "x-openclaw-session-key",
    "x-clawdbot-session-key",
    "x-moltbot-session-key",
    "x-agent-session",
    "x-session-id",
    "x-conversation-id",
    "x-thread-id",
];

/// Maximum number of entries in `admin_paths`.
const ADMIN_PATHS_MAX: usize = 16;

/// A validated plugin configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The gateway's clusters through which the plugin connects to a sidecar: the first one, and the others after
    /// failures, in turn.
    pub sidecar_clusters: Vec<String>,
    /// How long a request waits for the answer to its Admit.
    pub deadline_ms: u64,
    pub on_error: OnError,
    /// Maximum number of requests that each worker lets proceed in a second without an answer. `None`: no maximum.
    pub open_per_second: Option<u64>,
    pub apply: Apply,
    /// Endpoints sent with every Admit. If Higress lists its hosts, the plugin sends those hosts with the weights and
    /// caps set here.
    pub candidates: Vec<Candidate>,
    /// Route in the pool's identity, instead of the gateway's route.
    pub pool_route: Option<String>,
    /// Cluster in the pool's identity, instead of the gateway's cluster.
    pub pool_cluster: Option<String>,
    /// Source of the authenticated consumer.
    pub consumer: Source,
    /// Names of the request headers sent with Admit, in lower case.
    pub pass_headers: Vec<String>,
    /// Names of the headers that may contain the session, in lower case. The plugin uses the first header that is
    /// present and not empty.
    pub session_headers: Vec<String>,
    /// Names and sources of other values sent with Admit.
    pub descriptors: Vec<(String, Source)>,
    /// Suffixes of the paths whose requests the sidecar answers itself, normalized by [`path::normalize`].
    pub admin_paths: Vec<String>,
    /// Whether to read the model and the prompt size from the request body.
    pub read_body: bool,
    pub on_unread_body: OnUnreadBody,
    /// Largest request body that the plugin waits for. The gateway buffers it.
    pub body_bytes_max: usize,
    /// Whether to read usage from responses.
    pub read_usage: bool,
    /// Whether to remove `accept-encoding` from requests, because the plugin cannot read compressed responses.
    pub uncompressed_responses: bool,
    /// Whether to request usage from OpenAI streams. The plugin strips the usage if the client did not request it.
    pub include_usage: bool,
    /// Whether calls that generate nothing are counted as requests of the model that they name.
    pub count_helper_calls: bool,
    /// How long to wait for a complete request body.
    pub body_wait_ms: u64,
    /// Interval at which the plugin sends the list of its leases, until the sidecar sets another interval.
    pub keep_alive_ms: u64,
    /// Name of the response header that reports how the endpoint was chosen.
    pub report_header: Option<String>,
}

/// What happens to a request if the sidecar does not answer its Admit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The request proceeds, and the gateway chooses the endpoint.
    Open,
    /// The plugin refuses the request with status 503.
    Closed,
}

/// What happens to a POST whose body the plugin cannot read, if `read_body` is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnreadBody {
    /// The plugin calls Admit with the model `(unknown)`.
    Admit,
    /// The plugin refuses the request.
    Refuse,
}

/// How the plugin applies the chosen endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Apply {
    /// Writes the endpoint into a header that the cluster's `override_host` policy reads.
    OverrideHost { header: String },
    /// Writes the endpoint into `x-envoy-original-dst-host`.
    OriginalDst,
    /// Writes the endpoint, which is the name of a cluster or provider, into a header by which the gateway routes.
    Name { header: String },
    /// Passes the endpoint to Higress's host call.
    Higress,
}

impl Apply {
    /// Returns the name of the header that carries the endpoint. Clients must not be able to set this header.
    pub fn header(&self) -> Option<&str> {
        match self {
            Apply::OverrideHost { header } | Apply::Name { header } => Some(header),
            Apply::OriginalDst => Some(ORIGINAL_DST_HEADER),
            Apply::Higress => None,
        }
    }

    /// Returns whether endpoints are addresses, which can be compared with the upstream address.
    pub fn by_address(&self) -> bool {
        !matches!(self, Apply::Name { .. })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// `host:port` or, in mode `name`, the name of a cluster or provider.
    pub address: String,
    /// Relative capacity; 0 selects the pool's default.
    pub weight: f64,
    /// Maximum number of requests in flight; 0 selects the pool's default.
    pub cap: u32,
}

impl Config {
    /// Parses a configuration. An empty text gives the default configuration. On failure, returns every error.
    pub fn parse(text: &[u8]) -> Result<Config, Vec<String>> {
        let empty = text.iter().all(u8::is_ascii_whitespace);
        let value: Value = match serde_json::from_slice(if empty { b"{}" } else { text }) {
            Ok(value) => value,
            Err(error) => return Err(vec![format!("configuration: must be JSON: {error}")]),
        };
        let mut faults = Vec::new();
        let config = read(&value, &mut faults);
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }
}

fn read(value: &Value, faults: &mut Vec<String>) -> Config {
    let mut top = Fields::of(value, String::new(), faults);
    let sidecar_clusters = sidecar(&mut top, faults);
    let apply = apply(&mut top, faults);
    let (pool_route, pool_cluster) = pool(&mut top, faults);
    if !apply.by_address() && pool_cluster.is_none() {
        faults.push(
            "pool.cluster: must be set in apply.mode \"name\", in which no cluster is matched yet".into(),
        );
    }
    let on_error =
        match top.text("on_error", "\"open\" or \"closed\"", |t| matches!(t, "open" | "closed"), faults) {
            Some(text) if text == "closed" => OnError::Closed,
            _ => OnError::Open,
        };
    let expected = "\"admit\" or \"refuse\"";
    let on_unread_body =
        match top.text("on_unread_body", expected, |t| matches!(t, "admit" | "refuse"), faults) {
            Some(text) if text == "refuse" => OnUnreadBody::Refuse,
            _ => OnUnreadBody::Admit,
        };
    let header = "an HTTP header name";
    let config = Config {
        sidecar_clusters,
        deadline_ms: top.whole("deadline_ms", 1, 10_000, faults).unwrap_or(50),
        on_error,
        open_per_second: top.whole("open_per_second", 0, OPEN_PER_SECOND_MAX, faults),
        apply,
        candidates: candidates(&mut top, faults),
        pool_route,
        pool_cluster,
        consumer: source::consumer(&mut top, faults),
        pass_headers: headers(&mut top, "pass_headers", PASS_HEADERS_MAX, faults),
        session_headers: if top.get("session_headers").is_some() {
            headers(&mut top, "session_headers", SESSION_HEADERS_MAX, faults)
        } else {
            SESSION_HEADERS.map(str::to_owned).into()
        },
        descriptors: source::descriptors(&mut top, faults),
        admin_paths: admin_paths(&mut top, faults),
        read_usage: top.flag("read_usage", faults).unwrap_or(true),
        uncompressed_responses: top
            .text("accept_encoding", "\"remove\" or \"keep\"", |t| matches!(t, "remove" | "keep"), faults)
            .is_none_or(|text| text == "remove"),
        include_usage: top.flag("include_usage", faults).unwrap_or(false),
        read_body: top.flag("read_body", faults).unwrap_or(false),
        on_unread_body,
        body_bytes_max: top.whole("body_bytes_max", 1, 16 << 20, faults).unwrap_or(BODY_BYTES_MAX) as usize,
        count_helper_calls: top.flag("count_helper_calls", faults).unwrap_or(false),
        body_wait_ms: top.whole("body_wait_ms", 100, 60_000, faults).unwrap_or(1000),
        keep_alive_ms: top.whole("keep_alive_ms", 100, 60_000, faults).unwrap_or(1000),
        report_header: top
            .text("report_header", header, is_header_name, faults)
            .map(|name| name.to_ascii_lowercase()),
    };
    if config.on_unread_body == OnUnreadBody::Refuse && !config.read_body {
        faults.push("on_unread_body: \"refuse\" requires read_body true".into());
    }
    if config.include_usage {
        let requirements = [
            ("read_body true", config.read_body),
            ("read_usage true", config.read_usage),
            ("accept_encoding \"remove\"", config.uncompressed_responses),
        ];
        for (what, _) in requirements.iter().filter(|(_, met)| !met) {
            faults.push(format!("include_usage: requires {what}"));
        }
    }
    top.finish(faults);
    config
}

/// Reads `sidecar.cluster`: one name or a list of names.
fn sidecar(top: &mut Fields<'_>, faults: &mut Vec<String>) -> Vec<String> {
    let mut clusters = Vec::new();
    if let Some(value) = top.get("sidecar") {
        let mut fields = Fields::of(value, top.name("sidecar"), faults);
        if fields.get("cluster").is_some_and(Value::is_array) {
            for (name, value) in fields.list("cluster", SIDECAR_CLUSTERS_MAX, faults) {
                match value.as_str() {
                    Some(text) if is_name(text) => clusters.push(text.to_owned()),
                    _ => faults.push(format!("{name}: must be {CLUSTER}, got {value}")),
                }
            }
        } else {
            clusters.extend(fields.text("cluster", CLUSTER, is_name, faults));
        }
        fields.finish(faults);
    }
    if clusters.is_empty() {
        clusters.push("evenkeel".to_owned());
    }
    clusters
}

fn apply(top: &mut Fields<'_>, faults: &mut Vec<String>) -> Apply {
    let default = Apply::OverrideHost { header: ENDPOINT_HEADER.to_owned() };
    let Some(value) = top.get("apply") else { return default };
    let mut fields = Fields::of(value, top.name("apply"), faults);
    let expected = "\"override_host\", \"original_dst\", \"name\" or \"higress\"";
    let known = |mode: &str| matches!(mode, "override_host" | "original_dst" | "name" | "higress");
    let mode = match fields.text("mode", expected, known, faults) {
        Some(mode) => mode,
        None if fields.get("mode").is_some() => return default,
        None => "override_host".to_owned(),
    };
    let header = match mode.as_str() {
        "override_host" | "name" => fields
            .text("header", "an HTTP header name", is_header_name, faults)
            .map(|name| name.to_ascii_lowercase()),
        _ => None,
    };
    let apply = match mode.as_str() {
        "original_dst" => Apply::OriginalDst,
        "higress" => Apply::Higress,
        "name" => {
            if fields.get("header").is_none() {
                faults.push("apply.header: must be set in apply.mode \"name\"".into());
            }
            Apply::Name { header: header.unwrap_or_default() }
        }
        _ => Apply::OverrideHost { header: header.unwrap_or_else(|| ENDPOINT_HEADER.to_owned()) },
    };
    if apply == Apply::Higress && !cfg!(feature = "higress") {
        faults.push(
            "apply.mode: \"higress\" requires the Higress module of the plugin; this is the general one"
                .into(),
        );
    }
    fields.finish(faults);
    apply
}

fn pool(top: &mut Fields<'_>, faults: &mut Vec<String>) -> (Option<String>, Option<String>) {
    let Some(value) = top.get("pool") else { return (None, None) };
    let mut fields = Fields::of(value, top.name("pool"), faults);
    let expected = "a route name of at most 256 bytes without control characters";
    let route = fields.text("route", expected, |t| t.is_empty() || is_name(t), faults);
    let cluster = fields.text("cluster", CLUSTER, is_name, faults);
    fields.finish(faults);
    (route, cluster)
}

fn candidates(top: &mut Fields<'_>, faults: &mut Vec<String>) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for (name, value) in top.list("candidates", CANDIDATES_MAX, faults) {
        let mut fields = Fields::of(value, name, faults);
        let address = fields.text("address", ADDRESS, is_name, faults);
        let weight =
            fields.number_or_0("weight", WEIGHT, "0 or a number from 0.001 to 1000", faults).unwrap_or(0.0);
        let cap = fields.whole("cap", 0, u64::from(u32::MAX), faults).unwrap_or(0) as u32;
        match address {
            Some(address) if candidates.iter().any(|c| c.address == address) => {
                faults.push(format!("{}: {address:?} is listed twice", fields.name("address")));
            }
            Some(address) => candidates.push(Candidate { address, weight, cap }),
            None if value.is_object() && value.get("address").is_none() => {
                faults.push(format!("{}: must be set", fields.name("address")));
            }
            None => {}
        }
        fields.finish(faults);
    }
    candidates
}

/// Reads a list of header names.
fn headers(
    top: &mut Fields<'_>,
    field: &'static str,
    len_max: usize,
    faults: &mut Vec<String>,
) -> Vec<String> {
    let mut names = Vec::new();
    for (name, value) in top.list(field, len_max, faults) {
        match value.as_str() {
            Some(text) if is_header_name(text) => names.push(text.to_ascii_lowercase()),
            _ => faults.push(format!("{name}: must be an HTTP header name, got {value}")),
        }
    }
    names
}

fn admin_paths(top: &mut Fields<'_>, faults: &mut Vec<String>) -> Vec<String> {
    let mut suffixes = Vec::new();
    // A suffix that matches every path would prevent every request from going upstream.
    let is_valid = |text: &str| {
        (2..=256).contains(&text.len())
            && text.starts_with('/')
            && !text.contains('?')
            && !path::normalize(text).is_empty()
    };
    for (name, value) in top.list("admin_paths", ADMIN_PATHS_MAX, faults) {
        match value.as_str() {
            Some(text) if is_valid(text) => suffixes.push(path::normalize(text)),
            _ => faults.push(format!(
                "{name}: must be a path suffix of 2 to 256 bytes that starts with a slash and has no query, got {value}"
            )),
        }
    }
    suffixes
}

/// Returns whether the sidecar accepts a text as a name. The sidecar rejects every Admit with an invalid name.
fn is_name(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Returns whether a text is a header name: a token of at most 128 bytes, not a pseudo-header.
#[must_use]
pub fn is_header_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
