//! Files of limits, in the format of envoyproxy/ratelimit. Parsing finds every error in a file, with its path. The text
//! is parsed twice: once as untyped values, and once for scalars as they were written (`value: 1.10` is the text
//! `1.10`).

use std::fmt;

use reader::Reader;
use serde::Deserialize;
use serde_json::Value;

use super::unit::Unit;

mod reader;

/// Maximum number of nested levels of descriptors.
pub(super) const DEPTH_MAX: usize = 16;
/// Maximum number of errors reported for one file.
const FAULTS_MAX: usize = 100;

/// An error in a file, and its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub file: String,
    /// Path within the file, such as `descriptors[2].key`. Empty if the error concerns the whole file.
    pub path: String,
    /// What was expected, and what the file contains.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, path, text } = self;
        if path.is_empty() { write!(f, "{file}: {text}") } else { write!(f, "{file}: {path}: {text}") }
    }
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) domain: String,
    pub(super) descriptors: Vec<DescriptorRule>,
    /// Paths of known fields that have no effect.
    pub(super) without_effect: Vec<String>,
}

/// A descriptor of a file.
#[derive(Debug, Default)]
pub(super) struct DescriptorRule {
    /// Path within the file, such as `descriptors[2]`.
    pub(super) path: String,
    pub(super) key: String,
    /// `None` matches any value.
    pub(super) value: Option<String>,
    pub(super) limit: Option<LimitRule>,
    pub(super) descriptors: Vec<DescriptorRule>,
    pub(super) shadow: bool,
    pub(super) quota: bool,
    pub(super) detailed_metric: bool,
    pub(super) value_to_metric: bool,
    pub(super) share_threshold: bool,
}

#[derive(Debug)]
pub(super) struct LimitRule {
    pub(super) name: Option<String>,
    /// Requests per unit. `None`: unlimited.
    pub(super) amount: Option<(u32, Unit)>,
    /// Names of the limits that this limit replaces.
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
    /// Parses the text of a file.
    ///
    /// # Errors
    /// Returns all errors in the file.
    pub(super) fn parse(name: &str, yaml: &str) -> Result<Self, Vec<Fault>> {
        let options = || serde_saphyr::options! { with_snippet: false };
        let mut reader = Reader::new(name);
        let value: Value = match serde_saphyr::from_str_with_options(yaml, options()) {
            Ok(value) => value,
            Err(error) => {
                reader.fault("", format!("must be YAML: {error}"));
                return Err(reader.faults);
            }
        };
        // This fails if a value has the wrong type. `reader` then reports the error.
        let texts: Result<Texts, _> = serde_saphyr::from_str_with_options(yaml, options());
        let failed = texts.as_ref().err().map(ToString::to_string);
        let (domain, descriptors) = reader.file(&value, &texts.unwrap_or_default());
        if let (Some(error), true) = (failed, reader.faults.is_empty()) {
            // Without `texts`, some scalars would differ from what the file contains.
            reader.fault("", format!("must have a text wherever one is expected: {error}"));
        }
        let Reader { mut faults, without_effect, .. } = reader;
        if faults.is_empty() {
            return Ok(Self { name: name.to_owned(), domain, descriptors, without_effect });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(yaml: &str) -> Vec<String> {
        File::parse("a.yaml", yaml).expect_err("accepted").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_reported_with_its_path() {
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
    fn invalid_yaml_is_a_fault() {
        for yaml in ["domain: [", "a: 1\na: 2", "- x\n- y"] {
            assert_eq!(faults(yaml).len(), 1, "{yaml}");
        }
        assert_eq!(faults(""), ["a.yaml: domain: must be a name, got none"]);
    }

    /// Guards against a null item: it makes the second parse fail, which would change how other values are read.
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
    fn scalars_are_kept_as_written() {
        let file = File::parse(
            "a.yaml",
            "---\ndomain: 7\ndescriptors:\n- {key: on, value: 1.10, rate_limit: &x {unit: Minute, \
             requests_per_unit: 5, name: 007}}\n- {key: b, value: ~, rate_limit: *x, metadata: {a: b}}\n- key: c\n  \
             rate_limit: {unlimited: yes}\n  descriptors:\n",
        )
        .unwrap();
        assert_eq!(file.domain, "7");
        let descriptor = &file.descriptors[0];
        assert_eq!((descriptor.key.as_str(), descriptor.value.as_deref()), ("on", Some("1.10")));
        let limit = descriptor.limit.as_ref().unwrap();
        assert_eq!((limit.name.as_deref(), limit.amount), (Some("007"), Some((5, Unit::Minute))));
        assert_eq!((file.descriptors[1].value.as_deref(), file.descriptors[1].limit.is_some()), (None, true));
        assert_eq!(file.descriptors[2].limit.as_ref().unwrap().amount, None);
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
