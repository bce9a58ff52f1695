//! Reads Limitador's limits from a file.

use evenkeel_domain::file_kind::{FileKind, items_of};
use serde_json::Value;

use crate::check::Check;

/// A limit as in Limitador's file.
#[derive(Debug, Default)]
pub(super) struct Limit {
    pub(super) id: Option<String>,
    pub(super) namespace: String,
    pub(super) name: Option<String>,
    pub(super) max_value: Option<u64>,
    pub(super) seconds: Option<u64>,
    pub(super) conditions: Vec<String>,
    pub(super) variables: Vec<String>,
}

/// A limit and its path.
pub(super) type Found = Vec<(String, Limit)>;

/// Returns all limits of a file.
pub(super) fn read(check: &mut Check, file: &str, text: &str) -> Found {
    // Limitador reads YAML 1.2, in which only true and false are flags: the namespace n is a text.
    let mut options = crate::yaml_options();
    options.strict_booleans = true;
    // Limitador reads 010 as a text, too. An error repeats it as it is written.
    options.leading_zero_numbers_as_strings = true;
    let documents: Vec<Value> = match crate::documents_with(text, options) {
        Ok(documents) => documents,
        Err(error) => {
            check.push(format!("{file}: {error}"));
            return Vec::new();
        }
    };
    let (mut found, mut others) = (Vec::new(), Vec::new());
    let several = documents.len() > 1;
    for (i, document) in documents.iter().enumerate() {
        let path = if several { format!("{file}: document {i}: ") } else { format!("{file}: ") };
        self::document(check, &path, document, &mut found, &mut others);
    }
    if documents.is_empty() {
        check.fault(file, "a list of limits", "none");
    }
    // Other objects are usual beside a Limitador resource, for example a Service.
    for (path, kind) in others {
        if found.is_empty() {
            check.push(of_other_kind(&path, &kind));
        } else {
            check.warn(&path, &format!("is not read: it is {kind}"));
        }
    }
    found
}

fn of_other_kind(path: &str, kind: &FileKind) -> String {
    format!("{path}: must be a file of Limitador's limits, got {kind}: {}", kind.remedy())
}

/// `path` ends with the separator to which a field's name is appended. `others` receives Kubernetes objects that contain no
/// limits.
fn document(
    check: &mut Check,
    path: &str,
    document: &Value,
    found: &mut Found,
    others: &mut Vec<(String, FileKind)>,
) {
    let whole = path.trim_end_matches([':', ' ']);
    match (FileKind::of(document), document) {
        (Some(FileKind::ConfigMap), _) => {
            let mut is_empty = true;
            let first = document["data"].as_object().and_then(|data| data.keys().next());
            let got = first.map_or_else(|| "none".to_owned(), |key| format!("{key:?}"));
            for (key, text) in document["data"].as_object().into_iter().flatten() {
                if let (Some(text), true) = (text.as_str(), key.ends_with(".yaml") || key.ends_with(".yml")) {
                    found.extend(read(check, &format!("{path}data.{key}"), text));
                    is_empty = false;
                } else {
                    check.warn(
                        &format!("{path}data.{key}"),
                        "is not read: its name does not end in .yaml or .yml",
                    );
                }
            }
            if is_empty {
                let expected = "a map with a text whose name ends in .yaml or .yml";
                check.fault(&format!("{path}data"), expected, got);
            }
        }
        (Some(FileKind::Limitador), Value::Object(object)) if object.contains_key("spec") => {
            list(check, &format!("{path}spec.limits"), &document["spec"]["limits"], found);
        }
        (None | Some(FileKind::Limitador), Value::Object(object)) if object.contains_key("limits") => {
            list(check, &format!("{path}limits"), &document["limits"], found);
        }
        (Some(FileKind::Limitador), Value::Object(_)) => item(check, whole, document, found),
        (None | Some(FileKind::Limitador), Value::Array(_)) => list(check, path, document, found),
        (Some(FileKind::List), _) => {
            for (i, item) in items_of(document).iter().enumerate() {
                self::document(check, &format!("{path}items[{i}]: "), item, found, others);
            }
        }
        (Some(kind @ FileKind::Kubernetes(_)), _) => others.push((whole.to_owned(), kind)),
        (Some(kind), _) => check.push(of_other_kind(whole, &kind)),
        (None, _) => check.fault(
            whole,
            "a list of limits, each with namespace, max_value and seconds",
            "another value",
        ),
    }
}

fn list(check: &mut Check, path: &str, items: &Value, found: &mut Found) {
    let Some(items) = items.as_array() else {
        return check.fault(path.trim_end_matches([':', ' ']), "a list of limits", "none");
    };
    for (i, value) in items.iter().enumerate() {
        item(check, &format!("{path}[{i}]"), value, found);
    }
}

fn item(check: &mut Check, path: &str, value: &Value, found: &mut Found) {
    const FIELDS: [&str; 7] = ["id", "namespace", "name", "max_value", "seconds", "conditions", "variables"];
    let Some(map) = value.as_object() else {
        return check.fault(path, "a limit with namespace, max_value and seconds", "another value");
    };
    for field in map.keys().filter(|field| !FIELDS.contains(&field.as_str())) {
        let expected = format!("one of {}", FIELDS.join(", "));
        check.fault(&format!("{path}.{field}"), &expected, "a field without an equivalent");
    }
    let mut fields = Fields { check, path, value };
    let limit = Limit {
        id: fields.text("id"),
        namespace: fields.text("namespace").unwrap_or_default(),
        name: fields.text("name"),
        max_value: fields.number("max_value"),
        seconds: fields.number("seconds"),
        conditions: fields.texts("conditions"),
        variables: fields.texts("variables"),
    };
    found.push((path.to_owned(), limit));
}

/// Reads the fields of a limit.
struct Fields<'a> {
    check: &'a mut Check,
    path: &'a str,
    value: &'a Value,
}

impl Fields<'_> {
    fn fault(&mut self, name: &str, expected: &str) {
        let got = &self.value[name];
        let got = if got.is_null() { "none".to_owned() } else { got.to_string() };
        self.check.fault(&format!("{}.{name}", self.path), expected, got);
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match &self.value[name] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            // A number may have been written in another way: 007.
            _ => {
                self.fault(name, "a text, in quotes if it looks like a number");
                None
            }
        }
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        let number = self.value[name].as_u64();
        if number.is_none() {
            self.fault(name, "a whole number");
        }
        number
    }

    fn texts(&mut self, name: &str) -> Vec<String> {
        match &self.value[name] {
            Value::Null => return Vec::new(),
            Value::Array(items) if items.iter().all(Value::is_string) => {
                return items.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            }
            _ => self.fault(name, "a list of texts"),
        }
        Vec::new()
    }
}
