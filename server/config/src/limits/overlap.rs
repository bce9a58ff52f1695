//! Computes how many limits and quotas can apply to one request.

use evenkeel_domain::limit::{Attribute, Condition, LimitRules, Matcher};

use super::conditions::contradict;

/// The conditions under which a limit or quota counts a request.
struct Scope<'a> {
    name: &'a str,
    when: &'a [Condition],
    /// Conditions that the attributes of the key are present.
    needs: Vec<Condition>,
}

impl Scope<'_> {
    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.when.iter().chain(&self.needs)
    }

    /// Returns whether the conditions prove that no request can match both scopes.
    fn excludes(&self, other: &Self) -> bool {
        self.conditions().any(|one| other.conditions().any(|other| contradict(one, other)))
    }
}

/// Sorts limits and quotas into groups such that at most one member of each group applies to a request. The number of
/// groups is therefore an upper bound for the number of counters of a request. Returns the name of each group's first
/// member.
///
/// There may be more groups than necessary, because regular expressions are not compared and each limit joins the first
/// group that it fits.
pub(super) fn groups(rules: &LimitRules) -> Vec<String> {
    let present =
        |attribute: &Attribute| Condition { attribute: attribute.clone(), matcher: Matcher::Present };
    let limits = rules.limits.iter().map(|limit| Scope {
        name: &limit.name,
        when: &limit.when,
        needs: limit.key.attributes().iter().map(present).collect(),
    });
    let quotas = rules.quotas.iter().map(|quota| Scope {
        name: &quota.name,
        when: &quota.when,
        needs: vec![present(&Attribute::Consumer)],
    });
    let mut groups: Vec<Vec<Scope<'_>>> = Vec::new();
    for scope in limits.chain(quotas) {
        match groups.iter_mut().find(|group| group.iter().all(|other| other.excludes(&scope))) {
            Some(group) => group.push(scope),
            None => groups.push(vec![scope]),
        }
    }
    groups.into_iter().map(|group| group[0].name.to_owned()).collect()
}
