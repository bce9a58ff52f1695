//! Reads a JSON object field by field. Collects every error instead of stopping at the first.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// A JSON object. [`Fields::finish`] reports the fields that were never read.
pub(super) struct Fields<'a> {
    path: String,
    object: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Starts to read `value`. Records an error if `value` is not an object.
    pub(super) fn of(value: &'a Value, path: String, faults: &mut Vec<String>) -> Self {
        let object = value.as_object();
        if object.is_none() {
            let name = if path.is_empty() { "configuration" } else { &path };
            faults.push(format!("{name}: must be an object, got {}", type_name(value)));
        }
        Fields { path, object, known: Vec::new() }
    }

    /// Returns the full path of a field.
    pub(super) fn name(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    /// Returns the raw value; `None` if the field is absent or `null`.
    pub(super) fn get(&mut self, field: &'static str) -> Option<&'a Value> {
        if !self.known.contains(&field) {
            self.known.push(field);
        }
        self.object?.get(field).filter(|value| !value.is_null())
    }

    /// Reads a string. In error messages, `expected` describes the strings that `check` accepts.
    pub(super) fn text(
        &mut self,
        field: &'static str,
        expected: &str,
        check: impl Fn(&str) -> bool,
        faults: &mut Vec<String>,
    ) -> Option<String> {
        let value = self.get(field)?;
        match value.as_str() {
            Some(text) if check(text) => Some(text.to_owned()),
            Some(text) => {
                faults.push(format!("{}: must be {expected}, got {text:?}", self.name(field)));
                None
            }
            None => {
                faults.push(format!("{}: must be {expected}, got {}", self.name(field), type_name(value)));
                None
            }
        }
    }

    /// Reads an integer from `min` to `max`.
    pub(super) fn whole(
        &mut self,
        field: &'static str,
        min: u64,
        max: u64,
        faults: &mut Vec<String>,
    ) -> Option<u64> {
        let value = self.get(field)?;
        // Gateways that store the configuration as a protobuf Struct print integers as doubles.
        let number = value.as_u64().or_else(|| {
            let double = value.as_f64()?;
            (double.fract() == 0.0 && (0.0..9e15).contains(&double)).then_some(double as u64)
        });
        match number {
            Some(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                faults.push(format!(
                    "{}: must be a whole number from {min} to {max}, got {value}",
                    self.name(field)
                ));
                None
            }
        }
    }

    /// Reads a number that is 0 or within `bounds`. `expected` contains the bounds as text, because code that formats
    /// floating-point numbers would add 14 KB to the module.
    pub(super) fn number_or_0(
        &mut self,
        field: &'static str,
        bounds: RangeInclusive<f64>,
        expected: &str,
        faults: &mut Vec<String>,
    ) -> Option<f64> {
        let value = self.get(field)?;
        match value.as_f64() {
            Some(number) if number == 0.0 || bounds.contains(&number) => Some(number),
            _ => {
                let name = self.name(field);
                faults.push(format!("{name}: must be {expected}, got {value}"));
                None
            }
        }
    }

    pub(super) fn flag(&mut self, field: &'static str, faults: &mut Vec<String>) -> Option<bool> {
        let value = self.get(field)?;
        if value.as_bool().is_none() {
            faults.push(format!("{}: must be true or false, got {}", self.name(field), type_name(value)));
        }
        value.as_bool()
    }

    /// Reads a list of at most `len_max` values. Returns each value with its full path.
    pub(super) fn list(
        &mut self,
        field: &'static str,
        len_max: usize,
        faults: &mut Vec<String>,
    ) -> Vec<(String, &'a Value)> {
        let Some(value) = self.get(field) else { return Vec::new() };
        let name = self.name(field);
        match value.as_array() {
            Some(items) if items.len() <= len_max => {
                items.iter().enumerate().map(|(i, item)| (format!("{name}[{i}]"), item)).collect()
            }
            Some(items) => {
                faults.push(format!("{name}: must have at most {len_max} entries, got {}", items.len()));
                Vec::new()
            }
            None => {
                faults.push(format!("{name}: must be a list, got {}", type_name(value)));
                Vec::new()
            }
        }
    }

    /// Reports fields that were never read.
    pub(super) fn finish(self, faults: &mut Vec<String>) {
        let Some(object) = self.object else { return };
        for field in object.keys().filter(|field| !self.known.contains(&field.as_str())) {
            let known = self.known.join(", ");
            faults.push(format!("{}: unknown field; must be one of {known}", self.name(field)));
        }
    }
}

/// Returns the type of a value, for error messages.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
