//! Checks the configurations in the documentation.

use std::path::PathBuf;

use evenkeel_domain::settings::LimitFiles;
use evenkeel_engine::rls::RateLimitMetrics;
use serde_json::Value;

use super::{schema, tests::repository, validator::faults};
use crate::{Config, from_yaml};

/// Every complete configuration in the documentation is valid: each YAML block whose fields are all sections, and each
/// complete file of the rate limit service.
#[test]
fn configurations_in_documents_are_valid() {
    let root = schema();
    let sections = root["properties"].as_object().unwrap();
    let mut files: Vec<PathBuf> = std::fs::read_dir(repository().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .chain([repository().join("README.md")])
        .collect();
    files.sort();
    let (mut count, mut limits) = (0, 0);
    let directory = tempfile::tempdir().unwrap();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let blocks: Vec<String> = match file.extension().and_then(|end| end.to_str()) {
            Some("yaml") => vec![text],
            Some("md") => blocks(&text),
            _ => continue,
        };
        for block in blocks {
            if block.contains("\ndomain: ") && block.contains("\ndescriptors:") {
                limits += 1;
                let limits_file = directory.path().join("limits.yaml");
                std::fs::write(&limits_file, &block).unwrap();
                let source = LimitFiles { path: limits_file, merge_domains: false };
                let loaded = evenkeel_engine::rls::load(&source, &RateLimitMetrics::unregistered());
                assert!(loaded.is_ok(), "{}: {:?} in {block}", file.display(), loaded.err());
                continue;
            }
            let Ok(value @ Value::Object(_)) = from_yaml::<Value>(&block) else { continue };
            if !value.as_object().unwrap().keys().all(|name| sections.contains_key(name)) {
                continue;
            }
            count += 1;
            assert_eq!(faults(&root, &value), [""; 0], "{}: {block}", file.display());
            let found = Config::parse(&block).err().map(|faults| faults.0).unwrap_or_default();
            // The files that the examples name do not exist, so ignore errors about reading them.
            let found: Vec<String> = found.into_iter().filter(|fault| !fault.contains("be read")).collect();
            assert!(found.is_empty(), "{}: {found:?} in {block}", file.display());
        }
    }
    assert!(count >= 20 && limits >= 3, "{count}, {limits}");
}

/// Returns the YAML blocks in a document, including blocks inside a list.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for line in text.lines() {
        let fence = line.trim_start();
        match &mut open {
            None if fence == "```yaml" => open = Some((line.len() - fence.len(), String::new())),
            Some(_) if fence == "```" => blocks.extend(open.take().map(|(_, block)| block)),
            Some((indent, block)) => {
                block.push_str(line.get(*indent..).unwrap_or_default());
                block.push('\n');
            }
            None => {}
        }
    }
    blocks
}
