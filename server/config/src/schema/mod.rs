//! Generates the JSON Schema of the configuration from the raw types. Editors, the Helm chart and
//! docs/configuration-reference.md use the schema.
//!
//! In addition to the standard keywords, the schema has `x-range` (bounds that no keyword can express), `x-type` (the
//! type of a text), `x-default` (a default that is not a fixed value) and `x-reloads` (whether a section is reloaded at
//! runtime). The schema does not contain rules that only validation can check, such as fields that exclude each other.
//! The schema is stricter than the parser in one respect: text that looks like a number needs quotes.

use schemars::{
    Schema,
    generate::SchemaSettings,
    transform::{RecursiveTransform, Transform as _},
};
use serde_json::{Value, json};

use super::{files::RELOADED, raw::RawConfig};

/// Prefix of references to types.
const DEFS: &str = "#/$defs/";

/// Returns the JSON Schema of the configuration, draft 2020-12.
#[must_use]
pub fn schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<RawConfig>();
    RecursiveTransform(strip_null).transform(&mut schema);
    let mut value = schema.to_value();
    if let Some(definitions) = value.get_mut("$defs").and_then(Value::as_object_mut) {
        *definitions =
            std::mem::take(definitions).into_iter().map(|(name, one)| (named(&name), one)).collect();
    }
    if let Some(sections) = value.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, section) in sections {
            section["x-reloads"] = json!(RELOADED.contains(&name.as_str()));
        }
    }
    value
}

/// Returns the name of a type in the schema.
fn named(raw: &str) -> String {
    raw.strip_prefix("Raw").unwrap_or(raw).to_owned()
}

/// Removes null types and number formats: an optional field is omitted from the file, not written as null.
fn strip_null(schema: &mut Schema) {
    let is_null = |value: &Value| value.is_null() || *value == json!("null");
    let without_null = schema.get("anyOf").and_then(Value::as_array).and_then(|any| {
        let [one, other] = any.as_slice() else { return None };
        (other == &json!({"type": "null"})).then(|| one.clone())
    });
    if let Some(Value::Object(one)) = without_null {
        schema.remove("anyOf");
        for (keyword, value) in one {
            schema.insert(keyword, value);
        }
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|one| !is_null(one));
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|one| !is_null(one));
        if let [one] = types.as_slice() {
            let one = one.clone();
            schema.insert("type".to_owned(), one);
        }
    }
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    schema.remove("format");
    if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix(DEFS)) {
        let at = format!("{DEFS}{}", named(name));
        schema.insert("$ref".to_owned(), at.into());
    }
    let required: Vec<String> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(ToOwned::to_owned))
        .collect();
    if let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for name in required {
            if let Some(field) = fields.get_mut(&name).and_then(Value::as_object_mut) {
                field.remove("default");
            }
        }
    }
}

#[cfg(test)]
mod chart;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod validator;
