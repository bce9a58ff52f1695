//! Reads a file's values, and collects the errors in the file.

use serde_json::{Map, Value};

use super::{DEPTH_MAX, DescriptorRule, Fault, LimitRule, Written, fields::Level};
use crate::rls::unit::Unit;

/// Maximum length of a domain, key, value or name, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// envoyproxy/ratelimit reads `010` as 8, and other programs as 10.
const OCTAL: &str = " without a leading 0, which some programs read as octal";

pub(super) struct Reader<'a> {
    file: &'a str,
    pub(super) faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str) -> Self {
        Self { file, faults: Vec::new() }
    }

    pub(super) fn fault(&mut self, path: &str, text: String) {
        self.faults.push(Fault { file: self.file.to_owned(), path: path.to_owned(), text });
    }

    /// Reports a wrong value. A number or a flag is repeated as it was written.
    fn must_be(&mut self, path: &str, expected: &str, got: &Value, written: &Written) {
        let got = written.scalar().map_or_else(|| short(got), str::to_owned);
        self.fault(path, format!("must be {expected}, got {got}"));
    }

    pub(super) fn file(&mut self, value: &Value, written: &Written) -> (String, Vec<DescriptorRule>) {
        let empty = Map::new();
        let Some(map) = self.map("", value, written, &empty, Level::File) else {
            return Default::default();
        };
        // Envoy Gateway writes a name above the domain. The limits belong to the domain.
        self.text("name", map.get("name"), written.field("name"));
        let domain = self.text("domain", map.get("domain"), written.field("domain"));
        if domain.is_none() {
            self.fault("domain", "must be a name, got none".to_owned());
        }
        let written = written.field("descriptors");
        let descriptors = self.descriptors("descriptors", map.get("descriptors"), written, 1);
        (domain.unwrap_or_default(), descriptors)
    }

    fn descriptors(
        &mut self,
        path: &str,
        value: Option<&Value>,
        written: &Written,
        depth: usize,
    ) -> Vec<DescriptorRule> {
        let list = match value {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.must_be(path, "a list of descriptors", other, written);
                return Vec::new();
            }
        };
        if depth > DEPTH_MAX && !list.is_empty() {
            self.fault(path, format!("must be nested at most {DEPTH_MAX} deep, got more"));
            return Vec::new();
        }
        let descriptor = |(i, value): (usize, &Value)| {
            self.descriptor(format!("{path}[{i}]"), value, written.item(i), depth)
        };
        list.iter().enumerate().map(descriptor).collect()
    }

    fn descriptor(&mut self, path: String, value: &Value, written: &Written, depth: usize) -> DescriptorRule {
        let empty = Map::new();
        if value.is_null() {
            self.must_be(&path, &a_map(Level::Descriptor), value, written);
        }
        let map = self.map(&path, value, written, &empty, Level::Descriptor).unwrap_or(&empty);
        let at = |field: &str| format!("{path}.{field}");
        let key = self.text(&at("key"), map.get("key"), written.field("key"));
        if key.is_none() && value.is_object() {
            self.fault(&at("key"), "must be a name, got none".to_owned());
        }
        let value = self.text(&at("value"), map.get("value"), written.field("value"));
        let mut flag = |field: &str| self.flag(&at(field), map.get(field), written.field(field));
        let mut descriptor = DescriptorRule {
            key: key.unwrap_or_default(),
            value,
            shadow: flag("shadow_mode"),
            quota: flag("quota_mode"),
            detailed_metric: flag("detailed_metric"),
            value_to_metric: flag("value_to_metric"),
            share_threshold: flag("share_threshold"),
            ..DescriptorRule::default()
        };
        if descriptor.share_threshold && !descriptor.value.as_deref().is_some_and(|value| value.contains('*'))
        {
            let got = match &descriptor.value {
                Some(value) => format!("the value {value:?}"),
                None => "no value".to_owned(),
            };
            self.fault(
                &at("share_threshold"),
                format!("must be false unless the value holds a *, got {got}"),
            );
        }
        descriptor.metadata = match map.get("metadata") {
            None | Some(Value::Null) => None,
            Some(Value::Object(metadata)) => Some(metadata.clone()),
            Some(other) => {
                self.must_be(&at("metadata"), "a map", other, written.field("metadata"));
                None
            }
        };
        descriptor.limit = match map.get("rate_limit") {
            None | Some(Value::Null) => None,
            Some(value) => self.limit(&at("rate_limit"), value, written.field("rate_limit")),
        };
        let nested = written.field("descriptors");
        descriptor.descriptors =
            self.descriptors(&at("descriptors"), map.get("descriptors"), nested, depth + 1);
        descriptor.path = path;
        descriptor
    }

    fn limit(&mut self, path: &str, value: &Value, written: &Written) -> Option<LimitRule> {
        let empty = Map::new();
        let map = self.map(path, value, written, &empty, Level::Limit)?;
        let at = |field: &str| format!("{path}.{field}");
        let unlimited = self.flag(&at("unlimited"), map.get("unlimited"), written.field("unlimited"));
        let is_unset = |unit: &&Value| unit.is_null() || unlimited && is_no_unit(unit);
        let unit = map.get("unit").filter(|unit| !is_unset(unit));
        let amount = map.get("requests_per_unit").filter(|amount| !amount.is_null());
        let amount = if unlimited {
            if let Some(unit) = unit {
                self.must_be(&at("unit"), "absent where unlimited is true", unit, written.field("unit"));
            }
            None
        } else {
            let units = "second, minute, hour, day, week, month or year";
            let parsed = unit.and_then(Value::as_str).and_then(Unit::parse);
            if parsed.is_none() {
                self.must_be(&at("unit"), units, unit.unwrap_or(&Value::Null), written.field("unit"));
            }
            let requests = amount.and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
            if requests.is_none() {
                let written = written.field("requests_per_unit");
                let is_octal = written.scalar().is_some_and(|text| text.len() > 1 && text.starts_with('0'));
                let octal = if is_octal { OCTAL } else { "" };
                let got = amount.unwrap_or(&Value::Null);
                let expected = format!("a whole number in 0..4294967295{octal}");
                self.must_be(&at("requests_per_unit"), &expected, got, written);
            }
            requests.zip(parsed)
        };
        let name = self.text(&at("name"), map.get("name"), written.field("name"));
        let replaces =
            self.replaces(&at("replaces"), map.get("replaces"), written.field("replaces"), name.as_deref());
        (unlimited || amount.is_some()).then_some(LimitRule { name, amount, replaces })
    }

    fn replaces(
        &mut self,
        path: &str,
        value: Option<&Value>,
        written: &Written,
        name: Option<&str>,
    ) -> Vec<String> {
        let list = match value {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.must_be(path, "a list of names: [{name: a}]", other, written);
                return Vec::new();
            }
        };
        let mut names = Vec::new();
        for (i, value) in list.iter().enumerate() {
            let (path, empty) = (format!("{path}[{i}]"), Map::new());
            let written = written.item(i);
            let Some(map) = self.map(&path, value, written, &empty, Level::Replaced) else { continue };
            let path = format!("{path}.name");
            match self.text(&path, map.get("name"), written.field("name")) {
                None => self.fault(&path, "must be the name of another limit, got none".to_owned()),
                Some(other) if Some(other.as_str()) == name => {
                    self.fault(&path, format!("must be the name of another limit, got its own, {other:?}"));
                }
                Some(other) => names.push(other),
            }
        }
        names
    }

    /// Returns a map. Records an error for each field that the level does not have. Null is an empty map.
    fn map<'v>(
        &mut self,
        path: &str,
        value: &'v Value,
        written: &Written,
        empty: &'v Map<String, Value>,
        level: Level,
    ) -> Option<&'v Map<String, Value>> {
        let map = match value {
            Value::Object(map) => map,
            Value::Null => empty,
            other => {
                self.must_be(path, &a_map(level), other, written);
                return None;
            }
        };
        for field in map.keys().filter(|field| !level.fields().contains(&field.as_str())) {
            let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
            self.fault(&path, level.explain(field));
        }
        Some(map)
    }

    /// Returns a text. `None` if the text is absent or empty.
    fn text(&mut self, path: &str, value: Option<&Value>, written: &Written) -> Option<String> {
        let text = match value? {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            scalar @ (Value::Bool(_) | Value::Number(_)) => {
                written.scalar().map_or_else(|| scalar.to_string(), str::to_owned)
            }
            other => {
                self.must_be(path, "a text", other, written);
                return Some(String::new());
            }
        };
        if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            let expected = "at most 1024 bytes without control characters";
            self.must_be(path, expected, &Value::String(text), &Written::Plain);
            return Some(String::new());
        }
        Some(text).filter(|text| !text.is_empty())
    }

    fn flag(&mut self, path: &str, value: Option<&Value>, written: &Written) -> bool {
        match value {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.must_be(path, "true or false", other, written);
                false
            }
        }
    }
}

fn a_map(level: Level) -> String {
    format!("a map with {}", level.fields().join(", "))
}

/// Returns whether a unit is a placeholder, which programs write beside `unlimited`.
fn is_no_unit(unit: &Value) -> bool {
    unit.as_str().is_some_and(|unit| unit.is_empty() || unit.eq_ignore_ascii_case("unknown"))
}

/// Formats a value for an error message.
fn short(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
        Value::String(text) if text.chars().count() > 64 => {
            format!("{:?}…", text.chars().take(64).collect::<String>())
        }
        Value::String(text) => format!("{text:?}"),
        scalar => scalar.to_string(),
    }
}
