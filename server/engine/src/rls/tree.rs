//! Files of limits, compiled: a tree of hash maps that finds the limit of a descriptor.

use std::{collections::HashMap, fmt, fmt::Write as _, sync::Arc};

use evenkeel_domain::limit::{Bucket, facts::encode_value};

use super::{
    file::{DEPTH_MAX, Fault, File, LimitRule, Rule},
    tally::{Details, Tallies, Tally},
    unit::Unit,
};

/// Longest tag of a counter; longer ones are kept as a digest.
const TAG_BYTES_MAX: usize = 512;
/// Names of entries whose values are not to be shown.
const SECRETS: [&str; 8] =
    ["auth", "token", "secret", "cookie", "password", "api_key", "api-key", "credential"];

/// A key and its value.
pub type Entry<'a> = (&'a str, &'a str);

/// The limits of all domains.
pub struct Rules {
    domains: HashMap<Box<str>, Domain>,
    limits: usize,
    without_effect: Vec<String>,
}

pub(super) struct Domain {
    name: Box<str>,
    level: Level,
    /// Descriptors without a limit.
    pub(super) unlisted: prometheus::IntCounter,
    /// Descriptors that bring their limit with them.
    pub(super) overrides: Arc<Tally>,
}

/// Descriptors side by side.
#[derive(Default)]
struct Level {
    keys: HashMap<Box<str>, Values>,
}

/// Descriptors of one key.
#[derive(Default)]
struct Values {
    exact: HashMap<Box<str>, Node>,
    /// In the order of the file: the first that matches counts.
    wildcards: Vec<(Pattern, Node)>,
    any: Option<Box<Node>>,
}

#[derive(Default)]
struct Node {
    limit: Option<Arc<Limit>>,
    level: Level,
    /// The pattern in whose name all values that match are counted together.
    shared: Option<Box<str>>,
}

/// A limit.
pub(super) struct Limit {
    /// Empty where it has none.
    pub(super) name: Arc<str>,
    /// Its name in the store.
    pub(super) counter: Arc<str>,
    pub(super) kind: Kind,
    pub(super) shadow: bool,
    pub(super) quota: bool,
    pub(super) replaces: Box<[Box<str>]>,
    pub(super) tally: Arc<Tally>,
    details: Option<Arc<Details>>,
    /// Entries whose values are shown in detailed metrics, a bit for each.
    shown: u32,
    /// Where it counts, where that does not depend on the request.
    bucket: Option<Arc<Bucket>>,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Unlimited,
    PerUnit(u32, Unit),
}

/// A limit, and the way to it.
pub(super) struct Found<'r> {
    pub(super) limit: &'r Arc<Limit>,
    domain: &'r Domain,
    way: [Option<&'r Node>; DEPTH_MAX],
}

/// A value with `*` in it, each of which stands for any text.
struct Pattern {
    first: Box<str>,
    middle: Box<[Box<str>]>,
    last: Box<str>,
}

impl Pattern {
    /// `None` where there is no `*`.
    fn parse(value: &str) -> Option<Self> {
        let (first, rest) = value.split_once('*')?;
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let middle = middle.split('*').filter(|part| !part.is_empty()).map(Into::into).collect();
        Some(Self { first: first.into(), middle, last: last.into() })
    }

    fn matches(&self, value: &str) -> bool {
        let Some(rest) = value.strip_prefix(&*self.first) else { return false };
        let Some(mut rest) = rest.strip_suffix(&*self.last) else { return false };
        self.middle.iter().all(|part| match rest.find(&**part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
    }
}

impl Rules {
    /// Puts files together. A domain may be spread over several only where `merge` says so.
    ///
    /// # Errors
    /// Domains and descriptors named twice.
    pub(super) fn compile(files: Vec<File>, merge: bool, tallies: &Tallies) -> Result<Self, Vec<Fault>> {
        let mut compiler = Compiler { tallies, limits: 0, faults: Vec::new(), file: String::new() };
        let mut domains: HashMap<Box<str>, Domain> = HashMap::new();
        let (mut owners, mut without_effect) = (HashMap::<String, String>::new(), Vec::new());
        for file in files {
            without_effect.extend(file.without_effect.iter().map(|path| format!("{}: {path}", file.name)));
            compiler.file.clone_from(&file.name);
            if let Some(owner) = owners.get(&file.domain).filter(|_| !merge) {
                let text = format!(
                    "must be in one file unless merge_domains is set, got {:?} of {owner} again",
                    file.domain
                );
                compiler.fault("domain", text);
                // Its own faults are told all the same.
                compiler.level(&mut Level::default(), &file.domain, &file.rules, &mut Vec::new());
                continue;
            }
            owners.entry(file.domain.clone()).or_insert_with(|| file.name.clone());
            let domain = domains.entry(file.domain.as_str().into()).or_insert_with_key(|name| Domain {
                name: name.clone(),
                level: Level::default(),
                unlisted: tallies.unlisted(name),
                overrides: tallies.of(name, "override"),
            });
            let mut way = Vec::new();
            compiler.level(&mut domain.level, &domain.name, &file.rules, &mut way);
        }
        let Compiler { limits, faults, .. } = compiler;
        if faults.is_empty() { Ok(Self { domains, limits, without_effect }) } else { Err(faults) }
    }

    pub(super) fn domain(&self, name: &str) -> Option<&Domain> {
        self.domains.get(name)
    }

    /// Number of domains and of limits.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.domains.len(), self.limits)
    }

    /// Fields that are understood and have no effect here.
    #[must_use]
    pub fn without_effect(&self) -> &[String] {
        &self.without_effect
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("size", &self.size()).finish_non_exhaustive()
    }
}

struct Compiler<'a> {
    tallies: &'a Tallies,
    limits: usize,
    faults: Vec<Fault>,
    file: String,
}

impl Compiler<'_> {
    fn fault(&mut self, path: &str, text: String) {
        self.faults.push(Fault { file: self.file.clone(), path: path.to_owned(), text });
    }

    fn level<'f>(&mut self, level: &mut Level, domain: &str, rules: &'f [Rule], way: &mut Vec<&'f Rule>) {
        for rule in rules {
            way.push(rule);
            let values = level.keys.entry(rule.key.as_str().into()).or_default();
            if let Some(node) = self.place(values, rule) {
                node.limit = rule.limit.as_ref().map(|limit| Arc::new(self.limit(domain, limit, way)));
                self.level(&mut node.level, domain, &rule.rules, way);
            }
            way.pop();
        }
    }

    /// A new place for a descriptor; `None`, with a fault, where it was named before.
    fn place<'v>(&mut self, values: &'v mut Values, rule: &Rule) -> Option<&'v mut Node> {
        let mut node = Node::default();
        let Some(value) = rule.value.as_deref() else {
            if values.any.is_some() {
                self.fault(
                    &rule.path,
                    format!("must be named once, got the key {:?} without a value again", rule.key),
                );
                return None;
            }
            return Some(values.any.insert(Box::new(node)));
        };
        let again = values.exact.contains_key(value)
            || values.wildcards.iter().any(|(pattern, _)| pattern.text() == value);
        if again {
            let text =
                format!("must be named once, got the key {:?} with the value {value:?} again", rule.key);
            self.fault(&rule.path, text);
            return None;
        }
        Some(match Pattern::parse(value) {
            Some(pattern) => {
                node.shared = rule.share_threshold.then(|| value.into());
                values.wildcards.push((pattern, node));
                &mut values.wildcards.last_mut()?.1
            }
            None => values.exact.entry(value.into()).or_insert(node),
        })
    }

    fn limit(&mut self, domain: &str, limit: &LimitRule, way: &[&Rule]) -> Limit {
        self.limits += 1;
        let is_exact = |rule: &Rule| rule.value.as_ref().is_some_and(|value| !value.contains('*'));
        let detailed = way.last().is_some_and(|rule| rule.detailed_metric);
        let has_details = detailed || way.iter().any(|rule| rule.value_to_metric && !is_exact(rule));
        let shown =
            way.iter().enumerate().filter(|(_, rule)| detailed || rule.value_to_metric || is_exact(rule));
        let label = limit.name.clone().unwrap_or_else(|| {
            let part = |rule: &&Rule| match &rule.value {
                Some(value) => format!("{}_{value}", rule.key),
                None => rule.key.clone(),
            };
            way.iter().map(part).collect::<Vec<_>>().join(".")
        });
        let fixed = way.iter().all(|rule| is_exact(rule) || rule.share_threshold);
        let entries: Vec<Entry<'_>> =
            way.iter().map(|rule| (rule.key.as_str(), rule.value.as_deref().unwrap_or_default())).collect();
        let counter = counter(limit.name.as_deref().unwrap_or("limit"));
        let leaf = way.last();
        Limit {
            name: limit.name.as_deref().unwrap_or_default().into(),
            counter,
            kind: limit.amount.map_or(Kind::Unlimited, |(requests, unit)| Kind::PerUnit(requests, unit)),
            shadow: leaf.is_some_and(|rule| rule.shadow),
            quota: leaf.is_some_and(|rule| rule.quota),
            replaces: limit.replaces.iter().map(|name| name.as_str().into()).collect(),
            tally: self.tallies.of(domain, &label),
            details: has_details.then(|| self.tallies.details(domain, &label)),
            shown: shown.fold(0, |bits, (i, _)| bits | 1 << i),
            bucket: fixed.then(|| bucket(domain, &entries, |_| None)),
        }
    }
}

impl Pattern {
    /// As it was written, but for stars in a row.
    fn text(&self) -> String {
        let mut text = self.first.to_string();
        for part in &self.middle {
            text.push('*');
            text.push_str(part);
        }
        text.push('*');
        text.push_str(&self.last);
        text
    }
}

impl Level {
    fn get(&self, (key, value): Entry<'_>) -> Option<&Node> {
        let values = self.keys.get(key)?;
        let wildcard =
            || values.wildcards.iter().find(|(pattern, _)| pattern.matches(value)).map(|(_, node)| node);
        values.exact.get(value).or_else(wildcard).or(values.any.as_deref())
    }
}

impl Domain {
    /// The limit of a descriptor: all its entries must lead to it, one level each.
    pub(super) fn find(&self, entries: &[Entry<'_>]) -> Option<Found<'_>> {
        if entries.len() > DEPTH_MAX {
            return None;
        }
        let mut way = [None; DEPTH_MAX];
        let mut level = &self.level;
        for (entry, step) in entries.iter().zip(&mut way) {
            let node = level.get(*entry)?;
            *step = Some(node);
            level = &node.level;
        }
        let limit = way[entries.len().checked_sub(1)?]?.limit.as_ref()?;
        Some(Found { limit, domain: self, way })
    }

    /// Where a descriptor is counted that brings its limit with it.
    pub(super) fn override_bucket(&self, entries: &[Entry<'_>]) -> Arc<Bucket> {
        bucket(&self.name, entries, |_| None)
    }
}

impl Found<'_> {
    /// Where the descriptor is counted.
    pub(super) fn bucket(&self, entries: &[Entry<'_>]) -> Arc<Bucket> {
        match &self.limit.bucket {
            Some(bucket) => Arc::clone(bucket),
            None => bucket(&self.domain.name, entries, |i| self.shared(i)),
        }
    }

    /// What is counted in metrics by the values of the request.
    pub(super) fn detail(&self, entries: &[Entry<'_>]) -> Option<Arc<Tally>> {
        Some(self.limit.details.as_ref()?.of(&self.detail_label(entries)))
    }

    fn detail_label(&self, entries: &[Entry<'_>]) -> String {
        let mut label = String::with_capacity(64);
        for (i, (key, value)) in entries.iter().enumerate() {
            if i > 0 {
                label.push('.');
            }
            label.push_str(key);
            if self.limit.shown & 1 << i != 0 {
                label.push('_');
                match self.shared(i) {
                    Some(pattern) => label.push_str(pattern.split('*').next().unwrap_or_default()),
                    None => encode_value(is_secret(key), value, &mut label),
                }
            }
        }
        label
    }

    fn shared(&self, i: usize) -> Option<&str> {
        self.way.get(i).copied().flatten()?.shared.as_deref()
    }
}

/// Where entries are counted: `rls:domain|key=value|key=value`, all of it the tag, so that counters spread over a
/// Redis Cluster.
fn bucket<'s>(domain: &str, entries: &[Entry<'_>], shared: impl Fn(usize) -> Option<&'s str>) -> Arc<Bucket> {
    let mut tag = String::with_capacity(96);
    tag.push_str("rls:");
    encode_value(false, domain, &mut tag);
    let start = tag.len();
    for (i, (key, value)) in entries.iter().enumerate() {
        tag.push('|');
        encode_value(false, key, &mut tag);
        tag.push('=');
        encode_value(is_secret(key), shared(i).unwrap_or(value), &mut tag);
    }
    if tag.len() > TAG_BYTES_MAX {
        let digest = ring::digest::digest(&ring::digest::SHA256, &tag.as_bytes()[start..]);
        tag.truncate(start);
        tag.push_str("|#");
        for byte in &digest.as_ref()[..16] {
            let _ = write!(tag, "{byte:02x}");
        }
    }
    Arc::new(Bucket { tag, rest: String::new() })
}

/// Before the unit, in names of counters of limits that come with a descriptor.
const OVERRIDE: &str = "override.";

/// Name of the counter of a limit that comes with a descriptor. By unit: windows of different lengths cannot share one.
pub(super) fn override_counter(unit: Unit) -> Arc<str> {
    format!("{OVERRIDE}{unit}").into()
}

/// Name of the counter of a file's limit: never one of [`override_counter`].
fn counter(limit: &str) -> Arc<str> {
    let mut name = String::new();
    encode_value(false, limit, &mut name);
    match name.strip_prefix(OVERRIDE) {
        Some(rest) => format!("override%2E{rest}").into(),
        None => name.into(),
    }
}

fn is_secret(key: &str) -> bool {
    let has =
        |word: &str| key.as_bytes().windows(word.len()).any(|at| at.eq_ignore_ascii_case(word.as_bytes()));
    SECRETS.into_iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(yaml: &[&str], merge: bool) -> Result<Rules, Vec<String>> {
        let files =
            yaml.iter().zip(["a.yaml", "b.yaml"]).map(|(yaml, name)| File::parse(name, yaml).unwrap());
        let tallies = Tallies::unregistered();
        Rules::compile(files.collect(), merge, &tallies)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    /// Name of the limit found and tag of its counter.
    fn found(rules: &Rules, entries: &[Entry<'_>]) -> Option<(String, String)> {
        let found = rules.domain("d")?.find(entries)?;
        Some((found.limit.name.to_string(), found.bucket(entries).tag.clone()))
    }

    /// Entries, and the name and tag of the limit they lead to.
    type Case<'a> = (&'a [Entry<'a>], Option<(&'a str, &'a str)>);

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
        let rules = compile(&[RULES], false).unwrap();
        assert_eq!(rules.size(), (1, 9));
        let cases: [Case<'_>; 18] = [
            (&[("a", "1")], Some(("a", "rls:d|a=1"))),
            (&[("a", "")], Some(("a", "rls:d|a="))),
            (&[("a", "x")], Some(("a-x", "rls:d|a=x"))),
            (&[("a", "allowed")], None),
            (&[("c", "1")], None),
            (&[], None),
            // Each entry has to lead one level on, and the last to a limit.
            (&[("a", "x"), ("b", "1")], Some(("a-x-b", "rls:d|a=x|b=1"))),
            (&[("a", "x"), ("b", "y1")], Some(("a-x-by", "rls:d|a=x|b=y1"))),
            (&[("a", "1"), ("b", "1")], None),
            (&[("b", "1"), ("a", "x")], None),
            (&[("a", "x"), ("b", "1"), ("c", "1")], None),
            (&[("f", "f/1")], None),
            // Exact values before patterns, and these in the order of the file.
            (&[("p", "/v1/m")], Some(("m", "rls:d|p=/v1/m"))),
            (&[("p", "/v1/m/chat/x")], Some(("chat", "rls:d|p=/v1/m/chat/x"))),
            (&[("p", "/v1/other")], Some(("v1", "rls:d|p=/v1/*"))),
            (&[("p", "/v2")], None),
            (&[("f", "f/1"), ("g", "2")], Some(("f-g", "rls:d|f=f/*|g=2"))),
            (&[("a", "{|}= %")], Some(("a", "rls:d|a=%7B%7C%7D%3D%20%25"))),
        ];
        for (entries, expected) in cases {
            let expected = expected.map(|(name, tag)| (name.to_owned(), tag.to_owned()));
            assert_eq!(found(&rules, entries), expected, "{entries:?}");
        }
        let (_, tag) = found(&rules, &[("authorization", "Bearer x")]).unwrap();
        assert!(tag.starts_with("rls:d|authorization=#") && !tag.contains("Bearer"), "{tag}");
        let (_, tag) = found(&rules, &[("a", &"v".repeat(100))]).unwrap();
        assert!(tag.len() < 60, "{tag}");
    }

    #[test]
    fn patterns() {
        let matches = |pattern, value| Pattern::parse(pattern).unwrap().matches(value);
        for (pattern, value, expected) in [
            ("*", "", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("/api*v1", "/api/x/v1", true),
            ("/api*v1", "/apiv1", true),
            ("/api*v1", "/api/v12", false),
            ("a*a", "a", false),
            ("s*e*r", "s1e2r", true),
            ("s*e*r", "sr", false),
            ("*a*b*", "xbxaxbx", true),
            ("*a*b*", "xbxa", false),
        ] {
            assert_eq!(matches(pattern, value), expected, "{pattern} {value}");
        }
        assert!(Pattern::parse("a").is_none());
    }

    #[test]
    fn what_is_named_twice_is_a_fault() {
        let twice = "domain: d\ndescriptors: [{key: a}, {key: a, value: b}, {key: a, value: 'b*'}, {key: a}, \
                     {key: a, value: b}, {key: a, value: 'b*'}, {key: c, descriptors: [{key: a}, {key: a}]}]";
        assert_eq!(
            compile(&[twice], false).err().unwrap(),
            [
                "a.yaml: descriptors[3]: must be named once, got the key \"a\" without a value again",
                "a.yaml: descriptors[4]: must be named once, got the key \"a\" with the value \"b\" again",
                "a.yaml: descriptors[5]: must be named once, got the key \"a\" with the value \"b*\" again",
                "a.yaml: descriptors[6].descriptors[1]: must be named once, got the key \"a\" without a value again",
            ]
        );
        let (a, b) = ("domain: d\ndescriptors: [{key: a}]", "domain: d\ndescriptors: [{key: b}]");
        assert_eq!(
            compile(&[a, b], false).err().unwrap(),
            ["b.yaml: domain: must be in one file unless merge_domains is set, got \"d\" of a.yaml again"]
        );
        assert!(compile(&[a, b], true).is_ok());
        assert_eq!(compile(&[a, a], true).err().unwrap().len(), 1);
    }

    #[test]
    fn details_show_what_they_are_to() {
        let rules = compile(
            &["domain: d
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
"],
            false,
        )
        .unwrap();
        let label = |entries: &[Entry<'_>]| {
            let found = rules.domain("d").unwrap().find(entries).unwrap();
            found.detail(entries).map(|_| found.detail_label(entries))
        };
        assert_eq!(
            label(&[("route", "api/v1"), ("method", "GET"), ("user", "u")]).as_deref(),
            Some("route_api/.method_GET.user")
        );
        assert_eq!(label(&[("x", "1"), ("y", "2")]).as_deref(), Some("x_1.y_2"));
        assert_eq!(label(&[("z", "1")]), None);
    }
}
