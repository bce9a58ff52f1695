//! Generates docs/configuration-reference.md from the schema.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{schema, validator::resolved};

const HEAD: &str = "\
# Configuration reference

This page lists every field of the sidecar's configuration file. `evenkeel config-schema` prints the same information as
a JSON Schema. [configuration.md](configuration.md) explains what the sections are for and how they work together.

Times have a unit: `25ms`, `2s`, `1m 30s`. A relative path is resolved against the configuration file's directory. Fields
are optional unless they are marked *required*.

<!-- Generated from the types in server/config by `UPDATE=1 cargo test -p evenkeel-config reference`. -->
";

pub(super) fn reference() -> String {
    let root = schema();
    let mut text = HEAD.to_owned();
    let fields = sorted(&root);
    text.push_str("\n## Top level\n\nChanges to sections marked *reloaded* take effect at runtime. Changes to other sections need a restart.\n");
    text.push_str("\n| field | type | default | bounds | reloaded | meaning |\n|---|---|---|---|---|---|\n");
    for (name, field, required) in &fields {
        let reloaded = if field["x-reloads"] == true { "yes" } else { "no" };
        row(&mut text, &root, name, field, *required, Some(reloaded));
    }
    let mut written = Vec::new();
    for (name, field, _) in &fields {
        sections(&mut text, &root, name, field, &mut written);
    }
    text
}

/// Returns the fields of a type: first the required fields, then the others, both sorted by name.
fn sorted(schema: &Value) -> Vec<(&String, &Value, bool)> {
    let required = |name: &String| {
        schema
            .get("required")
            .and_then(Value::as_array)
            .is_some_and(|all| all.contains(&Value::from(name.as_str())))
    };
    let fields = schema.get("properties").and_then(Value::as_object);
    let mut fields: Vec<_> =
        fields.into_iter().flatten().map(|(name, field)| (name, field, required(name))).collect();
    fields.sort_by_key(|(_, _, required)| !required);
    fields
}

/// Writes the section of a field's type, and the sections of the types of its fields. Writes each type only once.
fn sections<'s>(
    text: &mut String,
    root: &'s Value,
    path: &str,
    field: &'s Value,
    written: &mut Vec<&'s str>,
) {
    let (at, path) = match field.get("items") {
        Some(items) => (items, format!("{path}[]")),
        None => (field, path.to_owned()),
    };
    let Some(name) = at.get("$ref").and_then(Value::as_str) else { return };
    if written.contains(&name) {
        return;
    }
    written.push(name);
    let schema = resolved(root, at);
    let level = if path.contains('.') { "###" } else { "##" };
    let description = line(schema["description"].as_str().unwrap_or_default());
    let anchor = anchor(name);
    write!(text, "\n<a id=\"{anchor}\"></a>\n\n{level} `{path}`\n\n{description}\n").unwrap();
    text.push_str("\n| field | type | default | bounds | meaning |\n|---|---|---|---|---|\n");
    let fields = sorted(schema);
    for (name, field, required) in &fields {
        row(text, root, name, field, *required, None);
    }
    for (name, field, _) in &fields {
        sections(text, root, &format!("{path}.{name}"), field, written);
    }
}

fn anchor(name: &str) -> String {
    name.rsplit('/').next().unwrap_or_default().to_lowercase()
}

fn row(text: &mut String, root: &Value, name: &str, field: &Value, required: bool, reloaded: Option<&str>) {
    let default = match (required, field.get("default"), field.get("x-default")) {
        (true, ..) => "required".to_owned(),
        (_, Some(Value::Array(empty)), None) if empty.is_empty() => "none".to_owned(),
        (_, Some(default), None) => code(default),
        (_, _, Some(words)) => words.as_str().unwrap_or_default().to_owned(),
        (_, None, None) => "–".to_owned(),
    };
    let meaning = field.get("description").or_else(|| resolved(root, field).get("description"));
    let meaning = line(meaning.and_then(Value::as_str).unwrap_or_default());
    let meaning = meaning.strip_suffix('.').unwrap_or(&meaning);
    let cells = [
        Some(kind(field)),
        Some(default),
        Some(bounds(field)),
        reloaded.map(str::to_owned),
        Some(meaning.to_owned()),
    ];
    write!(text, "| `{name}` |").unwrap();
    for cell in cells.into_iter().flatten() {
        let cell = cell.replace('|', "\\|");
        text.push_str(if cell.is_empty() { " |" } else { " " });
        if !cell.is_empty() {
            write!(text, "{cell} |").unwrap();
        }
    }
    text.push('\n');
}

/// Formats a value as in YAML.
fn code(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "`\"\"`".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| code(item).replace('`', "")).collect();
            format!("`[{}]`", items.join(", "))
        }
        other => format!("`{other}`"),
    }
}

fn kind(field: &Value) -> String {
    if let Some(name) = field.get("$ref").and_then(Value::as_str) {
        return format!("[section](#{})", anchor(name));
    }
    if let Some(kind) = field.get("x-type").and_then(Value::as_str) {
        return kind.to_owned();
    }
    let simple = |kind: &str| match kind {
        "string" => "text",
        "integer" => "whole number",
        "boolean" => "true or false",
        "object" => "map of texts",
        other => panic!("{other}: a type without a name in the reference"),
    };
    match (&field["type"], field.get("items")) {
        (Value::String(kind), Some(items)) if kind == "array" => {
            match items.get("$ref").and_then(Value::as_str) {
                Some(name) => format!("list of [sections](#{})", anchor(name)),
                None => format!("list of {}s", self::kind(items)),
            }
        }
        (Value::String(kind), _) if kind == "number" => "number".to_owned(),
        (Value::String(kind), _) => simple(kind).to_owned(),
        other => panic!("no type: {other:?}"),
    }
}

fn bounds(field: &Value) -> String {
    let own = |field: &Value| {
        if let Some(range) = field.get("x-range").and_then(Value::as_str) {
            return range.to_owned();
        }
        if let Some(values) = field.get("enum").and_then(Value::as_array) {
            return values.iter().map(code).collect::<Vec<_>>().join(", ");
        }
        match (field.get("minimum"), field.get("maximum")) {
            (Some(least), Some(most)) if most.as_f64() == Some(f64::from(u32::MAX)) => {
                format!("at least {least}")
            }
            (Some(least), Some(most)) => format!("{least}..{most}"),
            _ => length(field.as_object(), "Length", "bytes"),
        }
    };
    let items = field.get("items").map(own).unwrap_or_default();
    let parts =
        [length(field.as_object(), "Items", "entries"), length(field.as_object(), "Properties", "entries")];
    let outer = if field.get("items").is_some() { String::new() } else { own(field) };
    let each = if items.is_empty() { items } else { format!("each {items}") };
    parts.into_iter().chain([outer, each]).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Formats the bounds `minLength` and `maxLength`, or `minItems` and `maxItems`, or `minProperties` and
/// `maxProperties`.
fn length(field: Option<&Map<String, Value>>, of: &str, unit: &str) -> String {
    let bound = |which: &str| field.and_then(|field| field.get(&format!("{which}{of}")));
    match (bound("min"), bound("max")) {
        (Some(least), Some(most)) => format!("{least}..{most} {unit}"),
        (None, Some(most)) => format!("at most {most} {unit}"),
        (Some(least), None) if of != "Length" => format!("at least {least} {unit}"),
        _ => String::new(),
    }
}

/// Joins the lines of a text.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
