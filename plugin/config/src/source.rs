//! Configures where the plugin reads a value of a request.

use serde_json::Value;

use super::{
    fields::{Fields, type_name},
    is_header_name,
};

const DESCRIPTORS_MAX: usize = 32;

/// Maximum number of names in a metadata or property path.
const PATH_MAX: usize = 16;

/// Where the plugin reads a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The request header with this lower-case name.
    Header(String),
    /// Text in the request's dynamic metadata. The path starts with the name of a filter.
    Metadata(Vec<String>),
    Property(Vec<String>),
    Value(String),
}

/// Sources that a field accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AllowedSources {
    Verified,
    Any,
}

/// Reads `consumer` or `consumer_header`.
pub(super) fn consumer(top: &mut Fields<'_>, faults: &mut Vec<String>) -> Source {
    let header = top.text("consumer_header", "an HTTP header name", is_header_name, faults);
    let set = top.get("consumer_header").is_some();
    let default = || Source::Header(header.map_or("x-mse-consumer".to_owned(), |h| h.to_ascii_lowercase()));
    let Some(value) = top.get("consumer") else { return default() };
    if set {
        faults.push("consumer: must not be set together with consumer_header".into());
    }
    source(value, &top.name("consumer"), AllowedSources::Verified, faults).unwrap_or_else(default)
}

pub(super) fn descriptors(top: &mut Fields<'_>, faults: &mut Vec<String>) -> Vec<(String, Source)> {
    let Some(value) = top.get("descriptors") else { return Vec::new() };
    let name = top.name("descriptors");
    let Some(members) = value.as_object() else {
        faults.push(format!("{name}: must be an object, got {}", type_name(value)));
        return Vec::new();
    };
    if members.len() > DESCRIPTORS_MAX {
        faults.push(format!("{name}: must have at most {DESCRIPTORS_MAX} entries, got {}", members.len()));
        return Vec::new();
    }
    let mut descriptors = Vec::new();
    for (key, value) in members {
        if !(1..=64).contains(&key.len()) || key.chars().any(char::is_control) {
            faults.push(format!(
                "{name}: must have names of 1 to 64 bytes without control characters, got {key:?}"
            ));
        }
        if let Some(source) = source(value, &format!("{name}.{key}"), AllowedSources::Any, faults) {
            descriptors.push((key.clone(), source));
        }
    }
    descriptors.sort_by(|(a, _), (b, _)| a.cmp(b));
    descriptors
}

fn source(value: &Value, name: &str, allowed: AllowedSources, faults: &mut Vec<String>) -> Option<Source> {
    let mut fields = Fields::of(value, name.to_owned(), faults);
    let before = faults.len();
    let mut sources = Vec::new();
    sources.extend(
        fields
            .text("header", "an HTTP header name", is_header_name, faults)
            .map(|header| Source::Header(header.to_ascii_lowercase())),
    );
    sources.extend(path(&mut fields, "metadata", faults).map(Source::Metadata));
    if allowed == AllowedSources::Any {
        sources.extend(path(&mut fields, "property", faults).map(Source::Property));
        let expected = "a string of at most 256 bytes";
        sources.extend(fields.text("value", expected, |text| text.len() <= 256, faults).map(Source::Value));
    }
    if value.is_object() && before == faults.len() && sources.len() != 1 {
        let choices = match allowed {
            AllowedSources::Verified => "header or metadata",
            AllowedSources::Any => "header, metadata, property or value",
        };
        faults.push(format!("{name}: must have exactly one of {choices}"));
    }
    fields.finish(faults);
    sources.pop()
}

/// Reads a metadata or property path.
fn path(fields: &mut Fields<'_>, field: &'static str, faults: &mut Vec<String>) -> Option<Vec<String>> {
    let value = fields.get(field)?;
    let name = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let names: Option<Vec<String>> =
        value.as_array().and_then(|names| names.iter().map(name).collect()).filter(|names: &Vec<_>| {
            (1..=PATH_MAX).contains(&names.len())
                && names.iter().all(|name| name.len() <= 256 && !name.contains('\0'))
        });
    if names.is_none() {
        let name = fields.name(field);
        faults
            .push(format!("{name}: must be a list of 1 to {PATH_MAX} names of 1 to 256 bytes, got {value}"));
    }
    names
}
