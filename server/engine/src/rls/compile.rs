//! Compiles files of limits into [`Rules`].

use std::{collections::HashMap, sync::Arc};

use super::{
    counter_key::{bucket, limit_name},
    file::{DescriptorRule, Fault, File, LimitRule},
    metrics::RateLimitMetrics,
    pattern::Pattern,
    request::DescriptorEntry,
    tree::{Amount, Domain, Level, Limit, Node, Rules, Values},
};

/// Compiles all files. Unless `merge` is set, a domain must not be in more than one file.
///
/// # Errors
/// Returns an error for each domain and descriptor that is defined twice.
pub(super) fn compile(
    files: Vec<File>,
    merge: bool,
    metrics: &RateLimitMetrics,
) -> Result<Rules, Vec<Fault>> {
    let mut compiler = Compiler {
        metrics,
        limits: 0,
        faults: Vec::new(),
        metadata: Vec::new(),
        named: Vec::new(),
        file: String::new(),
    };
    let mut domains: HashMap<Box<str>, Domain> = HashMap::new();
    let (mut owners, mut warnings) = (HashMap::<String, String>::new(), Vec::new());
    for file in files {
        compiler.file.clone_from(&file.name);
        if let Some(owner) = owners.get(&file.domain).filter(|_| !merge) {
            let text = format!(
                "must be in one file unless merge_domains is set, got {:?} of {owner} again",
                file.domain
            );
            compiler.fault("domain", text);
            // Also reports the errors of this file's descriptors.
            compiler.level(&mut Level::default(), &file.domain, &file.descriptors, &mut Vec::new());
            continue;
        }
        owners.entry(file.domain.clone()).or_insert_with(|| file.name.clone());
        let domain = domains.entry(file.domain.as_str().into()).or_insert_with_key(|name| Domain {
            name: name.clone(),
            level: Level::default(),
            no_limit: metrics.no_limit(name),
            overrides: metrics.of(name, "override"),
        });
        let limits = compiler.limits;
        compiler.level(&mut domain.level, &domain.name, &file.descriptors, &mut Vec::new());
        if compiler.limits == limits {
            warnings.push(format!("{}: sets no limit", file.name));
        }
    }
    let Compiler { limits, faults, metadata, named, .. } = compiler;
    warnings.extend(doubtful_replacements(&named));
    if faults.is_empty() { Ok(Rules { domains, limits, warnings, metadata }) } else { Err(faults) }
}

struct Compiler<'a> {
    metrics: &'a RateLimitMetrics,
    limits: usize,
    faults: Vec<Fault>,
    /// Paths of the metadata of limits, each as `file: path`.
    metadata: Vec<String>,
    /// The limits that have a name, or replace others.
    named: Vec<NamedLimit>,
    /// The name of the file that is being compiled.
    file: String,
}

/// What a limit replaces, for warnings.
struct NamedLimit {
    domain: String,
    name: String,
    replaces: Vec<String>,
    /// The place of `replaces`, as `file: path`.
    place: String,
}

/// Returns warnings about replacements that remove no limit, or remove both.
fn doubtful_replacements(named: &[NamedLimit]) -> Vec<String> {
    let mut by_name = HashMap::<_, Vec<&NamedLimit>>::new();
    for limit in named {
        by_name.entry((limit.domain.as_str(), limit.name.as_str())).or_default().push(limit);
    }
    let mut warnings = Vec::new();
    for limit in named {
        for (i, other) in limit.replaces.iter().enumerate() {
            let place = format!("{}[{i}].name", limit.place);
            match by_name.get(&(limit.domain.as_str(), other.as_str())) {
                None => warnings.push(format!("{place}: no limit of the domain has the name {other:?}")),
                Some(others) if others.iter().any(|other| other.replaces.contains(&limit.name)) => {
                    warnings.push(format!(
                        "{place}: {other:?} replaces this limit, too: together, neither counts"
                    ));
                }
                Some(_) => {}
            }
        }
    }
    warnings
}

impl Compiler<'_> {
    fn fault(&mut self, path: &str, text: String) {
        self.faults.push(Fault { file: self.file.clone(), path: path.to_owned(), text });
    }

    /// Adds `descriptors` to a level. `path` contains the descriptors that lead to the level.
    fn level<'f>(
        &mut self,
        level: &mut Level,
        domain: &str,
        descriptors: &'f [DescriptorRule],
        path: &mut Vec<&'f DescriptorRule>,
    ) {
        for descriptor in descriptors {
            path.push(descriptor);
            let values = level.keys.entry(descriptor.key.as_str().into()).or_default();
            if descriptor.metadata.is_some() {
                self.metadata.push(format!("{}: {}.metadata", self.file, descriptor.path));
            }
            if let Some(node) = self.place(values, descriptor) {
                node.limit = descriptor.limit.as_ref().map(|limit| Arc::new(self.limit(domain, limit, path)));
                self.level(&mut node.level, domain, &descriptor.descriptors, path);
            }
            path.pop();
        }
    }

    /// Returns a new node for a descriptor. If the level already has that descriptor, records an error and returns
    /// `None`.
    fn place<'v>(&mut self, values: &'v mut Values, descriptor: &DescriptorRule) -> Option<&'v mut Node> {
        let mut node = Node::default();
        let Some(value) = descriptor.value.as_deref() else {
            if values.any.is_some() {
                self.fault(
                    &descriptor.path,
                    format!("must be named once, got the key {:?} without a value again", descriptor.key),
                );
                return None;
            }
            return Some(values.any.insert(Box::new(node)));
        };
        let is_known = values.exact.contains_key(value)
            || values.wildcards.iter().any(|(pattern, _)| pattern.text() == value);
        if is_known {
            let text = format!(
                "must be named once, got the key {:?} with the value {value:?} again",
                descriptor.key
            );
            self.fault(&descriptor.path, text);
            return None;
        }
        Some(match Pattern::parse(value) {
            Some(pattern) => {
                node.shared = descriptor.share_threshold.then(|| value.into());
                values.wildcards.push((pattern, node));
                &mut values.wildcards.last_mut()?.1
            }
            None => values.exact.entry(value.into()).or_insert(node),
        })
    }

    fn limit(&mut self, domain: &str, limit: &LimitRule, path: &[&DescriptorRule]) -> Limit {
        self.limits += 1;
        let leaf = path.last();
        let detailed = leaf.is_some_and(|leaf| leaf.detailed_metric);
        let is_exact = |step: &DescriptorRule| step.value.as_ref().is_some_and(|value| !value.contains('*'));
        let has_value_metrics = detailed || path.iter().any(|step| step.value_to_metric && !is_exact(step));
        let labelled = path
            .iter()
            .enumerate()
            .filter(|(_, step)| detailed || step.value_to_metric || is_exact(step))
            .fold(0, |bits, (i, _)| bits | 1 << i);
        if let Some(leaf) = leaf.filter(|_| limit.name.is_some() || !limit.replaces.is_empty()) {
            self.named.push(NamedLimit {
                domain: domain.to_owned(),
                name: limit.name.clone().unwrap_or_default(),
                replaces: limit.replaces.clone(),
                place: format!("{}: {}.rate_limit.replaces", self.file, leaf.path),
            });
        }
        let label = limit.name.clone().unwrap_or_else(|| label(path));
        let has_one_bucket = path.iter().all(|step| is_exact(step) || step.share_threshold);
        let entries: Vec<DescriptorEntry<'_>> =
            path.iter().map(|step| (step.key.as_str(), step.value.as_deref().unwrap_or_default())).collect();
        Limit {
            name: limit.name.as_deref().unwrap_or_default().into(),
            counter: limit_name(limit.name.as_deref().unwrap_or("limit")),
            amount: limit
                .amount
                .map_or(Amount::Unlimited, |(requests, unit)| Amount::PerUnit(requests, unit)),
            shadow: leaf.is_some_and(|leaf| leaf.shadow),
            quota: leaf.is_some_and(|leaf| leaf.quota),
            replaces: limit.replaces.iter().map(|name| name.as_str().into()).collect(),
            metrics: self.metrics.of(domain, &label),
            value_metrics: has_value_metrics.then(|| self.metrics.by_value(domain, &label)),
            labelled,
            metadata: leaf.and_then(|leaf| leaf.metadata.clone()),
            bucket: has_one_bucket.then(|| bucket(domain, &entries, |_| None)),
        }
    }
}

/// Returns the metric label of a limit without a name: its descriptor path in the file, as `key_value.key`.
fn label(path: &[&DescriptorRule]) -> String {
    let part = |step: &&DescriptorRule| match &step.value {
        Some(value) => format!("{}_{value}", step.key),
        None => step.key.clone(),
    };
    path.iter().map(part).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rls::file::parse;

    fn compile_texts(texts: &[&str], merge: bool) -> Result<Rules, Vec<String>> {
        let files =
            texts.iter().zip(["a.yaml", "b.yaml"]).flat_map(|(text, name)| parse(name, text).unwrap().files);
        compile(files.collect(), merge, &RateLimitMetrics::unregistered())
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn duplicate_descriptors_and_domains_are_faults() {
        let twice = "domain: d\ndescriptors: [{key: a}, {key: a, value: b}, {key: a, value: 'b*'}, {key: a}, \
                     {key: a, value: b}, {key: a, value: 'b*'}, {key: c, descriptors: [{key: a}, {key: a}]}]";
        assert_eq!(
            compile_texts(&[twice], false).err().unwrap(),
            [
                "a.yaml: descriptors[3]: must be named once, got the key \"a\" without a value again",
                "a.yaml: descriptors[4]: must be named once, got the key \"a\" with the value \"b\" again",
                "a.yaml: descriptors[5]: must be named once, got the key \"a\" with the value \"b*\" again",
                "a.yaml: descriptors[6].descriptors[1]: must be named once, got the key \"a\" without a value again",
            ]
        );
        let (a, b) = ("domain: d\ndescriptors: [{key: a}]", "domain: d\ndescriptors: [{key: b}]");
        assert_eq!(
            compile_texts(&[a, b], false).err().unwrap(),
            ["b.yaml: domain: must be in one file unless merge_domains is set, got \"d\" of a.yaml again"]
        );
        assert!(compile_texts(&[a, b], true).is_ok());
        assert_eq!(compile_texts(&[a, a], true).err().unwrap().len(), 1);
    }

    #[test]
    fn replacements_that_remove_no_limit_or_both_are_warnings() {
        let limit = |key: &str, name: &str, replaces: &str| {
            format!(
                "{{key: {key}, rate_limit: {{unlimited: true, name: '{name}', replaces: [{{name: {replaces}}}]}}}}"
            )
        };
        let (a, b, c) = (limit("a", "a", "b"), limit("b", "b", "a"), limit("c", "", "typo"));
        let file = format!("domain: d\ndescriptors: [{a}, {b}, {c}, {}]", limit("d", "d", "a"));
        let other = "domain: e\ndescriptors: [{key: a, rate_limit: {unlimited: true, name: typo}}]";
        assert_eq!(
            compile_texts(&[&file, other], false).unwrap().warnings(),
            [
                "a.yaml: descriptors[0].rate_limit.replaces[0].name: \"b\" replaces this limit, too: together, neither counts",
                "a.yaml: descriptors[1].rate_limit.replaces[0].name: \"a\" replaces this limit, too: together, neither counts",
                "a.yaml: descriptors[2].rate_limit.replaces[0].name: no limit of the domain has the name \"typo\"",
            ]
        );
    }
}
