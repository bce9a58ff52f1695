//! The section `traces`: the export of spans.

use std::time::Duration;

use evenkeel_domain::settings::{Secret, Traces};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{check::Check, files::Files, formats::Span, loopback::is_loopback};

const HEADERS_MAX: usize = 16;
/// Maximum length of a header's value, in bytes.
const VALUE_BYTES_MAX: usize = 4096;
const ENDPOINT: &str = "a URL such as http://collector:4317, with a host and a port and no path";

/// Export of spans. All other fields require `endpoint`. The sidecar ignores the `OTEL_*` environment variables.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTraces {
    /// URL of a collector that accepts OTLP over gRPC.
    #[schemars(
        regex(pattern = r"^https?://[^/@]+:[0-9]+/?$"),
        extend("x-range" = "`http://host:port` or `https://host:port`", "x-default" = "none")
    )]
    pub(crate) endpoint: Option<String>,
    /// A file with the CA certificates against which the collector's certificate is verified. Allowed only with
    /// `https://`. A relative path is resolved against the configuration file's directory.
    #[schemars(extend("x-default" = "the system's certificates"))]
    pub(crate) ca_file: Option<String>,
    /// Of the requests without a `traceparent`, the fraction for which the sidecar starts a trace. A request with a
    /// `traceparent` is traced if its sampled flag is set.
    #[schemars(range(min = 0, max = 1), extend("default" = 0))]
    pub(crate) sample_ratio: Option<f64>,
    /// Maximum time that the sidecar waits for the collector's answer. An export that takes longer is not retried. No
    /// request waits for an export.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "5s", "x-range" = "100ms..60s"))]
    pub(crate) timeout: Option<Duration>,
    /// Headers sent with every export. Each has a `name` and either `value` or `value_file`. A value from a file is
    /// treated as a secret, so `endpoint` must then be `https://` or a loopback address.
    #[schemars(length(max = 16))]
    pub(crate) headers: Vec<RawHeader>,
    /// `service.name` of the exported spans.
    #[schemars(length(min = 1, max = 256), extend("default" = "evenkeel"))]
    pub(crate) service_name: Option<String>,
}

/// A header that the sidecar sends with each export.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"], "minProperties" = 2, "maxProperties" = 2))]
pub(super) struct RawHeader {
    /// Name of the header, in lower case. Must be unique. Names that gRPC reserves are rejected.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[a-z0-9_.-]+$"), extend("x-range" = "1..64 characters of `a-z 0-9 _ . -`"))]
    pub(crate) name: String,
    /// Value of the header.
    #[schemars(length(min = 1, max = 4096), regex(pattern = "^[ -~]*$"), extend("x-range" = "1..4096 printable ASCII characters", "x-default" = "none"))]
    pub(crate) value: Option<String>,
    /// A file that contains the value, such as a mounted secret. A relative path is resolved against the configuration
    /// file's directory.
    #[schemars(extend("x-default" = "none"))]
    pub(crate) value_file: Option<String>,
}

pub(super) fn validate(check: &mut Check, files: &mut Files, raw: RawTraces) -> Option<Traces> {
    let Some(endpoint) = raw.endpoint else {
        let given = [
            ("ca_file", raw.ca_file.is_some()),
            ("sample_ratio", raw.sample_ratio.is_some()),
            ("timeout", raw.timeout.is_some()),
            ("headers", !raw.headers.is_empty()),
            ("service_name", raw.service_name.is_some()),
        ];
        if let Some((field, _)) = given.iter().find(|(_, given)| *given) {
            check.fault("traces.endpoint", &format!("given if traces.{field} is"), "none");
        }
        return None;
    };
    let tls = endpoint.starts_with("https://");
    if !is_endpoint(&endpoint) {
        // The message does not show the URL, which may contain a password.
        check.fault("traces.endpoint", ENDPOINT, "something else");
    } else if !tls && raw.headers.iter().any(|h| h.value_file.is_some()) && !is_loopback(host(&endpoint)) {
        let expected = "https:// or a loopback address if traces.headers have a value_file";
        check.fault("traces.endpoint", expected, format!("{endpoint:?}"));
    }
    if raw.ca_file.is_some() && !tls {
        check.fault("traces.ca_file", "absent unless traces.endpoint is https://", "a file");
    }
    let ca = raw.ca_file.and_then(|file| files.read_at_start(check, "traces", "traces.ca_file", &file));
    if ca.as_ref().is_some_and(|pem| !pem.contains("-----BEGIN CERTIFICATE-----")) {
        check.fault("traces.ca_file", "a file of certificates in PEM", "none in it");
    }
    let sample_ratio = raw.sample_ratio.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&sample_ratio) {
        check.fault("traces.sample_ratio", "0..1", sample_ratio);
    }
    let s = Duration::from_secs;
    let timeout = check.duration("traces.timeout", raw.timeout, s(5), Duration::from_millis(100), s(60));
    let service_name = raw.service_name.unwrap_or_else(|| "evenkeel".to_owned());
    check.name("traces.service_name", &service_name);
    Some(Traces {
        endpoint,
        ca,
        sample_ratio,
        timeout,
        headers: headers(check, files, raw.headers),
        service_name,
    })
}

fn is_endpoint(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let Some(place) = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest)) else { return false };
    let Some((host, port)) = place.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_valid = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            !host.is_empty() && host.bytes().all(valid)
        }
    };
    host_is_valid && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Returns the host of a URL that [`is_endpoint`] accepts.
fn host(endpoint: &str) -> &str {
    let place = endpoint.split_once("://").map_or(endpoint, |(_, place)| place);
    place.rsplit_once(':').map_or(place, |(host, _)| host)
}

fn headers(check: &mut Check, files: &mut Files, raw: Vec<RawHeader>) -> Vec<(String, Secret)> {
    if raw.len() > HEADERS_MAX {
        check.fault("traces.headers", "at most 16 headers", raw.len());
    }
    let mut headers: Vec<(String, Secret)> = Vec::with_capacity(raw.len());
    for (i, raw) in raw.into_iter().enumerate() {
        let path = format!("traces.headers[{i}]");
        let name = &raw.name;
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        let reserved = name.ends_with("-bin") || name.starts_with("grpc-") || name == "content-type";
        if name.is_empty() || name.len() > 64 || !name.bytes().all(valid) || reserved {
            let expected = "a header's name in lower case, of 1..64 bytes, not one that gRPC reserves";
            check.fault(&format!("{path}.name"), expected, format!("{name:?}"));
        }
        if headers.iter().any(|(other, _)| other == name) {
            check.fault(&format!("{path}.name"), "named once", format!("{name:?} again"));
        }
        let (text, path) = match (raw.value, &raw.value_file) {
            (Some(value), None) => (Some(value), format!("{path}.value")),
            (None, Some(file)) => {
                let path = format!("{path}.value_file");
                let text = files.read_at_start(check, "traces", &path, file);
                (text.map(|text| text.trim().to_owned()), path)
            }
            (given, _) => {
                let got = if given.is_some() { "both" } else { "neither" };
                check.fault(&path, "either value or value_file", got);
                continue;
            }
        };
        let Some(text) = text else { continue };
        let printable = text.bytes().all(|b| matches!(b, b' '..=b'~'));
        if text.is_empty() || text.len() > VALUE_BYTES_MAX || !printable {
            let got = format!("{} bytes", text.len());
            check.fault(&path, "1..4096 printable ASCII characters", got);
        }
        headers.push((raw.name, Secret::new(text)));
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::Config;

    fn faults(section: &str) -> Vec<String> {
        Config::parse(&format!("traces: {section}")).expect_err(section).0
    }

    #[test]
    fn traces_are_off_without_an_endpoint() {
        for section in ["", "traces: {}", "traces: {headers: []}"] {
            assert_eq!(Config::parse(section).unwrap().traces, None, "{section}");
        }
        let expected = "traces.endpoint: must be given if traces.sample_ratio is, got none";
        assert_eq!(faults("{sample_ratio: 0.1}"), [expected]);
    }

    #[test]
    fn the_section_is_parsed() {
        let config = Config::parse("traces: {endpoint: 'http://collector:4317'}").unwrap();
        let traces = config.traces.unwrap();
        assert_eq!((traces.sample_ratio, traces.timeout), (0.0, Duration::from_secs(5)));
        assert_eq!((&*traces.service_name, traces.headers.len()), ("evenkeel", 0));
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), "s3cret\n").unwrap();
        std::fs::write(directory.path().join("ca"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        let yaml = "traces: {endpoint: 'https://[::1]:4317', ca_file: ca, sample_ratio: 0.25, timeout: 2s, service_name: a, \
                    headers: [{name: x-key, value_file: key}, {name: x-scope, value: 'team one'}]}";
        let config = Config::parse_in(yaml, directory.path()).unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        let traces = config.traces.unwrap();
        assert_eq!((traces.sample_ratio, traces.timeout), (0.25, Duration::from_secs(2)));
        let headers: Vec<_> = traces.headers.iter().map(|(name, value)| (&**name, value.reveal())).collect();
        assert_eq!(headers, [("x-key", "s3cret"), ("x-scope", "team one")]);
        assert_eq!(config.files.len(), 2);
    }

    #[test]
    fn all_faults_are_reported_without_secrets() {
        let found = faults(
            "{endpoint: 'http://me:pw@collector:4317', ca_file: /nowhere, sample_ratio: 1.5, timeout: 1ms, service_name: '', \
             headers: [{name: X-Key, value: a}, {name: a, value: s3cret, value_file: b}, {name: b}, \
             {name: c, value: \"s3\\ncret\"}, {name: c, value: d}, {name: d, value_file: /nowhere}]}",
        );
        let starts = [
            "traces.endpoint: must be a URL such as http://collector:4317, ",
            "traces.ca_file: must be absent unless traces.endpoint is https://, got a file",
            "traces.ca_file: must be a file that can be read, got \"/nowhere\": ",
            "traces.sample_ratio: must be 0..1, got 1.5",
            "traces.timeout: must be 100ms..60s, got 1ms",
            "traces.service_name: must be a name of 1..256 bytes",
            "traces.headers[0].name: must be a header's name in lower case",
            "traces.headers[1]: must be either value or value_file, got both",
            "traces.headers[2]: must be either value or value_file, got neither",
            "traces.headers[3].value: must be 1..4096 printable ASCII characters, got 7 bytes",
            "traces.headers[4].name: must be named once, got \"c\" again",
            "traces.headers[5].value_file: must be a file that can be read, ",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (fault, start) in found.iter().zip(starts) {
            assert!(fault.starts_with(start), "{fault}\nis not\n{start}");
        }
        assert!(!found.concat().contains("cret") && !found.concat().contains("pw"));
    }

    /// Guards against a secret that others on the network can read.
    #[test]
    fn headers_are_sent_in_clear_on_loopback_only() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), "s3cret\n").unwrap();
        let parse = |yaml: &str| Config::parse_in(yaml, directory.path());
        let headers = ", headers: [{name: x-key, value_file: key}]";
        for place in ["collector:4317", "10.0.0.1:4317/", "[fd00::1]:4317", "localhost.example.com:1"] {
            let expected = format!(
                "traces.endpoint: must be https:// or a loopback address if traces.headers have a value_file, \
                 got \"http://{place}\""
            );
            let found = parse(&format!("traces: {{endpoint: 'http://{place}'{headers}}}")).unwrap_err();
            assert_eq!(found.0, [expected]);
            // A `value` such as a tenant's name is not treated as a secret.
            let tenant = ", headers: [{name: x-scope-orgid, value: team}]";
            parse(&format!("traces: {{endpoint: 'http://{place}'{tenant}}}")).unwrap();
            parse(&format!("traces: {{endpoint: 'https://{place}'{headers}}}")).unwrap();
        }
        for place in ["127.0.0.1:4317", "127.1.2.3:1/", "[::1]:4317", "localhost:4317"] {
            parse(&format!("traces: {{endpoint: 'http://{place}'{headers}}}")).unwrap();
        }
    }

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port() {
        let wrong = [
            "collector:4317",
            "grpc://collector:4317",
            "http://collector",
            "http://collector:0",
            "http://collector:99999",
            "http://:4317",
            "http://a b:4317",
            "http://[collector]:4317",
            "http://collector:4317/v1/traces",
            "http://collector:4317?x",
        ];
        for endpoint in wrong {
            let found = faults(&format!("{{endpoint: '{endpoint}'}}"));
            assert!(found[0].starts_with("traces.endpoint: must be a URL"), "{endpoint}: {found:?}");
        }
        for endpoint in ["http://127.0.0.1:1", "https://otel.a-b.svc:4317/", "http://[fe80::1]:4317"] {
            Config::parse(&format!("traces: {{endpoint: '{endpoint}'}}")).unwrap();
        }
    }
}
