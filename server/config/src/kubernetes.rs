//! The section `kubernetes`: how the sidecar reaches the Kubernetes API server.

use std::time::Duration;

use evenkeel_domain::settings::{
    KubernetesApi, KubernetesOptions, PoolRule, SERVICES_MAX, ServiceRule, Source,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Files,
    check::Check,
    formats::{Label, Span},
    loopback::is_loopback,
    service_rule::label,
};

/// Maximum duration of a watch. API servers and clients give up after 295 s.
const WATCH_TIMEOUT_MAX: Duration = Duration::from_secs(290);

/// Connection to the Kubernetes API server. The sidecar reads the files when the first pool needs them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawKubernetes {
    /// URL of the API server.
    #[schemars(
        regex(pattern = "^https?://"),
        extend(
            "x-range" = "`https://` or `http://`, without user and password",
            "x-default" = "from `KUBECONFIG`, the pod's service account or `~/.kube/config`"
        )
    )]
    api_server: Option<String>,
    /// A file that contains the bearer token. The sidecar reads the file again when it changes. Requires `api_server`
    /// with `https://` or a loopback address, because the sidecar does not send the token over a network in clear text.
    #[schemars(length(min = 1), extend("x-default" = "none"))]
    token_file: Option<String>,
    /// A file with the CA certificates against which the API server's certificate is verified. The sidecar reads the
    /// file again when it changes. Requires `api_server`.
    #[schemars(length(min = 1), extend("x-default" = "the system's certificates"))]
    ca_file: Option<String>,
    /// A kubeconfig file, whose current context is used. Not allowed together with `api_server`.
    #[schemars(length(min = 1))]
    kubeconfig: Option<String>,
    /// Namespace of the services of pools that set no `namespace`. Required with `api_server` if there are such pools.
    #[schemars(with = "Label", extend("x-default" = "the pod's namespace, or the namespace of the kubeconfig's context"))]
    namespace: Option<String>,
    /// Duration of one watch, and time after which the sidecar closes a silent connection.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "2m", "x-range" = "1s..290s"))]
    watch_timeout: Option<Duration>,
    /// Maximum wait between two attempts to reach the API server.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Span", extend("default" = "30s", "x-range" = "100ms..5m"))]
    retry_max: Option<Duration>,
}

/// Validates the section. Some fields are required only if a pool rule needs them.
pub(super) fn options<'r>(
    check: &mut Check,
    files: &Files,
    raw: Option<RawKubernetes>,
    rules: impl Iterator<Item = &'r PoolRule>,
) -> KubernetesOptions {
    let is_given = raw.is_some();
    let raw = raw.unwrap_or_default();
    let used: Vec<&ServiceRule> = rules
        .filter_map(|rule| match &rule.source {
            Source::Kubernetes(service) => Some(service),
            _ => None,
        })
        .collect();
    if is_given && used.is_empty() {
        check.warn("kubernetes", "has no effect, as no pool has kubernetes");
    }
    let named: std::collections::HashSet<_> =
        used.iter().filter_map(|rule| Some((rule.service.as_ref()?, &rule.namespace))).collect();
    if named.len() > SERVICES_MAX {
        check.fault("pools", "of at most 256 services of Kubernetes", named.len());
    }
    let defaults = KubernetesOptions::default();
    let (second, ms) = (Duration::from_secs(1), Duration::from_millis(100));
    let options = KubernetesOptions {
        watch_timeout: check.duration(
            "kubernetes.watch_timeout",
            raw.watch_timeout,
            defaults.watch_timeout,
            second,
            WATCH_TIMEOUT_MAX,
        ),
        retry_max: check.duration(
            "kubernetes.retry_max",
            raw.retry_max,
            defaults.retry_max,
            ms,
            300 * second,
        ),
        namespace: label(check, "kubernetes.namespace", raw.namespace.clone()),
        api: api(check, files, raw),
    };
    let lacks_namespace = |rule: &&ServiceRule| rule.service.is_some() && rule.namespace.is_none();
    let is_server = matches!(options.api, KubernetesApi::Server { .. });
    if is_server && options.namespace.is_none() && used.iter().any(lacks_namespace) {
        check.required("kubernetes.namespace", "given if api_server is and a pool names no namespace");
    }
    options
}

fn api(check: &mut Check, files: &Files, raw: RawKubernetes) -> KubernetesApi {
    let files_of_server = [
        ("token_file", &raw.token_file, raw.api_server.is_some()),
        ("ca_file", &raw.ca_file, raw.api_server.is_some()),
    ];
    for (field, file, has_server) in files_of_server {
        let path = format!("kubernetes.{field}");
        match file.as_deref() {
            Some("") => check.fault(&path, "a path", "\"\""),
            Some(_) if !has_server => check.fault(&path, "absent if api_server is", "a path"),
            _ => {}
        }
    }
    if raw.api_server.is_some() && raw.kubeconfig.is_some() {
        check.fault("kubernetes.kubeconfig", "absent if api_server is given", "both");
    }
    match (raw.api_server, raw.kubeconfig) {
        (Some(server), _) => {
            let url = server.parse::<http::Uri>().ok().filter(|url| {
                let scheme = matches!(url.scheme_str(), Some("http" | "https"));
                scheme && url.host().is_some_and(|host| !host.is_empty()) && !server.contains('@')
            });
            if url.is_none() {
                let expected = "an https:// or http:// URL without user and password";
                check.fault("kubernetes.api_server", expected, "something else");
            }
            let in_clear = url
                .as_ref()
                .filter(|url| url.scheme_str() == Some("http") && !url.host().is_some_and(is_loopback));
            if let (Some(url), Some(_)) = (in_clear, &raw.token_file) {
                let expected = "https:// or a loopback address if token_file is given";
                let got =
                    format!("\"http://{}\"", url.authority().map_or("", |authority| authority.as_str()));
                check.fault("kubernetes.api_server", expected, got);
            }
            KubernetesApi::Server {
                url: url.unwrap_or_default(),
                token_file: raw.token_file.map(|path| files.resolve(&path)),
                ca_file: raw.ca_file.map(|path| files.resolve(&path)),
            }
        }
        (None, Some(path)) => {
            if path.is_empty() {
                check.fault("kubernetes.kubeconfig", "a path", "\"\"");
            }
            KubernetesApi::Kubeconfig(files.resolve(&path))
        }
        (None, None) => KubernetesApi::Inferred,
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::settings::{PoolService, ServicePort};

    use super::{super::Config, *};

    fn parse(yaml: &str) -> Config {
        Config::parse(yaml).unwrap()
    }

    fn service(service: &str, namespace: Option<&str>, port: ServicePort) -> Option<PoolService> {
        Some(PoolService { service: service.to_owned(), namespace: namespace.map(str::to_owned), port })
    }

    #[test]
    fn the_section_is_parsed() {
        let config = parse(
            "kubernetes: {api_server: 'https://10.0.0.1:6443', token_file: t, ca_file: /ca, namespace: models, \
             watch_timeout: 1m, retry_max: 5s}\n\
             pools: [{cluster: a, kubernetes: {service: llm, port: 8000}}, \
             {cluster: b, kubernetes: {service: llm, namespace: x, port: http}}, {cluster: c, kubernetes: {service: d}}]",
        );
        let of = |i: usize, cluster| match &config.pools[i].source {
            Source::Kubernetes(rule) => rule.of(cluster),
            other => panic!("{other:?}"),
        };
        assert_eq!(of(0, "a"), service("llm", None, ServicePort::Number(8000)));
        assert_eq!(of(1, "b"), service("llm", Some("x"), ServicePort::Name("http".to_owned())));
        assert_eq!(of(2, "c"), service("d", None, ServicePort::Only { or: None }));
        let options = KubernetesOptions {
            api: KubernetesApi::Server {
                url: "https://10.0.0.1:6443".parse().unwrap(),
                token_file: Some("t".into()),
                ca_file: Some("/ca".into()),
            },
            namespace: Some("models".to_owned()),
            watch_timeout: Duration::from_secs(60),
            retry_max: Duration::from_secs(5),
        };
        assert_eq!(config.kubernetes, options);
        assert!(config.warnings.is_empty());
        let kubeconfig = parse("kubernetes: {kubeconfig: k}\nunlisted_pools: {kubernetes: {}}");
        assert_eq!(kubeconfig.kubernetes.api, KubernetesApi::Kubeconfig("k".into()));
        assert_eq!(parse("").kubernetes, KubernetesOptions::default());
        assert_eq!(parse("kubernetes: {}").warnings.len(), 1);
    }

    /// Guards against sending a token in clear text over a network.
    #[test]
    fn a_token_is_sent_in_clear_on_loopback_only() {
        let of = |server: &str, more: &str| {
            Config::parse(&format!(
                "kubernetes: {{api_server: '{server}', namespace: x{more}}}\n\
                 pools: [{{cluster: a, kubernetes: {{service: s}}}}]"
            ))
        };
        for server in ["http://10.0.0.1:8001", "http://[fd00::1]:8001/path", "http://localhost.example.com"] {
            of(server, "").unwrap();
            let found = of(server, ", token_file: t").unwrap_err().0;
            let start =
                "kubernetes.api_server: must be https:// or a loopback address if token_file is given, got";
            assert!(found.len() == 1 && found[0].starts_with(start), "{found:?}");
            of(&server.replace("http", "https"), ", token_file: t").unwrap();
        }
        for server in ["http://127.0.0.1:8001", "http://[::1]:8001", "http://localhost:8001"] {
            of(server, ", token_file: t").unwrap();
        }
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let found = Config::parse(
            "kubernetes: {api_server: 'ftp://x', kubeconfig: '', namespace: No, watch_timeout: 1h, retry_max: 1ms}\n\
             pools:\n\
             - {cluster: a, kubernetes: {}}\n\
             - {cluster: b, endpoints: [{address: x}], dns: {name: x, port: 1}, kubernetes: {service: -x, namespace: '', port: 0}}\n\
             - {cluster: 'outbound|80||llm.models.svc', kubernetes: {namespace: other, port: http_}}\n\
             - {cluster: c, kubernetes: {service: llm, port: 65536}}\n\
             unlisted_pools: {kubernetes: {service: llm}}\n",
        );
        let expected = [
            "pools[0].kubernetes.service: must be given if cluster is not as \
             outbound|80||SERVICE.NAMESPACE.svc.cluster.local, got none",
            "pools[1].dns: must be absent if endpoints are given, got both",
            "pools[1].kubernetes: must be absent if endpoints or dns are given, got both",
            "pools[1].kubernetes.service: must be 1..63 of a-z 0-9 -, not - at an end, got \"-x\"",
            "pools[1].kubernetes.namespace: must be 1..63 of a-z 0-9 -, not - at an end, got \"\"",
            "pools[1].kubernetes.port: must be 1..65535, or the name of a port, got \"0\"",
            "pools[2].kubernetes.port: must be 1..65535, or the name of a port, got \"http_\"",
            "pools[2].kubernetes.namespace: must be absent, or models, which cluster names, got \"other\"",
            "pools[3].kubernetes.port: must be 1..65535, or the name of a port, got \"65536\"",
            "unlisted_pools.kubernetes.service: must be absent: the name of the cluster determines it, got \"llm\"",
            "kubernetes.watch_timeout: must be 1s..290s, got 3600s",
            "kubernetes.retry_max: must be 100ms..300s, got 1ms",
            "kubernetes.namespace: must be 1..63 of a-z 0-9 -, not - at an end, got \"No\"",
            "kubernetes.kubeconfig: must be absent if api_server is given, got both",
            "kubernetes.api_server: must be an https:// or http:// URL without user and password, got something else",
        ];
        assert_eq!(found.unwrap_err().0, expected);
        let found = Config::parse(
            "kubernetes: {api_server: 'http://x', token_file: ''}\npools: [{cluster: a, kubernetes: {service: s}}]",
        );
        let expected = [
            "kubernetes.token_file: must be a path, got \"\"",
            "kubernetes.api_server: must be https:// or a loopback address if token_file is given, got \
             \"http://x\"",
            "kubernetes.namespace: must be given if api_server is and a pool names no namespace, got none",
        ];
        assert_eq!(found.unwrap_err().0, expected);
        assert_eq!(
            Config::parse("kubernetes: {ca_file: x, kubeconfig: ''}").unwrap_err().0,
            [
                "kubernetes.ca_file: must be absent if api_server is, got a path",
                "kubernetes.kubeconfig: must be a path, got \"\""
            ]
        );
    }
}
