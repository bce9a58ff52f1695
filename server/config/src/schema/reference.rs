//! docs/configuration-reference.md, from the schema.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{judge::followed, schema};

const HEAD: &str = "\
# Configuration reference

Every field of the sidecar's configuration file, from its types: `evenkeel config-schema` prints the same as JSON
Schema. What the parts are for, and how they go together, is in [configuration.md](configuration.md).

Times are written with a unit: `25ms`, `2s`, `1m 30s`. A file named by a relative path is looked for from the
configuration's directory on. Fields without a default may be left out where they are not *required*.

<!-- Made by a test from server/config: `UPDATE=1 cargo test -p evenkeel-config reference` writes it anew. -->
";

/// The document.
pub(super) fn reference() -> String {
    let root = schema();
    let mut text = HEAD.to_owned();
    let fields = sorted(&root);
    text.push_str("\n## Top level\n\nSections that are read again take effect while the sidecar runs; a change of any other needs a restart.\n");
    text.push_str(
        "\n| field | type | default | bounds | read again | meaning |\n|---|---|---|---|---|---|\n",
    );
    for (name, field, required) in &fields {
        let again = if field["x-reloads"] == true { "yes" } else { "no" };
        row(&mut text, &root, name, field, *required, Some(again));
    }
    let mut told = Vec::new();
    for (name, field, _) in &fields {
        sections(&mut text, &root, name, field, &mut told);
    }
    text
}

/// Fields of a shape: what is required first, then by name.
fn sorted(shape: &Value) -> Vec<(&String, &Value, bool)> {
    let required = |name: &String| {
        shape
            .get("required")
            .and_then(Value::as_array)
            .is_some_and(|all| all.contains(&Value::from(name.as_str())))
    };
    let fields = shape.get("properties").and_then(Value::as_object);
    let mut fields: Vec<_> =
        fields.into_iter().flatten().map(|(name, field)| (name, field, required(name))).collect();
    fields.sort_by_key(|(_, _, required)| !required);
    fields
}

/// The section of a field's shape, and those of what it holds. Each shape is told once.
fn sections<'s>(text: &mut String, root: &'s Value, path: &str, field: &'s Value, told: &mut Vec<&'s str>) {
    let (at, path) = match field.get("items") {
        Some(items) => (items, format!("{path}[]")),
        None => (field, path.to_owned()),
    };
    let Some(name) = at.get("$ref").and_then(Value::as_str) else { return };
    if told.contains(&name) {
        return;
    }
    told.push(name);
    let shape = followed(root, at);
    let level = if path.contains('.') { "###" } else { "##" };
    let description = line(shape["description"].as_str().unwrap_or_default());
    let anchor = anchor(name);
    write!(text, "\n<a id=\"{anchor}\"></a>\n\n{level} `{path}`\n\n{description}\n").unwrap();
    text.push_str("\n| field | type | default | bounds | meaning |\n|---|---|---|---|---|\n");
    let fields = sorted(shape);
    for (name, field, required) in &fields {
        row(text, root, name, field, *required, None);
    }
    for (name, field, _) in &fields {
        sections(text, root, &format!("{path}.{name}"), field, told);
    }
}

fn anchor(name: &str) -> String {
    name.rsplit('/').next().unwrap_or_default().to_lowercase()
}

fn row(text: &mut String, root: &Value, name: &str, field: &Value, required: bool, again: Option<&str>) {
    let default = match (required, field.get("default"), field.get("x-default")) {
        (true, ..) => "required".to_owned(),
        (_, Some(Value::Array(empty)), None) if empty.is_empty() => "none".to_owned(),
        (_, Some(default), None) => code(default),
        (_, _, Some(words)) => words.as_str().unwrap_or_default().to_owned(),
        (_, None, None) => "–".to_owned(),
    };
    let meaning = field.get("description").or_else(|| followed(root, field).get("description"));
    let meaning = line(meaning.and_then(Value::as_str).unwrap_or_default());
    let meaning = meaning.strip_suffix('.').unwrap_or(&meaning);
    let cells = [
        Some(kind(field)),
        Some(default),
        Some(bounds(field)),
        again.map(str::to_owned),
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

/// A value as it is written in YAML.
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
        other => panic!("{other}: a type that has no name here"),
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

/// Bounds of a length: `minLength` and `maxLength`, and so on.
fn length(field: Option<&Map<String, Value>>, of: &str, unit: &str) -> String {
    let bound = |which: &str| field.and_then(|field| field.get(&format!("{which}{of}")));
    match (bound("min"), bound("max")) {
        (Some(least), Some(most)) => format!("{least}..{most} {unit}"),
        (None, Some(most)) => format!("at most {most} {unit}"),
        (Some(least), None) if of != "Length" => format!("at least {least} {unit}"),
        _ => String::new(),
    }
}

/// A text in one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
