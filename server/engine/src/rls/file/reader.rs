//! Reads a file's values, and collects the errors in the file.

use serde_json::{Map, Value};

use super::{DEPTH_MAX, DescriptorRule, Fault, LimitRule, Texts};
use crate::rls::unit::Unit;

/// Maximum length of a domain, key, value or name, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

pub(super) struct Reader<'a> {
    file: &'a str,
    pub(super) faults: Vec<Fault>,
    pub(super) without_effect: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str) -> Self {
        Self { file, faults: Vec::new(), without_effect: Vec::new() }
    }

    pub(super) fn fault(&mut self, path: &str, text: String) {
        self.faults.push(Fault { file: self.file.to_owned(), path: path.to_owned(), text });
    }

    fn must_be(&mut self, path: &str, expected: &str, got: &Value) {
        self.fault(path, format!("must be {expected}, got {}", short(got)));
    }

    pub(super) fn file(&mut self, value: &Value, texts: &Texts) -> (String, Vec<DescriptorRule>) {
        let empty = Map::new();
        let Some(map) = self.map("", value, &empty, &["domain", "descriptors"]) else {
            return Default::default();
        };
        let domain = self.text("domain", map.get("domain"), texts.domain.as_deref());
        if domain.is_none() {
            self.fault("domain", "must be a name, got none".to_owned());
        }
        let texts = texts.descriptors.as_deref().unwrap_or(&[]);
        let descriptors = self.descriptors("descriptors", map.get("descriptors"), texts, 1);
        (domain.unwrap_or_default(), descriptors)
    }

    fn descriptors(
        &mut self,
        path: &str,
        value: Option<&Value>,
        texts: &[Texts],
        depth: usize,
    ) -> Vec<DescriptorRule> {
        let list = match value {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.must_be(path, "a list of descriptors", other);
                return Vec::new();
            }
        };
        if depth > DEPTH_MAX && !list.is_empty() {
            self.fault(path, format!("must be nested at most {DEPTH_MAX} deep, got more"));
            return Vec::new();
        }
        let none = Texts::default();
        let descriptor = |(i, value): (usize, &Value)| {
            self.descriptor(format!("{path}[{i}]"), value, texts.get(i).unwrap_or(&none), depth)
        };
        list.iter().enumerate().map(descriptor).collect()
    }

    fn descriptor(&mut self, path: String, value: &Value, texts: &Texts, depth: usize) -> DescriptorRule {
        const FIELDS: &[&str] = &[
            "key",
            "value",
            "rate_limit",
            "descriptors",
            "shadow_mode",
            "quota_mode",
            "detailed_metric",
            "value_to_metric",
            "share_threshold",
            "metadata",
        ];
        let empty = Map::new();
        if value.is_null() {
            self.must_be(&path, &format!("a map with {}", FIELDS.join(", ")), value);
        }
        let map = self.map(&path, value, &empty, FIELDS).unwrap_or(&empty);
        let at = |field: &str| format!("{path}.{field}");
        let key = self.text(&at("key"), map.get("key"), texts.key.as_deref());
        if key.is_none() && value.is_object() {
            self.fault(&at("key"), "must be a name, got none".to_owned());
        }
        let value = self.text(&at("value"), map.get("value"), texts.value.as_deref());
        let mut flag = |field: &str| self.flag(&at(field), map.get(field));
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
        if map.contains_key("metadata") {
            self.without_effect.push(at("metadata"));
        }
        let none = Texts::default();
        descriptor.limit = match map.get("rate_limit") {
            None | Some(Value::Null) => None,
            Some(value) => self.limit(&at("rate_limit"), value, texts.rate_limit.as_deref().unwrap_or(&none)),
        };
        let nested = texts.descriptors.as_deref().unwrap_or(&[]);
        descriptor.descriptors =
            self.descriptors(&at("descriptors"), map.get("descriptors"), nested, depth + 1);
        descriptor.path = path;
        descriptor
    }

    fn limit(&mut self, path: &str, value: &Value, texts: &Texts) -> Option<LimitRule> {
        const FIELDS: &[&str] = &["unit", "requests_per_unit", "unlimited", "name", "replaces"];
        let empty = Map::new();
        let map = self.map(path, value, &empty, FIELDS)?;
        let at = |field: &str| format!("{path}.{field}");
        let unlimited = self.flag(&at("unlimited"), map.get("unlimited"));
        let unit = map.get("unit").filter(|unit| !unit.is_null());
        let amount = map.get("requests_per_unit").filter(|amount| !amount.is_null());
        let amount = if unlimited {
            if let Some(unit) = unit {
                self.must_be(&at("unit"), "absent where unlimited is true", unit);
            }
            None
        } else {
            let units = "second, minute, hour, day, week, month or year";
            let parsed = unit.and_then(Value::as_str).and_then(Unit::parse);
            if parsed.is_none() {
                self.must_be(&at("unit"), units, unit.unwrap_or(&Value::Null));
            }
            let requests = amount.and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
            if requests.is_none() {
                self.must_be(&at("requests_per_unit"), "0..4294967295", amount.unwrap_or(&Value::Null));
            }
            requests.zip(parsed)
        };
        let name = self.text(&at("name"), map.get("name"), texts.name.as_deref());
        let replaces = self.replaces(
            &at("replaces"),
            map.get("replaces"),
            texts.replaces.as_deref().unwrap_or(&[]),
            name.as_deref(),
        );
        (unlimited || amount.is_some()).then_some(LimitRule { name, amount, replaces })
    }

    fn replaces(
        &mut self,
        path: &str,
        value: Option<&Value>,
        texts: &[Texts],
        name: Option<&str>,
    ) -> Vec<String> {
        let list = match value {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.must_be(path, "a list of names: [{name: a}]", other);
                return Vec::new();
            }
        };
        let mut names = Vec::new();
        for (i, value) in list.iter().enumerate() {
            let (path, empty) = (format!("{path}[{i}]"), Map::new());
            let Some(map) = self.map(&path, value, &empty, &["name"]) else { continue };
            let path = format!("{path}.name");
            match self.text(&path, map.get("name"), texts.get(i).and_then(|t| t.name.as_deref())) {
                None => self.fault(&path, "must be the name of another limit, got none".to_owned()),
                Some(other) if Some(other.as_str()) == name => {
                    self.fault(&path, format!("must be the name of another limit, got its own, {other:?}"));
                }
                Some(other) => names.push(other),
            }
        }
        names
    }

    /// Returns a map. Records an error for each field that is not in `fields`. Null is an empty map.
    fn map<'v>(
        &mut self,
        path: &str,
        value: &'v Value,
        empty: &'v Map<String, Value>,
        fields: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let map = match value {
            Value::Object(map) => map,
            Value::Null => empty,
            other => {
                self.must_be(path, &format!("a map with {}", fields.join(", ")), other);
                return None;
            }
        };
        for field in map.keys().filter(|field| !fields.contains(&field.as_str())) {
            let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
            self.fault(&path, format!("must be one of {}, got a field of another name", fields.join(", ")));
        }
        Some(map)
    }

    /// Returns a text. `None` if the text is absent or empty.
    fn text(&mut self, path: &str, value: Option<&Value>, written: Option<&str>) -> Option<String> {
        let text = match value? {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            scalar @ (Value::Bool(_) | Value::Number(_)) => {
                written.map_or_else(|| scalar.to_string(), str::to_owned)
            }
            other => {
                self.must_be(path, "a text", other);
                return Some(String::new());
            }
        };
        if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            self.must_be(path, "at most 1024 bytes without control characters", &Value::String(text));
            return Some(String::new());
        }
        Some(text).filter(|text| !text.is_empty())
    }

    fn flag(&mut self, path: &str, value: Option<&Value>) -> bool {
        match value {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.must_be(path, "true or false", other);
                false
            }
        }
    }
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
