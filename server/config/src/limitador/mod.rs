//! Converts the limits of Limitador to Evenkeel's. A file can be bare, a Limitador resource, or a ConfigMap. Nothing is
//! lost silently: what has no equivalent is an error. docs/migrating-from-limitador.md lists the differences from
//! Limitador.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use evenkeel_domain::limit::{AMOUNT_MAX, Counts};

use self::{
    conditions::Conditions,
    file::{Found, Limit, read},
};
use super::{
    Faults,
    check::Check,
    limits::{
        self,
        raw::{RawAlgorithm, RawLimit},
    },
};

mod conditions;
mod expression;
mod file;
#[cfg(test)]
mod tests;

/// Number of characters of a Limitador name that a limit's name has. The rest is for a number that makes it unique.
const NAME_CHARS_MAX: usize = 56;
/// The longest period of a limit, 31 days.
const SECONDS_MAX: u64 = 31 * 86_400;

/// What Limitador's file does not contain.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The namespace to convert. `None`: the only one.
    pub namespace: Option<String>,
    /// Entries of descriptors, and the attributes from which the gateway fills them.
    pub attributes: Vec<(String, String)>,
    /// Names of the limits for which the gateway reports tokens as hits.
    pub tokens: Vec<String>,
}

/// Converts a file to limits in YAML. Returns the YAML and the warnings.
///
/// # Errors
/// Returns every error in the file, not only the first.
pub fn convert(options: &Options, file: &str, text: &str) -> Result<(String, Vec<String>), Faults> {
    let mut check = Check::default();
    let found = read(&mut check, file, text);
    let chosen = choose(&mut check, file, options, found);
    let mut converter = Converter {
        check: &mut check,
        options,
        names: HashSet::new(),
        attributes: BTreeMap::new(),
        tokens: BTreeSet::new(),
    };
    let limits: Vec<RawLimit> = chosen.iter().map(|(path, limit)| converter.limit(path, limit)).collect();
    converter.unused();
    converter.warnings(file, &chosen);
    let yaml = limits::converted_yaml(&mut check, file, &limits);
    let (faults, warnings) = check.into_parts();
    if faults.is_empty() { Ok((yaml, warnings)) } else { Err(Faults(faults)) }
}

/// Returns the limits of the namespace to convert.
fn choose(check: &mut Check, file: &str, options: &Options, found: Found) -> Found {
    let namespaces: BTreeSet<String> = found.iter().map(|(_, limit)| limit.namespace.clone()).collect();
    let list = || namespaces.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let Some(chosen) = &options.namespace else {
        if namespaces.len() > 1 {
            let expected = "one namespace, because limits of Evenkeel have none: choose it with --namespace";
            check.fault(file, expected, list());
        }
        return found;
    };
    if !namespaces.contains(chosen) {
        check.fault("--namespace", &format!("one of {}", list()), format!("{chosen:?}"));
    }
    let (chosen, others): (Found, Found) =
        found.into_iter().partition(|(_, limit)| limit.namespace == *chosen);
    for (path, limit) in others {
        check.warn(&path, &format!("is not converted: its namespace is {:?}", limit.namespace));
    }
    chosen
}

struct Converter<'a> {
    check: &'a mut Check,
    options: &'a Options,
    names: HashSet<String>,
    /// The attributes of the entries found so far.
    attributes: BTreeMap<String, String>,
    /// The names of `tokens` found so far.
    tokens: BTreeSet<String>,
}

impl Converter<'_> {
    fn limit(&mut self, path: &str, limit: &Limit) -> RawLimit {
        if limit.namespace.is_empty() {
            self.check.required(&format!("{path}.namespace"), "the name of a namespace");
        }
        // The faults are at the fields of Limitador, not at those of the converted limit.
        if let Some(amount) = limit.max_value.filter(|amount| *amount > AMOUNT_MAX) {
            self.check.fault(&format!("{path}.max_value"), &format!("0..{AMOUNT_MAX}"), amount);
        }
        let amount = limit.max_value.filter(|amount| *amount <= AMOUNT_MAX).unwrap_or(1);
        let is_period = |seconds: &u64| (1..=SECONDS_MAX).contains(seconds);
        if let Some(seconds) = limit.seconds.filter(|seconds| !is_period(seconds)) {
            self.check.fault(&format!("{path}.seconds"), &format!("1..{SECONDS_MAX}"), seconds);
        }
        let seconds = limit.seconds.filter(is_period).unwrap_or(1);
        let key = limit.variables.iter().enumerate().filter_map(|(i, source)| {
            let entry = expression::variable(source).map_err(|got| {
                let expected = "an entry such as descriptors[0]['user_id']";
                self.check.fault(&format!("{path}.variables[{i}]"), expected, format!("{got} in {source:?}"));
            });
            Some(self.attribute(&entry.ok()?))
        });
        let key = key.collect();
        let mut when = Vec::new();
        for (i, source) in limit.conditions.iter().enumerate() {
            let converted = expression::predicate(source).and_then(|predicate| {
                Conditions { attribute: &mut |entry| self.attribute(entry) }.of(&predicate)
            });
            match converted {
                Ok(conditions) => when.extend(conditions),
                Err(got) => {
                    let expected = "tests of entries such as descriptors[0]['x'] == 'a', joined by &&";
                    self.check.fault(
                        &format!("{path}.conditions[{i}]"),
                        expected,
                        format!("{got} in {source:?}"),
                    );
                }
            }
        }
        let namespace = if limit.namespace.is_empty() { "limit" } else { &limit.namespace };
        let own_name = limit.name.as_deref().or(limit.id.as_deref());
        let is_listed =
            |name: &&String| Some(*name) == limit.name.as_ref() || Some(*name) == limit.id.as_ref();
        let listed = self.options.tokens.iter().find(is_listed);
        self.tokens.extend(listed.cloned());
        RawLimit {
            name: self.name(own_name.filter(|name| !name.is_empty()).unwrap_or(namespace)),
            counts: Some(if listed.is_some() { Counts::Tokens } else { Counts::Requests }),
            amount: Some(amount.to_string()),
            per: Some(period(seconds)),
            algorithm: Some(RawAlgorithm::FixedWindow),
            key,
            when,
            ..RawLimit::default()
        }
    }

    /// Returns a unique name.
    fn name(&mut self, name: &str) -> String {
        let known = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
        let base: String = name.chars().map(known).take(NAME_CHARS_MAX).collect();
        let mut unique = base.clone();
        for n in 2.. {
            if self.names.insert(unique.clone()) {
                break;
            }
            unique = format!("{base}-{n}");
        }
        unique
    }

    /// Returns the attribute from which the gateway fills an entry.
    fn attribute(&mut self, entry: &str) -> String {
        let given = self.options.attributes.iter().find(|(name, _)| name == entry);
        let attribute =
            given.map_or_else(|| format!("descriptor:{entry}"), |(_, attribute)| attribute.clone());
        self.attributes.insert(entry.to_owned(), attribute.clone());
        attribute
    }

    /// Reports options that name nothing in the file.
    fn unused(&mut self) {
        for (entry, _) in &self.options.attributes {
            if !self.attributes.contains_key(entry) {
                self.check.fault("--attribute", "an entry that the limits use", format!("{entry:?}"));
            }
        }
        for name in &self.options.tokens {
            if !self.tokens.contains(name) {
                self.check.fault("--tokens", "the name or id of a limit", format!("{name:?}"));
            }
        }
    }

    fn warnings(&mut self, file: &str, limits: &Found) {
        let mut seen: Vec<(&str, &Limit)> = Vec::new();
        for (path, limit) in limits {
            let is_same = |(_, other): &&(&str, &Limit)| {
                let sorted = |texts: &[String]| texts.iter().cloned().collect::<BTreeSet<_>>();
                other.seconds == limit.seconds
                    && sorted(&other.conditions) == sorted(&limit.conditions)
                    && sorted(&other.variables) == sorted(&limit.variables)
            };
            match seen.iter().find(is_same) {
                Some((first, _)) => self.check.fault(
                    path,
                    "a limit with other seconds, conditions or variables, because Limitador keeps one of the two",
                    format_args!("those of {first}"),
                ),
                None => seen.push((path, limit)),
            }
            if let (Some(name), Some(id)) = (&limit.name, &limit.id) {
                let warning = format!("{id:?} is not converted: the limit's name is {name:?}");
                self.check.warn(&format!("{path}.id"), &warning);
            }
        }
        if let Some((_, limit)) = limits.first() {
            let warning = format!(
                "of the namespace {:?} apply to every request: add a condition on cluster or route if the gateways \
                 have others",
                limit.namespace
            );
            self.check.warn(&format!("{file}: limits"), &warning);
        }
        let unmapped: Vec<&str> = self
            .attributes
            .iter()
            .filter(|(entry, attribute)| attribute.strip_prefix("descriptor:") == Some(entry.as_str()))
            .map(|(entry, _)| entry.as_str())
            .collect();
        if !unmapped.is_empty() {
            let warning = format!(
                "{}: become descriptors, which the plugin's setting descriptors must send; to use a header instead: \
                 --attribute {}=header:NAME",
                unmapped.join(", "),
                unmapped[0]
            );
            self.check.warn(&format!("{file}: entries"), &warning);
        }
    }
}

/// Formats a number of seconds.
fn period(seconds: u64) -> String {
    for (unit, length) in [("d", 86_400), ("h", 3600), ("m", 60)] {
        if seconds.is_multiple_of(length) {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}
