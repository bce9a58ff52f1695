//! Files of limits as users of envoyproxy/ratelimit have them: shapes and judgement. Every fault of a file is found,
//! with its place; a file is read twice for that: once into any shape, and once for scalars as they were written
//! (`value: 1.10` is the text `1.10`).

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::unit::Unit;

/// Most descriptors within descriptors.
pub(super) const DEPTH_MAX: usize = 16;
/// Longest domain, key, value and name, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Most faults told of one file: beyond it, reading them helps nobody.
const FAULTS_MAX: usize = 100;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// Path within it; empty where it is about the file.
    pub path: String,
    /// What must be, and what is.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, path, text } = self;
        if path.is_empty() { write!(f, "{file}: {text}") } else { write!(f, "{file}: {path}: {text}") }
    }
}

/// One file, read.
#[derive(Debug)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) domain: String,
    pub(super) rules: Vec<Rule>,
    /// Fields that are understood and have no effect.
    pub(super) without_effect: Vec<String>,
}

/// One descriptor of a file.
#[derive(Debug, Default)]
pub(super) struct Rule {
    /// Where it stands: `descriptors[2]`.
    pub(super) path: String,
    pub(super) key: String,
    /// `None`: any value.
    pub(super) value: Option<String>,
    pub(super) limit: Option<LimitRule>,
    pub(super) rules: Vec<Rule>,
    pub(super) shadow: bool,
    pub(super) quota: bool,
    pub(super) detailed_metric: bool,
    pub(super) value_to_metric: bool,
    pub(super) share_threshold: bool,
}

/// The limit of a descriptor.
#[derive(Debug)]
pub(super) struct LimitRule {
    pub(super) name: Option<String>,
    /// `None`: unlimited.
    pub(super) amount: Option<(u32, Unit)>,
    /// Names of the limits it takes the place of.
    pub(super) replaces: Vec<String>,
}

/// Scalars as they were written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Texts {
    domain: Option<String>,
    key: Option<String>,
    value: Option<String>,
    name: Option<String>,
    rate_limit: Option<Box<Texts>>,
    replaces: Option<Vec<Texts>>,
    descriptors: Option<Vec<Texts>>,
}

impl File {
    /// Reads one.
    ///
    /// # Errors
    /// All its faults.
    pub(super) fn parse(name: &str, yaml: &str) -> Result<Self, Vec<Fault>> {
        let options = || serde_saphyr::options! { with_snippet: false };
        let mut reader = Reader { file: name, faults: Vec::new(), without_effect: Vec::new() };
        let value: Value = match serde_saphyr::from_str_with_options(yaml, options()) {
            Ok(value) => value,
            Err(error) => {
                reader.fault("", format!("must be YAML: {error}"));
                return Err(reader.faults);
            }
        };
        // Where shapes are wrong it fails, as they are told of below.
        let texts: Result<Texts, _> = serde_saphyr::from_str_with_options(yaml, options());
        let failed = texts.as_ref().err().map(ToString::to_string);
        let file = reader.file(&value, &texts.unwrap_or_default());
        if let (Some(error), true) = (failed, reader.faults.is_empty()) {
            // Texts would not be as they were written.
            reader.fault("", format!("must hold texts where texts are due: {error}"));
        }
        let Reader { mut faults, without_effect, .. } = reader;
        if faults.is_empty() {
            return Ok(Self { name: name.to_owned(), domain: file.0, rules: file.1, without_effect });
        }
        if faults.len() > FAULTS_MAX {
            let more = faults.len() - FAULTS_MAX;
            faults.truncate(FAULTS_MAX);
            faults.push(Fault {
                file: name.to_owned(),
                path: String::new(),
                text: format!("{more} more faults"),
            });
        }
        Err(faults)
    }
}

struct Reader<'a> {
    file: &'a str,
    faults: Vec<Fault>,
    without_effect: Vec<String>,
}

impl Reader<'_> {
    fn fault(&mut self, path: &str, text: String) {
        self.faults.push(Fault { file: self.file.to_owned(), path: path.to_owned(), text });
    }

    fn must_be(&mut self, path: &str, expected: &str, got: &Value) {
        self.fault(path, format!("must be {expected}, got {}", short(got)));
    }

    fn file(&mut self, value: &Value, texts: &Texts) -> (String, Vec<Rule>) {
        let empty = Map::new();
        let Some(map) = self.map("", value, &empty, &["domain", "descriptors"]) else {
            return Default::default();
        };
        let domain = self.text("domain", map.get("domain"), texts.domain.as_deref());
        if domain.is_none() {
            self.fault("domain", "must be a name, got none".to_owned());
        }
        let rules =
            self.rules("descriptors", map.get("descriptors"), texts.descriptors.as_deref().unwrap_or(&[]), 1);
        (domain.unwrap_or_default(), rules)
    }

    fn rules(&mut self, path: &str, value: Option<&Value>, texts: &[Texts], depth: usize) -> Vec<Rule> {
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
        let rules = list
            .iter()
            .enumerate()
            .map(|(i, value)| self.rule(format!("{path}[{i}]"), value, texts.get(i).unwrap_or(&none), depth));
        rules.collect()
    }

    fn rule(&mut self, path: String, value: &Value, texts: &Texts, depth: usize) -> Rule {
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
        let mut rule = Rule {
            key: key.unwrap_or_default(),
            value,
            shadow: flag("shadow_mode"),
            quota: flag("quota_mode"),
            detailed_metric: flag("detailed_metric"),
            value_to_metric: flag("value_to_metric"),
            share_threshold: flag("share_threshold"),
            ..Rule::default()
        };
        if rule.share_threshold && !rule.value.as_deref().is_some_and(|value| value.contains('*')) {
            let got =
                rule.value.as_ref().map_or("no value".to_owned(), |value| format!("the value {value:?}"));
            self.fault(
                &at("share_threshold"),
                format!("must be false unless the value holds a *, got {got}"),
            );
        }
        if map.contains_key("metadata") {
            self.without_effect.push(at("metadata"));
        }
        let none = Texts::default();
        rule.limit = match map.get("rate_limit") {
            None | Some(Value::Null) => None,
            Some(value) => self.limit(&at("rate_limit"), value, texts.rate_limit.as_deref().unwrap_or(&none)),
        };
        let nested = texts.descriptors.as_deref().unwrap_or(&[]);
        rule.rules = self.rules(&at("descriptors"), map.get("descriptors"), nested, depth + 1);
        rule.path = path;
        rule
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
        own: Option<&str>,
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
                Some(name) if own == Some(name.as_str()) => {
                    self.fault(&path, format!("must be the name of another limit, got its own, {name:?}"));
                }
                Some(name) => names.push(name),
            }
        }
        names
    }

    /// A map with these fields and no others; null is an empty one.
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

    /// A text; `None` where there is none, or an empty one.
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

/// A value as faults show it.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(yaml: &str) -> Vec<String> {
        File::parse("a.yaml", yaml).expect_err("accepted").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        let found = faults(
            "domain: ''\n\
             extra: 1\n\
             descriptors:\n\
             - {value: a, rate_limit: {unit: fortnight, requests_per_unit: 5}}\n\
             - key: b\n  \
               shadow_mode: maybe\n  \
               rate_limit: {unlimited: true, unit: day, name: x, replaces: [{name: x}, {name: ''}, 3]}\n  \
               descriptors:\n  \
               - {key: c, ratelimit: {}, rate_limit: {unit: HOUR, requests_per_unit: many}}\n  \
               - {key: d, value: e, share_threshold: true, descriptors: 7}\n\
             - 9\n\
             - {key: [], rate_limit: {}}\n\
             - {key: f, rate_limit: {unit: second, requests_per_unit: 4294967296}}\n",
        );
        let expected = [
            "a.yaml: extra: must be one of domain, descriptors, got a field of another name",
            "a.yaml: domain: must be a name, got none",
            "a.yaml: descriptors[0].key: must be a name, got none",
            "a.yaml: descriptors[0].rate_limit.unit: must be second, minute, hour, day, week, month or year, got \
             \"fortnight\"",
            "a.yaml: descriptors[1].shadow_mode: must be true or false, got \"maybe\"",
            "a.yaml: descriptors[1].rate_limit.unit: must be absent where unlimited is true, got \"day\"",
            "a.yaml: descriptors[1].rate_limit.replaces[0].name: must be the name of another limit, got its own, \
             \"x\"",
            "a.yaml: descriptors[1].rate_limit.replaces[1].name: must be the name of another limit, got none",
            "a.yaml: descriptors[1].rate_limit.replaces[2]: must be a map with name, got 3",
            "a.yaml: descriptors[1].descriptors[0].ratelimit: must be one of key, value, rate_limit, descriptors, \
             shadow_mode, quota_mode, detailed_metric, value_to_metric, share_threshold, metadata, got a field of \
             another name",
            "a.yaml: descriptors[1].descriptors[0].rate_limit.requests_per_unit: must be 0..4294967295, got \"many\"",
            "a.yaml: descriptors[1].descriptors[1].share_threshold: must be false unless the value holds a *, got the \
             value \"e\"",
            "a.yaml: descriptors[1].descriptors[1].descriptors: must be a list of descriptors, got 7",
            "a.yaml: descriptors[2]: must be a map with key, value, rate_limit, descriptors, shadow_mode, quota_mode, \
             detailed_metric, value_to_metric, share_threshold, metadata, got 9",
            "a.yaml: descriptors[3].key: must be a text, got a list",
            "a.yaml: descriptors[3].rate_limit.unit: must be second, minute, hour, day, week, month or year, got none",
            "a.yaml: descriptors[3].rate_limit.requests_per_unit: must be 0..4294967295, got none",
            "a.yaml: descriptors[4].rate_limit.requests_per_unit: must be 0..4294967295, got 4294967296",
        ];
        assert_eq!(found, expected, "{found:#?}");
    }

    #[test]
    fn what_is_no_yaml_is_told() {
        for yaml in ["domain: [", "a: 1\na: 2", "- x\n- y"] {
            assert_eq!(faults(yaml).len(), 1, "{yaml}");
        }
        assert_eq!(faults(""), ["a.yaml: domain: must be a name, got none"]);
    }

    /// A null item would make the reading of texts fail, and with it change other values.
    #[test]
    fn an_empty_item_is_a_fault() {
        for list in ["[~, {key: a, value: 1.10}]", "\n- \n- {key: a, value: 1.10}"] {
            assert_eq!(
                faults(&format!("domain: d\ndescriptors: {list}")),
                [
                    "a.yaml: descriptors[0]: must be a map with key, value, rate_limit, descriptors, shadow_mode, \
                  quota_mode, detailed_metric, value_to_metric, share_threshold, metadata, got none"
                ],
                "{list}"
            );
        }
        let replaces = "rate_limit: {unlimited: true, replaces: [~]}";
        assert_eq!(faults(&format!("domain: d\ndescriptors: [{{key: a, {replaces}}}]")).len(), 1);
    }

    #[test]
    fn scalars_are_taken_as_they_were_written() {
        let file = File::parse(
            "a.yaml",
            "---\ndomain: 7\ndescriptors:\n- {key: on, value: 1.10, rate_limit: &x {unit: Minute, \
             requests_per_unit: 5, name: 007}}\n- {key: b, value: ~, rate_limit: *x, metadata: {a: b}}\n- key: c\n  \
             rate_limit: {unlimited: yes}\n  descriptors:\n",
        )
        .unwrap();
        assert_eq!(file.domain, "7");
        let rule = &file.rules[0];
        assert_eq!((rule.key.as_str(), rule.value.as_deref()), ("on", Some("1.10")));
        let limit = rule.limit.as_ref().unwrap();
        assert_eq!((limit.name.as_deref(), limit.amount), (Some("007"), Some((5, Unit::Minute))));
        assert_eq!((file.rules[1].value.as_deref(), file.rules[1].limit.is_some()), (None, true));
        assert_eq!(file.rules[2].limit.as_ref().unwrap().amount, None);
        assert_eq!(file.without_effect, ["descriptors[1].metadata"]);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| {
            let open = "descriptors: [{key: a, ".repeat(depth);
            format!("{{domain: d, {}rate_limit: {{unlimited: true}}{}}}", open, "}]".repeat(depth))
        };
        assert!(File::parse("a", &nested(DEPTH_MAX)).is_ok());
        let found = faults(&nested(DEPTH_MAX + 1));
        assert!(found[0].ends_with("must be nested at most 16 deep, got more"), "{found:?}");
    }
}
