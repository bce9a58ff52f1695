//! Limits from the configuration of Higress's plugins `ai-token-ratelimit` and `cluster-key-rate-limit`, as their users
//! have it: bare, with `_rules_`, or as a WasmPlugin resource. docs/migrating-from-higress.md says what differs.

use std::{collections::HashSet, str::FromStr};

use serde::Serialize;

use self::{
    raw::{Resource, Settings},
    rule::Converter,
    scope::Scope,
};
use super::{
    Faults, Files,
    limits::{
        self,
        raw::{RawHigressRules, RawLimit},
    },
    validate::Check,
};

mod keys;
#[cfg(test)]
mod properties;
mod raw;
mod rule;
mod scope;
#[cfg(test)]
mod tests;

/// A plugin of Higress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// `ai-token-ratelimit`.
    AiTokenRatelimit,
    /// `cluster-key-rate-limit`.
    ClusterKeyRateLimit,
}

impl Plugin {
    const NAMES: &str = "ai-token-ratelimit or cluster-key-rate-limit";

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
        [Self::AiTokenRatelimit, Self::ClusterKeyRateLimit]
            .into_iter()
            .find(|plugin| plugin.name() == text)
            .ok_or_else(|| format!("must be {}", Self::NAMES))
    }
}

/// Which `rule_items` count a request that several match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matching {
    /// The first: Higress before its pull request 4011 of June 2026.
    First,
    /// All: Higress since.
    All,
}

impl Matching {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "first" => Some(Self::First),
            "all" => Some(Self::All),
            _ => None,
        }
    }
}

/// The limits of one file, each with the path that names it in faults.
pub(super) fn load(
    check: &mut Check,
    files: &mut Files,
    path: &str,
    raw: &RawHigressRules,
    names: &mut HashSet<String>,
    shows_x: bool,
) -> Vec<(String, RawLimit)> {
    let plugin = raw.plugin.parse::<Plugin>();
    if plugin.is_err() {
        check.fault(&format!("{path}.plugin"), Plugin::NAMES, format!("{:?}", raw.plugin));
    }
    let matching = raw.matching.as_deref().and_then(Matching::parse);
    if let (Some(text), None) = (&raw.matching, matching) {
        check.fault(&format!("{path}.matching"), "first or all", format!("{text:?}"));
    }
    let text = match files.read(&raw.file) {
        Ok(text) => text,
        Err(error) => {
            let got = format!("{:?}: {error}", raw.file);
            check.fault(&format!("{path}.file"), "a file that can be read", got);
            return Vec::new();
        }
    };
    let Ok(plugin) = plugin else { return Vec::new() };
    let limits = convert_text(check, &raw.file, plugin, matching, &text, names, shows_x);
    limits.into_iter().map(|limit| (format!("{}: limit {}", raw.file, limit.name), limit)).collect()
}

/// The same limits as Evenkeel's own YAML, and what there is to say about them.
///
/// # Errors
/// All faults found.
pub fn convert(
    plugin: Plugin,
    matching: Option<&str>,
    file: &str,
    text: &str,
) -> Result<(String, Vec<String>), Faults> {
    #[derive(Serialize)]
    struct Converted<'a> {
        limits: &'a [RawLimit],
    }

    let mut check = Check::default();
    let read = matching.and_then(Matching::parse);
    if let (Some(text), None) = (matching, read) {
        check.fault("matching", "first or all", format!("{text:?}"));
    }
    let limits = convert_text(&mut check, file, plugin, read, text, &mut HashSet::new(), false);
    limits::check_alone(&mut check, file, &limits);
    let (mut faults, warnings) = check.into_parts();
    let yaml = serde_saphyr::to_string(&Converted { limits: &limits });
    let yaml = yaml.unwrap_or_else(|error| {
        faults.push(format!("{file}: {error}"));
        String::new()
    });
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

/// Each configuration in the file with its path and the requests it is for.
fn configurations(check: &mut Check, file: &str, plugin: Plugin, text: &str) -> Result<Found, String> {
    let options = || serde_saphyr::options! { with_snippet: false };
    let yaml = |error: serde_saphyr::Error| super::redact(&error.to_string());
    let resources: Vec<Resource> = serde_saphyr::from_multiple_with_options(text, options()).map_err(yaml)?;
    let mut found = Vec::new();
    if resources.iter().all(|resource| resource.kind.is_none()) {
        let settings: Settings = super::from_yaml(text)?;
        rules(check, &format!("{file}: "), &Scope::all(), settings, &mut found);
        return Ok(found);
    }
    for (i, resource) in resources.into_iter().enumerate() {
        let Some(spec) = resource.spec.filter(|_| resource.kind.as_deref() == Some("WasmPlugin")) else {
            continue;
        };
        if spec.url.as_deref().is_some_and(|url| !url.contains(plugin.name())) {
            check.warn(&format!("{file}: document {i}"), "is not used: its url names another plugin");
            continue;
        }
        let mut earlier = Vec::new();
        let mut of_resource = Vec::new();
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
        found.extend(scope::merge(of_resource));
    }
    Ok(found)
}

/// Takes apart `_rules_`: the first that matches applies, and else what stands beside them.
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
    // Beside rules, there need not be a configuration for the rest.
    if !any || settings.rule_name.is_some() {
        found.push((path.to_owned(), Scope::all().after(&earlier).within(outer), settings));
    }
}
