//! Validates a value against the schema. Implements the part of JSON Schema that the schema uses, and panics on any
//! other keyword.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value};

/// Keywords that do not constrain a value.
const ANNOTATIONS: [&str; 11] = [
    "$schema",
    "$defs",
    "title",
    "description",
    "default",
    "examples",
    "x-range",
    "x-type",
    "x-default",
    "x-reloads",
    "$comment",
];

/// Returns the errors of a value, each with its path.
pub(super) fn faults(root: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    Validator { root }.validate(root, value, "", &mut faults);
    faults
}

/// Resolves a schema's `$ref`, if it has one.
pub(super) fn resolved<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let Some(at) = schema.get("$ref").and_then(Value::as_str) else { return schema };
    root.pointer(at.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{at} does not resolve"))
}

struct Validator<'s> {
    root: &'s Value,
}

impl Validator<'_> {
    fn validate(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let keywords = match schema {
            Value::Bool(true) => return,
            Value::Object(keywords) => keywords,
            other => panic!("not a schema: {other}"),
        };
        for (keyword, wanted) in keywords {
            if !ANNOTATIONS.contains(&keyword.as_str())
                && !self.holds(keywords, keyword, wanted, value, at, faults)
            {
                faults.push(format!("{at}: {keyword} {wanted}, got {value}"));
            }
        }
    }

    /// Returns whether a keyword holds. Adds the errors of inner values to `faults`.
    fn holds(
        &self,
        keywords: &Map<String, Value>,
        keyword: &str,
        wanted: &Value,
        value: &Value,
        at: &str,
        faults: &mut Vec<String>,
    ) -> bool {
        let bound = || usize::try_from(wanted.as_u64().unwrap()).unwrap();
        let number = wanted.as_f64();
        let length = |value: &str| value.chars().count();
        match (keyword, value) {
            ("type", _) => match wanted {
                Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
                kind => is(kind, value),
            },
            ("enum", _) => wanted.as_array().unwrap().contains(value),
            ("$ref", _) => {
                let to = resolved(self.root, &Value::Object(keywords.clone())).clone();
                self.validate(&to, value, at, faults);
                true
            }
            ("anyOf", _) => wanted.as_array().unwrap().iter().any(|one| {
                let mut inner = Vec::new();
                self.validate(one, value, at, &mut inner);
                inner.is_empty()
            }),
            ("properties", Value::Object(fields)) => {
                for (name, schema) in wanted.as_object().unwrap() {
                    if let Some(value) = fields.get(name) {
                        self.validate(schema, value, &format!("{at}.{name}"), faults);
                    }
                }
                true
            }
            ("additionalProperties", Value::Object(fields)) => {
                let none = Map::new();
                let known = keywords.get("properties").and_then(Value::as_object).unwrap_or(&none);
                for (name, value) in fields.iter().filter(|(name, _)| !known.contains_key(*name)) {
                    match wanted {
                        Value::Bool(false) => faults.push(format!("{at}.{name}: unknown")),
                        schema => self.validate(schema, value, &format!("{at}.{name}"), faults),
                    }
                }
                true
            }
            ("required", Value::Object(fields)) => {
                wanted.as_array().unwrap().iter().all(|name| fields.contains_key(name.as_str().unwrap()))
            }
            ("minProperties", Value::Object(fields)) => fields.len() >= bound(),
            ("maxProperties", Value::Object(fields)) => fields.len() <= bound(),
            ("items", Value::Array(items)) => {
                for (i, item) in items.iter().enumerate() {
                    self.validate(wanted, item, &format!("{at}[{i}]"), faults);
                }
                true
            }
            ("minItems", Value::Array(items)) => items.len() >= bound(),
            ("maxItems", Value::Array(items)) => items.len() <= bound(),
            ("uniqueItems", Value::Array(items)) => {
                items.iter().map(ToString::to_string).collect::<BTreeSet<_>>().len() == items.len()
            }
            ("minLength", Value::String(text)) => length(text) >= bound(),
            ("maxLength", Value::String(text)) => length(text) <= bound(),
            ("pattern", Value::String(text)) => Regex::new(wanted.as_str().unwrap()).unwrap().is_match(text),
            ("minimum", Value::Number(value)) => value.as_f64() >= number,
            ("maximum", Value::Number(value)) => value.as_f64() <= number,
            ("exclusiveMinimum", Value::Number(value)) => value.as_f64() > number,
            (
                "properties"
                | "additionalProperties"
                | "required"
                | "minProperties"
                | "maxProperties"
                | "items"
                | "minItems"
                | "maxItems"
                | "uniqueItems"
                | "minLength"
                | "maxLength"
                | "pattern"
                | "minimum"
                | "maximum"
                | "exclusiveMinimum",
                _,
            ) => true,
            (other, _) => panic!("{other}: unknown keyword"),
        }
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("{other}: unknown type"),
    }
}
