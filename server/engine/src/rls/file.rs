//! Files of limits, in the format of envoyproxy/ratelimit: a domain with its descriptors. A text may have several such
//! documents, and a Kubernetes ConfigMap may contain them ([`documents`]). Parsing finds every error, with its path. The
//! text is parsed twice: once as untyped values, and once for scalars as they were written ([`written`]).

use std::fmt;

use reader::Reader;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_saphyr::{Error, UserMessageFormatter};
use written::Written;

use super::unit::Unit;

mod documents;
mod fields;
mod reader;
mod written;

pub(super) use documents::{Documents, is_limit_file_name, parse};

/// Maximum number of nested levels of descriptors.
pub(super) const DEPTH_MAX: usize = 16;
/// Maximum number of errors reported for one file.
const FAULTS_MAX: usize = 100;
/// Maximum number of values in one file. No file of 8 MiB has as many: a descriptor with a limit has about ten values in
/// 60 bytes. The bound is for aliases, which may repeat a few values without end.
const VALUES_MAX: usize = 2_000_000;

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
    /// What the responses' dynamic metadata contains while the limit is not over.
    pub(super) metadata: Option<Map<String, Value>>,
}

#[derive(Debug)]
pub(super) struct LimitRule {
    pub(super) name: Option<String>,
    /// Requests per unit. `None`: unlimited.
    pub(super) amount: Option<(u32, Unit)>,
    /// Names of the limits that this limit replaces.
    pub(super) replaces: Vec<String>,
}

impl File {
    /// Reads a document. `written` has its numbers and flags as they were written.
    fn read(name: &str, value: &Value, written: &Written) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(name);
        let (domain, descriptors) = reader.file(value, written);
        let mut faults = reader.faults;
        if faults.is_empty() {
            return Ok(Self { name: name.to_owned(), domain, descriptors });
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

/// Parses all documents that are not empty.
fn from_yaml<T: DeserializeOwned>(yaml: &str) -> Result<Vec<T>, String> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_nodes: VALUES_MAX,
            // A list or a map has two events, and so has a document.
            max_events: 3 * VALUES_MAX,
            max_documents: VALUES_MAX,
            max_anchors: VALUES_MAX,
            max_aliases: VALUES_MAX,
            max_merge_keys: VALUES_MAX,
            max_recorded_anchor_events: 3 * VALUES_MAX,
            // One anchor may serve the limits of all descriptors.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: VALUES_MAX },
    };
    serde_saphyr::from_multiple_with_options(yaml, options).map_err(|error| describe(&error))
}

/// Describes an error without the names of the parser's types, and without advice about its API.
fn describe(error: &Error) -> String {
    let text = error.render_with_formatter(&UserMessageFormatter);
    // The parser names its bounds, such as `Nodes { nodes: 5 }`.
    match text.strip_prefix("YAML document too large or too complex") {
        Some(bound) if bound.to_ascii_lowercase().contains("depth") => "it is nested too deep".to_owned(),
        Some(_) => format!("it has more than {VALUES_MAX} values, counting those of aliases"),
        None => match text.strip_prefix("recursion limit exceeded") {
            Some(place) => format!("it is nested too deep{place}"),
            None => text,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn faults(yaml: &str) -> Vec<String> {
        parse("a.yaml", yaml).expect_err("accepted").iter().map(ToString::to_string).collect()
    }

    fn file(yaml: &str) -> File {
        parse("a.yaml", yaml).unwrap().files.remove(0)
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
            "a.yaml: extra: must be one of domain, descriptors, name, got a field of another name",
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
            "a.yaml: descriptors[1].descriptors[0].ratelimit: must be rate_limit, got ratelimit",
            "a.yaml: descriptors[1].descriptors[0].rate_limit.requests_per_unit: must be a whole number in 0..4294967295, got \"many\"",
            "a.yaml: descriptors[1].descriptors[1].share_threshold: must be false unless the value holds a *, got the \
             value \"e\"",
            "a.yaml: descriptors[1].descriptors[1].descriptors: must be a list of descriptors, got 7",
            "a.yaml: descriptors[2]: must be a map with key, value, rate_limit, descriptors, shadow_mode, quota_mode, \
             detailed_metric, value_to_metric, share_threshold, metadata, got 9",
            "a.yaml: descriptors[3].key: must be a text, got a list",
            "a.yaml: descriptors[3].rate_limit.unit: must be second, minute, hour, day, week, month or year, got none",
            "a.yaml: descriptors[3].rate_limit.requests_per_unit: must be a whole number in 0..4294967295, got none",
            "a.yaml: descriptors[4].rate_limit.requests_per_unit: must be a whole number in 0..4294967295, got 4294967296",
        ];
        assert_eq!(found, expected, "{found:#?}");
    }

    /// envoyproxy/ratelimit reads 010 as 8.
    #[test]
    fn numbers_are_repeated_as_written() {
        for (written, expected) in [
            (
                "010",
                "a whole number in 0..4294967295 without a leading 0, which some programs read as octal, got 010",
            ),
            ("5.0", "a whole number in 0..4294967295, got 5.0"),
            ("1e3", "a whole number in 0..4294967295, got 1e3"),
            ("-1", "a whole number in 0..4294967295, got -1"),
            ("yes", "a whole number in 0..4294967295, got yes"),
            ("'5'", "a whole number in 0..4294967295, got \"5\""),
        ] {
            let yaml = format!(
                "domain: d\ndescriptors: [{{key: a, rate_limit: {{unit: day, requests_per_unit: {written}}}}}]"
            );
            let path = "a.yaml: descriptors[0].rate_limit.requests_per_unit: must be ";
            assert_eq!(faults(&yaml), [format!("{path}{expected}")]);
        }
    }

    /// Envoy Gateway exports its files with a name, and with empty fields.
    #[test]
    fn files_that_envoy_gateway_exports_are_read() {
        let file = file(
            "name: first-listener\ndomain: first-listener\ndescriptors:\n- key: route\n  value: route\n  rate_limit: null\n  \
             descriptors:\n  - key: rule-0\n    value: rule-0\n    rate_limit: {requests_per_unit: 5, unit: SECOND, \
             unlimited: false, name: '', replaces: []}\n    descriptors: []\n    shadow_mode: false\n    quota_mode: false\n  \
             - {key: rule-1, rate_limit: {requests_per_unit: 0, unit: UNKNOWN, unlimited: true}}\n  shadow_mode: false\n  \
             detailed_metric: false\n",
        );
        assert_eq!(file.domain, "first-listener");
        let rules = &file.descriptors[0].descriptors;
        assert_eq!(rules[0].limit.as_ref().unwrap().amount, Some((5, Unit::Second)));
        assert_eq!(rules[1].limit.as_ref().unwrap().amount, None);
    }

    #[test]
    fn invalid_yaml_is_a_fault() {
        for yaml in ["domain: [", "a: 1\na: 2", "- x\n- y"] {
            assert_eq!(faults(yaml).len(), 1, "{yaml}");
        }
        assert_eq!(faults(""), ["a.yaml: domain: must be a name, got none"]);
    }

    /// Guards against bounds of the parser that are below the documented maximum size of a file.
    #[test]
    fn a_large_file_and_a_much_used_anchor_are_read() {
        let mut large = "domain: d\ndescriptors:\n".to_owned();
        let mut aliases =
            "domain: d\ndescriptors:\n- {key: a, rate_limit: &l {unlimited: true}}\n".to_owned();
        for i in 0..30_000 {
            let limit = "rate_limit: {unit: day, requests_per_unit: 1}";
            writeln!(large, "- {{key: a, value: v{i}, {limit}}}").unwrap();
        }
        for i in 0..500 {
            writeln!(aliases, "- {{key: a, value: v{i}, rate_limit: *l}}").unwrap();
            writeln!(aliases, "- {{key: b, value: v{i}, rate_limit: {{<<: *l, name: n{i}}}}}").unwrap();
        }
        assert_eq!(file(&large).descriptors.len(), 30_000);
        assert_eq!(file(&aliases).descriptors.len(), 1001);
        let documents: String =
            (0..1100).map(|i| format!("---\ndomain: d{i}\ndescriptors: [{{key: a}}]\n")).collect();
        assert_eq!(parse("a.yaml", &documents).unwrap().files.len(), 1100);
    }

    #[test]
    fn aliases_that_multiply_are_bounded() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..8 {
            let item = format!("*a{}, ", i - 1).repeat(10);
            writeln!(bomb, "a{i}: &a{i} [{item}]").unwrap();
        }
        for yaml in [bomb, format!("domain: {}", "[".repeat(20_000)), nested_maps(100)] {
            let found = faults(&yaml);
            assert!(found.len() == 1 && found[0].starts_with("a.yaml: must be YAML: it "), "{found:?}");
        }
    }

    fn nested_maps(depth: usize) -> String {
        (0..depth).map(|i| format!("{}a:\n", " ".repeat(i))).collect()
    }

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
        assert!(
            faults("domain: d\ndescriptors: [{key: [], value: 1.10}, {key: a, rate_limit: 010}]")[1]
                .ends_with("got 010")
        );
        let replaces = "rate_limit: {unlimited: true, replaces: [~]}";
        assert_eq!(faults(&format!("domain: d\ndescriptors: [{{key: a, {replaces}}}]")).len(), 1);
    }

    #[test]
    fn scalars_are_kept_as_written() {
        let file = file(
            "---\ndomain: 7\ndescriptors:\n- {key: on, value: 1.10, rate_limit: &x {unit: Minute, \
             requests_per_unit: 5, name: 007}}\n- {key: b, value: ~, rate_limit: *x, metadata: {a: b}}\n- key: c\n  \
             rate_limit: {unlimited: yes}\n  descriptors:\n",
        );
        assert_eq!(file.domain, "7");
        let descriptor = &file.descriptors[0];
        assert_eq!((descriptor.key.as_str(), descriptor.value.as_deref()), ("on", Some("1.10")));
        let limit = descriptor.limit.as_ref().unwrap();
        assert_eq!((limit.name.as_deref(), limit.amount), (Some("007"), Some((5, Unit::Minute))));
        assert_eq!((file.descriptors[1].value.as_deref(), file.descriptors[1].limit.is_some()), (None, true));
        assert_eq!(file.descriptors[2].limit.as_ref().unwrap().amount, None);
        assert_eq!(file.descriptors[1].metadata.as_ref().map(Map::len), Some(1));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| {
            let open = "descriptors: [{key: a, ".repeat(depth);
            format!("{{domain: d, {}rate_limit: {{unlimited: true}}{}}}", open, "}]".repeat(depth))
        };
        assert!(parse("a", &nested(DEPTH_MAX)).is_ok());
        let found = faults(&nested(DEPTH_MAX + 1));
        assert!(found[0].ends_with("must be nested at most 16 deep, got more"), "{found:?}");
    }
}
