//! The limits of all domains, as trees of hash maps. A path through a tree leads from a descriptor's entries to its
//! limit.

use std::{collections::HashMap, fmt, sync::Arc};

use evenkeel_domain::limit::{Bucket, attributes::encode_value};
use prometheus::IntCounter;
use serde_json::{Map, Value};

use super::{
    counter_key::{bucket, is_secret},
    file::DEPTH_MAX,
    metrics::{ByResult, LimitMetrics, ValueMetrics},
    pattern::Pattern,
    request::DescriptorEntry,
    unit::Unit,
};

/// The limits of all domains.
pub struct Rules {
    pub(super) domains: HashMap<Box<str>, Domain>,
    pub(super) limits: usize,
    pub(super) warnings: Vec<String>,
    /// Paths of the metadata of limits, each as `file: path`.
    pub(super) metadata: Vec<String>,
}

pub(super) struct Domain {
    pub(super) name: Box<str>,
    pub(super) level: Level,
    /// Counts descriptors that match no limit.
    pub(super) no_limit: IntCounter,
    /// Metrics of descriptors' own limits.
    pub(super) overrides: Arc<LimitMetrics>,
}

/// One level of a tree: the descriptors in one list of a file.
#[derive(Default)]
pub(super) struct Level {
    pub(super) keys: HashMap<Box<str>, Values>,
}

/// The values of one key.
#[derive(Default)]
pub(super) struct Values {
    pub(super) exact: HashMap<Box<str>, Node>,
    /// In the order of the file. The first match is used.
    pub(super) wildcards: Vec<(Pattern, Node)>,
    pub(super) any: Option<Box<Node>>,
}

#[derive(Default)]
pub(super) struct Node {
    pub(super) limit: Option<Arc<Limit>>,
    pub(super) level: Level,
    /// The pattern, if all values that match it share a counter.
    pub(super) shared: Option<Box<str>>,
}

pub(super) struct Limit {
    /// Empty for a limit without a name.
    pub(super) name: Arc<str>,
    /// The name of the counter in its bucket.
    pub(super) counter: Arc<str>,
    pub(super) amount: Amount,
    pub(super) shadow: bool,
    pub(super) quota: bool,
    pub(super) replaces: Box<[Box<str>]>,
    pub(super) metrics: Arc<LimitMetrics>,
    pub(super) value_metrics: Option<Arc<ValueMetrics>>,
    /// One bit for each entry: whether the label of `value_metrics` contains the entry's value.
    pub(super) labelled: u32,
    /// The bucket, if it is equal for all requests.
    pub(super) bucket: Option<Arc<Bucket>>,
    /// What the response's dynamic metadata contains while the limit is not over.
    pub(super) metadata: Option<Map<String, Value>>,
}

#[derive(Clone, Copy)]
pub(super) enum Amount {
    Unlimited,
    PerUnit(u32, Unit),
}

/// The limit of a descriptor, and the nodes on the path to the limit.
pub(super) struct MatchedLimit<'r> {
    pub(super) limit: &'r Arc<Limit>,
    domain: &'r Domain,
    path: [Option<&'r Node>; DEPTH_MAX],
}

impl Rules {
    pub(super) fn domain(&self, name: &str) -> Option<&Domain> {
        self.domains.get(name)
    }

    /// Returns the number of domains and the number of limits.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.domains.len(), self.limits)
    }

    /// Returns what is valid but probably not intended, with the names of the files.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the paths of the limits' metadata, which has an effect only with `dynamic_metadata`.
    #[must_use]
    pub fn metadata(&self) -> &[String] {
        &self.metadata
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl Level {
    fn get(&self, (key, value): DescriptorEntry<'_>) -> Option<&Node> {
        let values = self.keys.get(key)?;
        let wildcard =
            || values.wildcards.iter().find(|(pattern, _)| pattern.matches(value)).map(|(_, node)| node);
        values.exact.get(value).or_else(wildcard).or(values.any.as_deref())
    }
}

impl Domain {
    /// Returns the limit of a descriptor. Each entry must lead one level down, and the last entry to a limit.
    pub(super) fn find(&self, entries: &[DescriptorEntry<'_>]) -> Option<MatchedLimit<'_>> {
        if entries.len() > DEPTH_MAX {
            return None;
        }
        let mut path = [None; DEPTH_MAX];
        let mut level = &self.level;
        for (entry, step) in entries.iter().zip(&mut path) {
            let node = level.get(*entry)?;
            *step = Some(node);
            level = &node.level;
        }
        let limit = path[entries.len().checked_sub(1)?]?.limit.as_ref()?;
        Some(MatchedLimit { limit, domain: self, path })
    }

    /// Returns the bucket of a descriptor that has its own limit.
    pub(super) fn override_bucket(&self, entries: &[DescriptorEntry<'_>]) -> Arc<Bucket> {
        bucket(&self.name, entries, |_| None)
    }
}

impl MatchedLimit<'_> {
    pub(super) fn bucket(&self, entries: &[DescriptorEntry<'_>]) -> Arc<Bucket> {
        match &self.limit.bucket {
            Some(bucket) => Arc::clone(bucket),
            None => bucket(&self.domain.name, entries, |i| self.shared(i)),
        }
    }

    /// Returns the metrics for the request's values, if the file asks for such metrics.
    pub(super) fn value_metrics(&self, entries: &[DescriptorEntry<'_>]) -> Option<Arc<ByResult>> {
        Some(self.limit.value_metrics.as_ref()?.of(&self.value_label(entries)))
    }

    fn value_label(&self, entries: &[DescriptorEntry<'_>]) -> String {
        let mut label = String::with_capacity(64);
        for (i, (key, value)) in entries.iter().enumerate() {
            if i > 0 {
                label.push('.');
            }
            label.push_str(key);
            if self.limit.labelled & 1 << i != 0 {
                label.push('_');
                match self.shared(i) {
                    Some(pattern) => label.push_str(pattern),
                    None => encode_value(is_secret(key), value, &mut label),
                }
            }
        }
        label
    }

    fn shared(&self, i: usize) -> Option<&str> {
        self.path.get(i).copied().flatten()?.shared.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rls::{compile::compile, file::parse, metrics::RateLimitMetrics};

    fn rules(yaml: &str) -> Rules {
        compile(parse("a.yaml", yaml).unwrap().files, false, &RateLimitMetrics::unregistered()).unwrap()
    }

    /// Returns the name of the limit and the tag of its bucket.
    fn find(rules: &Rules, entries: &[DescriptorEntry<'_>]) -> Option<(String, String)> {
        let found = rules.domain("d")?.find(entries)?;
        Some((found.limit.name.to_string(), found.bucket(entries).tag.clone()))
    }

    /// Entries, and the name and tag of the limit to which they lead.
    type Case<'a> = (&'a [DescriptorEntry<'a>], Option<(&'a str, &'a str)>);

    const RULES: &str = "
domain: d
descriptors:
- key: a
  rate_limit: {name: a, unit: second, requests_per_unit: 1}
- key: a
  value: x
  rate_limit: {name: a-x, unit: second, requests_per_unit: 1}
  descriptors:
  - {key: b, rate_limit: {name: a-x-b, unit: day, requests_per_unit: 1}}
  - {key: b, value: 'y*', rate_limit: {name: a-x-by, unit: day, requests_per_unit: 1}}
- {key: a, value: allowed}
- {key: p, value: /v1/*/chat*, rate_limit: {name: chat, unit: second, requests_per_unit: 1}}
- {key: p, value: /v1/*, rate_limit: {name: v1, unit: second, requests_per_unit: 1}, share_threshold: true}
- {key: p, value: /v1/m, rate_limit: {name: m, unit: second, requests_per_unit: 1}}
- key: f
  value: f/*
  share_threshold: true
  descriptors: [{key: g, rate_limit: {name: f-g, unit: second, requests_per_unit: 1}}]
- {key: authorization, rate_limit: {name: s, unit: second, requests_per_unit: 1}}
";

    #[test]
    fn the_most_specific_limit_is_found() {
        let rules = rules(RULES);
        assert_eq!(rules.size(), (1, 9));
        let cases: [Case<'_>; 18] = [
            (&[("a", "1")], Some(("a", "rls:d|a=1"))),
            (&[("a", "")], Some(("a", "rls:d|a="))),
            (&[("a", "x")], Some(("a-x", "rls:d|a=x"))),
            (&[("a", "allowed")], None),
            (&[("c", "1")], None),
            (&[], None),
            // Each entry must lead one level down, and the last entry to a limit.
            (&[("a", "x"), ("b", "1")], Some(("a-x-b", "rls:d|a=x|b=1"))),
            (&[("a", "x"), ("b", "y1")], Some(("a-x-by", "rls:d|a=x|b=y1"))),
            (&[("a", "1"), ("b", "1")], None),
            (&[("b", "1"), ("a", "x")], None),
            (&[("a", "x"), ("b", "1"), ("c", "1")], None),
            (&[("f", "f/1")], None),
            // Exact values take precedence over patterns. Patterns are tried in the order of the file.
            (&[("p", "/v1/m")], Some(("m", "rls:d|p=/v1/m"))),
            (&[("p", "/v1/m/chat/x")], Some(("chat", "rls:d|p=/v1/m/chat/x"))),
            (&[("p", "/v1/other")], Some(("v1", "rls:d|p=/v1/*"))),
            (&[("p", "/v2")], None),
            (&[("f", "f/1"), ("g", "2")], Some(("f-g", "rls:d|f=f/*|g=2"))),
            (&[("a", "{|}= %")], Some(("a", "rls:d|a=%7B%7C%7D%3D%20%25"))),
        ];
        for (entries, expected) in cases {
            let expected = expected.map(|(name, tag)| (name.to_owned(), tag.to_owned()));
            assert_eq!(find(&rules, entries), expected, "{entries:?}");
        }
        let (_, tag) = find(&rules, &[("authorization", "Bearer x")]).unwrap();
        assert!(tag.starts_with("rls:d|authorization=#") && !tag.contains("Bearer"), "{tag}");
        let (_, tag) = find(&rules, &[("a", &"v".repeat(100))]).unwrap();
        assert!(tag.len() < 60, "{tag}");
    }

    #[test]
    fn labels_contain_only_the_values_a_file_asks_for() {
        let rules = rules(
            "domain: d
descriptors:
- key: route
  value: api/*
  share_threshold: true
  value_to_metric: true
  descriptors:
  - key: method
    value: GET
    descriptors: [{key: user, rate_limit: {unit: second, requests_per_unit: 1}}]
- key: x
  descriptors: [{key: y, detailed_metric: true, rate_limit: {unit: second, requests_per_unit: 1}}]
- {key: z, rate_limit: {unit: second, requests_per_unit: 1}}
",
        );
        let label = |entries: &[DescriptorEntry<'_>]| {
            let found = rules.domain("d").unwrap().find(entries).unwrap();
            found.value_metrics(entries).map(|_| found.value_label(entries))
        };
        assert_eq!(
            label(&[("route", "api/v1"), ("method", "GET"), ("user", "u")]).as_deref(),
            Some("route_api/*.method_GET.user")
        );
        assert_eq!(label(&[("x", "1"), ("y", "2")]).as_deref(), Some("x_1.y_2"));
        assert_eq!(label(&[("z", "1")]), None);
    }
}
