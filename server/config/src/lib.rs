//! Reads the configuration file and validates it into [`Config`]. Reports all errors at once.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use evenkeel_domain::{
    file_kind::FileKind,
    limit::{Attribute, Condition, LimitRules},
    settings::{
        KubernetesOptions, LedgerOptions, LimitFiles, Log, PoolRule, PromptBlocks, RateLimitService,
        RedisOptions, RoleRules, Roles, Secret, Traces,
    },
};

mod check;
mod credentials;
mod files;
mod formats;
mod higress;
mod kubernetes;
mod limitador;
mod limits;
mod listen;
mod loopback;
mod pools;
mod prefix;
mod rate_limit_service;
mod raw;
mod roles;
mod schema;
mod service_rule;
mod store;
mod store_tls;
mod tickets;
mod tls;
mod tolerant;
mod traces;
mod validate;

use files::{Files, Sections};
pub use higress::{Plugin as HigressPlugin, convert as convert_higress};
pub use limitador::{Options as LimitadorOptions, convert as convert_limitador};
pub use limits::{AMOUNT_EXPECTED, parse_amount};
pub use schema::schema;
pub use tls::Tls;

#[derive(Clone, Debug)]
pub struct Config {
    pub listen: Listen,
    /// TLS of the TCP listeners; `None` if they have none.
    pub tls: Option<Tls>,
    /// Time between two KeepAlive calls of a gateway worker.
    pub keep_alive_interval: Duration,
    /// How long the sidecar continues to serve after SIGTERM, while it reports that it is not ready.
    pub shutdown_delay: Duration,
    pub log: Log,
    pub worker_threads: usize,
    pub store: StoreConfig,
    /// Pool rules. The first rule that matches a request applies.
    pub pools: Vec<PoolRule>,
    /// How to reach the Kubernetes API server.
    pub kubernetes: KubernetesOptions,
    /// The rule for requests that match no rule in `pools`. `None`: the sidecar rejects them.
    pub unlisted: Option<PoolRule>,
    /// How gateways divide prompts. `None` if no pool considers prefix caches.
    pub prompt_blocks: Option<PromptBlocks>,
    /// Limits and quotas, with the prices, model estimates and headers that they use.
    pub rules: Arc<LimitRules>,
    /// Who has which role.
    pub roles: Arc<RoleRules>,
    /// The keys of tickets from a file; the first signs. Empty if the sidecars share a key through the store.
    pub tickets: Arc<Vec<Secret>>,
    pub ledger: LedgerOptions,
    /// Settings that are allowed but probably not intended.
    pub warnings: Vec<String>,
    /// Envoy's rate limit service; `None` if the sidecar does not serve it.
    pub rate_limit_service: Option<RateLimitService>,
    /// Export of traces; `None` if the sidecar exports none.
    pub traces: Option<Traces>,
    /// The file from which the configuration was loaded.
    pub path: Option<PathBuf>,
    /// Paths of the other files that were read.
    pub files: Vec<PathBuf>,
    sections: Sections,
}

/// The addresses of the listeners, and the roles of callers without a token or a certificate.
#[derive(Clone, Debug)]
pub struct Listen {
    pub grpc: Option<SocketAddr>,
    pub grpc_roles: Roles,
    /// Path of the Unix socket for gRPC.
    pub grpc_socket: Option<PathBuf>,
    /// Mode of the Unix socket file.
    pub grpc_socket_mode: u32,
    pub grpc_socket_roles: Roles,
    /// Address for metrics, health checks, the JSON API and the capacity page.
    pub http: SocketAddr,
    /// Host names under which clients may call `http`.
    pub hosts: Vec<String>,
    /// Maximum number of connections to `grpc`.
    pub connections_max: usize,
    pub http_roles: Roles,
    /// Whether `/metrics` needs no role.
    pub open_metrics: bool,
}

/// Where tables, counters, quota records and usage are stored.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    Memory,
    Redis(Box<RedisOptions>),
}

/// All errors in a configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} fault{} in the configuration:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}

impl Config {
    /// Reads a configuration file and the files that it names.
    ///
    /// # Errors
    /// Returns every error in the configuration, not only the first.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let yaml = std::fs::read_to_string(path)
            .map_err(|error| Faults(vec![format!("{}: cannot be read: {error}", path.display())]))?;
        let mut config = Self::parse_in(&yaml, path.parent().unwrap_or(Path::new("")))?;
        config.path = Some(path.to_owned());
        Ok(config)
    }

    /// Parses YAML. Resolves relative paths in it against the working directory.
    ///
    /// # Errors
    /// Returns every error in the configuration, not only the first.
    pub fn parse(yaml: &str) -> Result<Self, Faults> {
        Self::parse_in(yaml, Path::new(""))
    }

    /// Parses YAML. Resolves relative paths in it against `directory`.
    ///
    /// # Errors
    /// Returns every error in the configuration, not only the first.
    pub fn parse_in(yaml: &str, directory: &Path) -> Result<Self, Faults> {
        let (raw, parse_faults) = read(yaml)?;
        let mut files = Files::new(directory);
        let validated = validate::validate(raw, &mut files);
        if !parse_faults.faults.is_empty() {
            let others = validated.err().map(|faults| faults.0).unwrap_or_default();
            let others = others.into_iter().filter(|fault| !parse_faults.explain(fault));
            return Err(Faults(parse_faults.faults.iter().cloned().chain(others).collect()));
        }
        let mut config = validated?;
        config.sections = files.sections(yaml);
        config.files = files.into_paths();
        Ok(config)
    }

    /// Returns the names of the limits and quotas that use the model. Gateways know the model only if they read request
    /// bodies.
    #[must_use]
    pub fn uses_of_model(&self) -> Vec<&str> {
        let is_model = |condition: &Condition| condition.attribute == Attribute::Model;
        let limits = self.rules.limits.iter().filter(|limit| {
            let mut exceptions = limit.exceptions.iter().flat_map(|exception| &exception.when);
            limit.key.attributes().contains(&Attribute::Model)
                || limit.when.iter().any(is_model)
                || exceptions.any(is_model)
        });
        let quotas = self.rules.quotas.iter().filter(|quota| quota.when.iter().any(is_model));
        limits.map(|limit| &*limit.name).chain(quotas.map(|quota| &*quota.name)).collect()
    }

    /// Returns the rate limit service's files that a configuration file names, even if the configuration has errors.
    #[must_use]
    pub fn rate_limit_files(path: &Path) -> Option<LimitFiles> {
        let (raw, _) = read(&std::fs::read_to_string(path).ok()?).ok()?;
        let files = Files::new(path.parent().unwrap_or(Path::new("")));
        let mut check = check::Check::default();
        let service = rate_limit_service::validate(&mut check, &files, raw.rate_limit_service?);
        service.files.path.file_name().is_some().then_some(service.files)
    }

    /// Summarizes the configuration in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let mut parts = vec![format!("{} pool rules", self.pools.len())];
        let rules = &self.rules;
        let others = [
            (rules.limits.len(), "limit"),
            (rules.quotas.len(), "quota"),
            (rules.prices.0.len(), "price"),
            (self.roles.tokens.len(), "token"),
            (self.roles.certificates.len(), "certificate name"),
            (self.files.len(), "other file"),
        ];
        parts.extend(others.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| count(n, what)));
        parts.push(match self.store {
            StoreConfig::Memory => "memory store".to_owned(),
            StoreConfig::Redis(_) => "redis store".to_owned(),
        });
        parts.join(", ")
    }

    /// Returns the names of the sections that differ from the other configuration and whose changes need a restart.
    #[must_use]
    pub fn needs_restart(&self, other: &Self) -> Vec<String> {
        self.sections.changed_for_restart(&other.sections)
    }

    /// Returns the time after which a silent holder counts as dead. A KeepAlive may thus come half an interval late.
    /// With a sweep every quarter of an interval, a dead holder's leases are released within two intervals.
    #[must_use]
    pub fn holder_ttl(&self) -> Duration {
        self.keep_alive_interval * 3 / 2
    }

    /// Returns the time between two sweeps, in which the sidecar reads each table for views and metrics and releases
    /// the leases of dead holders.
    #[must_use]
    pub fn sweep_interval(&self) -> Duration {
        self.keep_alive_interval / 4
    }
}

/// Parses YAML into the raw types.
fn read(yaml: &str) -> Result<(raw::RawConfig, tolerant::ParseFaults), Faults> {
    if yaml.trim().is_empty() {
        return Ok(Default::default());
    }
    // Of a file of another kind, every field would be a fault.
    let documents: Vec<serde_json::Value> = documents(yaml).unwrap_or_default();
    let kinds = documents.iter().filter_map(FileKind::of);
    if let Some(kind) = kinds.into_iter().find(|kind| *kind != FileKind::Configuration) {
        let remedy = kind.remedy();
        return Err(Faults(vec![format!("must be a configuration of Evenkeel, got {kind}: {remedy}")]));
    }
    if documents.len() > 1 {
        return Err(Faults(vec![format!("must be one YAML document, got {}", documents.len())]));
    }
    tolerant::parse(yaml).map_err(Faults)
}

/// Parses one YAML document. An error names the position but does not quote the line, which may contain a password.
fn from_yaml<T: serde::de::DeserializeOwned>(yaml: &str) -> Result<T, String> {
    serde_saphyr::from_str_with_options(yaml, yaml_options()).map_err(|error| describe(&error))
}

/// Parses all YAML documents that are not empty.
fn documents<T: serde::de::DeserializeOwned>(yaml: &str) -> Result<Vec<T>, String> {
    documents_with(yaml, yaml_options())
}

fn documents_with<T: serde::de::DeserializeOwned>(
    yaml: &str,
    options: serde_saphyr::Options,
) -> Result<Vec<T>, String> {
    serde_saphyr::from_multiple_with_options(yaml, options).map_err(|error| describe(&error))
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        // One anchor may serve any number of limits. Other bounds of the parser remain.
        budget: serde_saphyr::budget! { enforce_alias_anchor_ratio: false },
    }
}

/// Describes an error of the YAML parser without advice about the parser's API, without its names for events, and without
/// passwords.
fn describe(error: &serde_saphyr::Error) -> String {
    let text = redact(&error.render_with_formatter(&serde_saphyr::UserMessageFormatter));
    // The parser names its bounds, such as `Nodes { nodes: 5 }`.
    if text.starts_with("YAML document too large or too complex") {
        return "must be smaller: it has too many values, counting those of aliases, or is nested too deep"
            .to_owned();
    }
    for (event, expected) in [
        ("recursion limit exceeded", "must be nested less deep"),
        ("expected mapping start", "must be a map"),
        ("expected sequence start", "must be a list"),
        ("expected string scalar", "must be a text"),
    ] {
        if let Some(place) = text.strip_prefix(event) {
            return format!("{expected}{place}");
        }
    }
    text
}

/// Removes user and password from URLs.
fn redact(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // Removes all text up to the last @, because a password may contain an unescaped @.
        let end =
            part.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`')).unwrap_or(part.len());
        let from = part[..end].rfind('@').unwrap_or(0);
        clean.push_str("://");
        clean.push_str(if from > 0 { "***" } else { "" });
        clean.push_str(&part[from..]);
    }
    clean
}

#[cfg(test)]
mod tests;
