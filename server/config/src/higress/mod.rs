//! Converts configurations of Higress's plugins `ai-token-ratelimit` and `cluster-key-rate-limit` to limits. A
//! configuration can be bare, contain `_rules_`, or be a WasmPlugin resource. docs/migrating-from-higress.md lists the
//! differences from Higress.

use std::{collections::HashSet, str::FromStr};

use evenkeel_domain::file_kind::{FileKind, items_of, plugin_of_url, remedy_for};
use schemars::JsonSchema;
use serde::{
    Deserialize,
    de::{
        DeserializeOwned, IntoDeserializer as _,
        value::{self, StrDeserializer},
    },
};
use serde_json::Value;

use self::{
    converter::Converter,
    given::{Used, is_for, reject_other},
    raw::{Resource, Settings, Spec},
    scope::Scope,
};
use super::{
    Faults, Files,
    check::Check,
    limits::{self, raw::RawLimit},
};

mod converter;
mod given;
mod key_groups;
mod keys;
#[cfg(test)]
mod properties;
mod raw;
mod rule_items;
mod scope;
#[cfg(test)]
mod tests;

pub(crate) use keys::KeyMatch;

/// A Higress plugin whose configuration can be converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Plugin {
    AiTokenRatelimit,
    ClusterKeyRateLimit,
}

const PLUGINS: &str = "ai-token-ratelimit or cluster-key-rate-limit";

impl Plugin {
    fn name(self) -> &'static str {
        match self {
            Self::AiTokenRatelimit => "ai-token-ratelimit",
            Self::ClusterKeyRateLimit => "cluster-key-rate-limit",
        }
    }
}

impl FromStr for Plugin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        from_name(text).ok_or_else(|| not_convertible(text))
    }
}

/// Explains a plugin that has no limits to convert.
fn not_convertible(text: &str) -> String {
    match plugin_of_url(text) {
        Some(plugin) if plugin == text => format!("must be {PLUGINS}, got {plugin}: {}", remedy_for(plugin)),
        _ => format!("must be {PLUGINS}, got {text:?}"),
    }
}

/// Which `rule_items` count a request that several of them match. Until its pull request 4011 of June 2026, Higress
/// counted a request only in the first item that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Matching {
    First,
    All,
}

fn from_name<T: DeserializeOwned>(name: &str) -> Option<T> {
    let deserializer: StrDeserializer<'_, value::Error> = name.into_deserializer();
    T::deserialize(deserializer).ok()
}

/// A file with the configuration of a Higress plugin, whose limits the sidecar enforces.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["plugin", "file"]))]
pub(crate) struct RawHigressRules {
    /// Name of the Higress plugin.
    #[schemars(with = "Plugin")]
    pub(super) plugin: Option<String>,
    /// The file with the plugin's configuration, bare or as a WasmPlugin resource. A relative path is resolved against
    /// the configuration file's directory.
    pub(super) file: String,
    /// Which `rule_items` count a request that several of them match. `first`: only the first item, as in Higress until
    /// June 2026. `all`: all of these items, as in later versions of Higress.
    #[schemars(extend("x-default" = "`first`; `all` if the file has both `global_threshold` and `rule_items`"))]
    pub(super) matching: Option<Matching>,
}

/// Returns the limits in one file, each with the path that error messages show for it.
pub(super) fn load(
    check: &mut Check,
    files: &mut Files,
    path: &str,
    raw: &RawHigressRules,
    names: &mut HashSet<String>,
    shows_x: bool,
) -> Vec<(String, RawLimit)> {
    let plugin = match raw.plugin.as_deref().map(str::parse::<Plugin>) {
        Some(Ok(plugin)) => Some(plugin),
        Some(Err(error)) => {
            check.push(format!("{path}.plugin: {error}"));
            None
        }
        None => {
            check.required(&format!("{path}.plugin"), PLUGINS);
            None
        }
    };
    let text = files.read(check, &format!("{path}.file"), &raw.file);
    let (Some(text), Some(plugin)) = (text, plugin) else { return Vec::new() };
    let limits = convert_text(check, &raw.file, plugin, raw.matching, &text, names, shows_x);
    limits.into_iter().map(|limit| (format!("{}: limit {}", raw.file, limit.name), limit)).collect()
}

/// Converts a plugin's configuration to limits in YAML. Returns the YAML and the warnings.
///
/// # Errors
/// Returns every error in the configuration, not only the first.
pub fn convert(
    plugin: Plugin,
    matching: Option<&str>,
    file: &str,
    text: &str,
) -> Result<(String, Vec<String>), Faults> {
    let mut check = Check::default();
    let read = matching.and_then(from_name);
    if let (Some(text), None) = (matching, read) {
        check.fault("matching", "first or all", format!("{text:?}"));
    }
    let limits = convert_text(&mut check, file, plugin, read, text, &mut HashSet::new(), false);
    let yaml = limits::converted_yaml(&mut check, file, &limits);
    let (faults, warnings) = check.into_parts();
    if faults.is_empty() { Ok((yaml, warnings)) } else { Err(Faults(faults)) }
}

fn convert_text(
    check: &mut Check,
    file: &str,
    plugin: Plugin,
    matching: Option<Matching>,
    text: &str,
    names: &mut HashSet<String>,
    shows_x: bool,
) -> Vec<RawLimit> {
    let found = match configurations(check, file, plugin, text) {
        Ok(found) => found,
        Err(fault) => {
            check.push(format!("{file}: {fault}"));
            return Vec::new();
        }
    };
    if found.is_empty() {
        check.fault(file, &format!("a configuration of {}", plugin.name()), "none");
    }
    let mut converter = Converter { check, plugin, matching, names, shows_x, rule_names: HashSet::new() };
    found
        .into_iter()
        .flat_map(|(path, scope, settings)| converter.settings(&path, &scope, &settings))
        .collect()
}

type Found = Vec<(String, Scope, Settings)>;

/// Returns each configuration in the file, with its path and the requests to which it applies.
fn configurations(check: &mut Check, file: &str, plugin: Plugin, text: &str) -> Result<Found, String> {
    let documents: Vec<Value> = super::documents(text)?;
    let mut found = Vec::new();
    if let [document] = &documents[..]
        && document.get("kind").is_none()
    {
        reject_other(plugin, document)?;
        let settings: Settings = super::from_yaml(text)?;
        rules(check, &format!("{file}: "), &Scope::all(), settings, &mut found);
        return Ok(found);
    }
    let resources: Vec<Resource> = super::documents(text)?;
    let mut reasons = Vec::new();
    let mut objects = Vec::new();
    for (i, (resource, document)) in resources.into_iter().zip(&documents).enumerate() {
        match resource.items {
            // What kubectl prints for several objects.
            Some(items) if FileKind::of(document) == Some(FileKind::List) => {
                let of_item = |(n, (item, value))| (format!("document {i}: items[{n}]"), item, value);
                objects.extend(items.into_iter().zip(items_of(document)).enumerate().map(of_item));
            }
            _ => objects.push((format!("document {i}"), resource, document.clone())),
        }
    }
    for (place, resource, document) in objects {
        let path = format!("{file}: {place}");
        let used = match is_for(plugin, &document) {
            Ok(used) => used,
            Err(reason) => {
                check.warn(&path, &format!("is not used: {reason}"));
                reasons.push(format!("{place} {reason}"));
                continue;
            }
        };
        let Some(spec) = resource.spec else { continue };
        if let (Used::ByConfiguration, Some(url)) = (used, &spec.url) {
            let warning = format!("is read as {}, which its url {url:?} does not name", plugin.name());
            check.warn(&path, &warning);
        }
        found.extend(wasm_plugin(check, file, spec));
    }
    if found.is_empty() && !reasons.is_empty() {
        let (name, reasons) = (plugin.name(), reasons.join("; "));
        return Err(format!("must contain a configuration of {name}, got none: {reasons}"));
    }
    Ok(found)
}

fn wasm_plugin(check: &mut Check, file: &str, spec: Spec) -> Found {
    let (mut earlier, mut of_resource) = (Vec::new(), Vec::new());
    for (i, rule) in spec.match_rules.into_iter().enumerate() {
        let path = format!("{file}: spec.matchRules[{i}]");
        let Some(config) = rule.config.filter(|_| !rule.config_disable) else { continue };
        let scope = Scope::new(check, &path, &rule.ingress, &rule.domain, &rule.service, &[]);
        of_resource.push((format!("{path}.config."), scope.after(&earlier), config));
        earlier.push(scope);
    }
    if let Some(config) = spec.default_config.filter(|_| !spec.default_config_disable) {
        let path = format!("{file}: spec.defaultConfig.");
        rules(check, &path, &Scope::all().after(&earlier), config, &mut of_resource);
    }
    scope::merge(of_resource)
}

/// Adds the configurations under `_rules_`. The first rule that matches a request applies. If none matches, the
/// configuration next to `_rules_` applies.
fn rules(check: &mut Check, path: &str, outer: &Scope, mut settings: Settings, found: &mut Found) {
    let mut earlier = Vec::new();
    let rules = settings.rules.take().unwrap_or_default();
    let any = !rules.is_empty();
    for (i, mut rule) in rules.into_iter().enumerate() {
        let path = format!("{path}_rules_[{i}]");
        let list = |field: &mut Option<Vec<String>>| field.take().unwrap_or_default();
        let (routes, domains) = (list(&mut rule.match_route), list(&mut rule.match_domain));
        let (services, prefixes) = (list(&mut rule.match_service), list(&mut rule.match_route_prefix));
        let scope = Scope::new(check, &path, &routes, &domains, &services, &prefixes);
        found.push((format!("{path}."), scope.after(&earlier).within(outer), rule));
        earlier.push(scope);
    }
    // If there are rules, the configuration next to `_rules_` is optional.
    if !any || settings.rule_name.is_some() {
        found.push((path.to_owned(), Scope::all().after(&earlier).within(outer), settings));
    }
}
