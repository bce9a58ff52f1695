//! Inserts the schema into the schema of the Helm chart's values, so that `helm install` rejects a misspelt field.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::schema;

/// Texts with which `config` and the definitions begin in the chart's schema.
const SECTION: &str = "\n    \"config\": {\n";
const DEFINITIONS: &str = "\n  \"definitions\": {";

/// Returns the chart's schema with the schema of the configuration inserted. Helm supports draft 7, which has
/// `definitions` in place of `$defs`.
fn with_config(chart: &str) -> String {
    let mut own: Value =
        serde_json::from_str(&schema().to_string().replace("#/$defs/", "#/definitions/")).unwrap();
    let fields = own.as_object_mut().unwrap();
    let mut definitions = fields.remove("$defs").unwrap();
    for keyword in ["$schema", "title"] {
        fields.remove(keyword);
    }
    fields
        .insert("description".into(), json!("The sidecar's configuration, docs/configuration-reference.md."));
    // The chart itself sets the path of the limit files.
    definitions["RateLimitService"].as_object_mut().unwrap().remove("required");
    let (before, rest) = chart.split_once(SECTION).unwrap();
    let (_, after) = rest.split_once("\n    },\n").unwrap();
    let after = after
        .split_once(DEFINITIONS)
        .map_or_else(|| after.strip_suffix("\n}\n").unwrap(), |(after, _)| after.strip_suffix(',').unwrap());
    let indented = |value: &Value, by: &str| {
        serde_json::to_string_pretty(value).unwrap().replace('\n', &format!("\n{by}"))
    };
    format!(
        "{before}\n    \"config\": {},\n{after},\n  \"definitions\": {}\n}}\n",
        indented(&own, "    "),
        indented(&definitions, "  ")
    )
}

/// With `UPDATE=1`, regenerates the chart's schema.
#[test]
fn the_charts_schema_contains_the_configuration() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../helm/evenkeel/values.schema.json");
    let written = std::fs::read_to_string(&path).unwrap();
    let made = with_config(&written);
    serde_json::from_str::<Value>(&made).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &made).unwrap();
    } else {
        assert!(
            made == written,
            "UPDATE=1 cargo test -p evenkeel-config schema regenerates {}",
            path.display()
        );
    }
}
