//! The requests to which a plugin's configuration applies.

use super::raw::Settings;
use crate::{
    check::Check,
    limits::raw::{RawCondition, RawMatcher},
};

/// A set of requests, given by conditions.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    /// The condition that a request must meet; `None` for all requests.
    is: Option<RawCondition>,
    /// Conditions that exclude the requests of earlier configurations.
    is_not: Vec<RawCondition>,
}

impl Scope {
    pub(super) fn all() -> Self {
        Self::default()
    }

    /// Builds a scope from the lists of a rule. Exactly one of the lists must be given.
    pub(super) fn new(
        check: &mut Check,
        path: &str,
        routes: &[String],
        domains: &[String],
        services: &[String],
        prefixes: &[String],
    ) -> Self {
        let given = [routes, domains, services, prefixes].iter().filter(|list| !list.is_empty()).count();
        if given != 1 {
            let expected = "a rule with one of ingress (_match_route_), domain, service or a route's prefix";
            check.fault(path, expected, format_args!("{given} of them"));
        }
        let regex = |attribute: &str, regex: String| RawCondition {
            attribute: attribute.to_owned(),
            regex: Some(regex),
            ..RawCondition::default()
        };
        let is = if !routes.is_empty() {
            RawCondition {
                attribute: "route".into(),
                one_of: Some(routes.to_vec()),
                ..RawCondition::default()
            }
        } else if !domains.is_empty() {
            let hosts: Vec<_> = domains.iter().map(|domain| host(domain)).collect();
            // Envoy returns the value of :authority for the header host.
            regex("header:host", format!("(?i:{})(?::[0-9]+)?", hosts.join("|")))
        } else if !services.is_empty() {
            let clusters: Vec<_> = services.iter().map(|service| cluster(service)).collect();
            regex("cluster", clusters.join("|"))
        } else if let [prefix] = prefixes {
            RawCondition {
                attribute: "route".into(),
                prefix: Some(prefix.clone()),
                ..RawCondition::default()
            }
        } else {
            let prefixes: Vec<_> = prefixes.iter().map(|prefix| regex::escape(prefix)).collect();
            regex("route", format!("(?:{}).*", prefixes.join("|")))
        };
        Self { is: Some(is), is_not: Vec::new() }
    }

    /// Returns this scope without the requests of earlier rules.
    pub(super) fn after(&self, earlier: &[Self]) -> Self {
        let mut scope = self.clone();
        let mut routes: Vec<String> = Vec::new();
        for other in earlier.iter().filter_map(|other| other.is.as_ref()) {
            match (&other.one_of, self.is.as_ref().and_then(|is| is.one_of.as_ref())) {
                // Disjoint lists of routes need no condition.
                (Some(theirs), Some(ours)) if !theirs.iter().any(|route| ours.contains(route)) => {}
                (Some(theirs), _) => routes.extend(theirs.iter().cloned()),
                (None, _) => scope.is_not.push(negated(other)),
            }
        }
        // Remove routes that an earlier rule covers.
        if let Some(ours) = scope.is.as_mut().and_then(|is| is.one_of.as_mut()) {
            ours.retain(|route| !routes.contains(route));
        } else if !routes.is_empty() {
            let not = RawMatcher { one_of: Some(routes), ..RawMatcher::default() };
            scope.is_not.push(RawCondition {
                attribute: "route".into(),
                not: Some(not),
                ..RawCondition::default()
            });
        }
        scope
    }

    /// Restricts this scope to the requests of an outer scope.
    pub(super) fn within(mut self, outer: &Self) -> Self {
        self.is_not.extend(outer.is.iter().chain(&outer.is_not).cloned());
        self
    }

    /// Returns whether earlier rules cover all routes of this scope.
    pub(super) fn is_empty(&self) -> bool {
        self.is.as_ref().and_then(|is| is.one_of.as_ref()).is_some_and(Vec::is_empty)
    }

    pub(super) fn conditions(&self) -> Vec<RawCondition> {
        self.is.iter().chain(&self.is_not).cloned().collect()
    }

    fn routes(&mut self) -> Option<&mut Vec<String>> {
        self.is.as_mut()?.one_of.as_mut()
    }
}

pub(super) fn negated(condition: &RawCondition) -> RawCondition {
    let RawCondition { attribute, exact, one_of, prefix, regex, cidr, present, .. } = condition.clone();
    RawCondition {
        attribute,
        not: Some(RawMatcher { exact, one_of, prefix, regex, cidr, present }),
        ..RawCondition::default()
    }
}

/// Merges adjacent rules that have the same configuration into one rule for all their routes, because Higress counts
/// these routes together. Rules that are not adjacent are not merged, because that would change the order of the rules.
pub(super) fn merge(list: Vec<(String, Scope, Settings)>) -> Vec<(String, Scope, Settings)> {
    let mut merged: Vec<(String, Scope, Settings)> = Vec::with_capacity(list.len());
    for (path, mut scope, settings) in list {
        let same = |other: &(String, Scope, Settings)| {
            format!("{:?}", other.2) == format!("{settings:?}") && other.1.is_not.len() == scope.is_not.len()
        };
        if let Some(last) = merged.last_mut()
            && same(last)
            && let (Some(ours), Some(theirs)) = (scope.routes(), last.1.routes())
        {
            theirs.append(ours);
            continue;
        }
        merged.push((path, scope, settings));
    }
    merged
}

/// Converts `*.example.com`, `example.*` or a name to a regular expression.
fn host(domain: &str) -> String {
    if let Some(end) = domain.strip_prefix('*') {
        format!("[^:]*{}", regex::escape(end))
    } else if let Some(start) = domain.strip_suffix('*') {
        format!("{}[^:]*", regex::escape(start))
    } else {
        regex::escape(domain)
    }
}

/// Converts `name` or `name:port` to a regular expression that matches Envoy's name for the cluster.
fn cluster(service: &str) -> String {
    let (name, port) = service.rsplit_once(':').unwrap_or((service, ""));
    let port = if port.is_empty() { "[0-9]*".to_owned() } else { regex::escape(port) };
    format!(r"outbound\|{port}\|[^|]*\|{}", regex::escape(name))
}
