//! Decides whether a document is a configuration of the plugin to convert, and explains why not.

use evenkeel_domain::file_kind::{FileKind, plugin_of_url};
use serde_json::Value;

use super::Plugin;

/// How a WasmPlugin was recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Used {
    ByUrl,
    /// By its fields: a mirrored image may have any name.
    ByConfiguration,
}

/// Rejects a bare document that is of another kind.
pub(super) fn reject_other(plugin: Plugin, document: &Value) -> Result<(), String> {
    match FileKind::of(document) {
        None => Ok(()),
        Some(FileKind::Higress("ai-token-ratelimit" | "cluster-key-rate-limit")) => {
            match of_other(plugin, document) {
                Some(other) => Err(wrong(plugin, &FileKind::Higress(other.name()))),
                // The converter reports what is wrong with the limits.
                None => Ok(()),
            }
        }
        Some(kind) => Err(wrong(plugin, &kind)),
    }
}

/// Returns the other plugin, if all rates of a document are in that plugin's fields.
fn of_other(plugin: Plugin, document: &Value) -> Option<Plugin> {
    let (own, other, other_plugin) = match plugin {
        Plugin::AiTokenRatelimit => ("\"token_per_", "\"query_per_", Plugin::ClusterKeyRateLimit),
        Plugin::ClusterKeyRateLimit => ("\"query_per_", "\"token_per_", Plugin::AiTokenRatelimit),
    };
    let text = document.to_string();
    (text.contains(other) && !text.contains(own)).then_some(other_plugin)
}

fn wrong(plugin: Plugin, kind: &FileKind) -> String {
    format!("must be a configuration of {}, got {kind}: {}", plugin.name(), kind.remedy())
}

/// Returns whether a document is a WasmPlugin of the plugin.
///
/// # Errors
/// Returns why the document is not used, as the end of a sentence.
pub(super) fn is_for(plugin: Plugin, document: &Value) -> Result<Used, String> {
    let kind = FileKind::of(document);
    if document["kind"] != "WasmPlugin" {
        return Err(match kind {
            Some(kind @ FileKind::Kubernetes(_)) => format!("is {kind}"),
            Some(kind) => format!("is {kind}: {}", kind.remedy()),
            None => "is no WasmPlugin".to_owned(),
        });
    }
    if kind == Some(FileKind::PluginConfig) {
        return Err(format!("is {}: {}", FileKind::PluginConfig, FileKind::PluginConfig.remedy()));
    }
    let spec = &document["spec"];
    let url = spec["url"].as_str().unwrap_or_default();
    match plugin_of_url(url) {
        Some(named) if named == plugin.name() => return Ok(Used::ByUrl),
        Some(named) => {
            let remedy = FileKind::Higress(named).remedy();
            return Err(format!("has the url {url:?}, which names {named}: {remedy}"));
        }
        None => {}
    }
    // Without a known name in the url, the configurations decide.
    let configs = std::iter::once(&spec["defaultConfig"])
        .chain(spec["matchRules"].as_array().into_iter().flatten().map(|rule| &rule["config"]));
    let kinds: Vec<FileKind> = configs.filter_map(FileKind::of).collect();
    if kinds.contains(&FileKind::Higress(plugin.name())) {
        return Ok(Used::ByConfiguration);
    }
    let rather = kinds.first().map_or_else(
        || "and its configuration has no limits".to_owned(),
        |kind| format!("and its configuration is {kind}: {}", kind.remedy()),
    );
    Err(match url {
        "" => format!("has no url, {rather}"),
        url => format!("has the url {url:?}, which names no known plugin, {rather}"),
    })
}
