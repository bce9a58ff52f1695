//! How many limits and quotas one request can meet at most.

use evenkeel_domain::limit::{Attribute, Condition, LimitRules, Matcher};

use super::conditions::contradict;

/// What has to hold for a limit or quota to count a request.
struct Scope<'a> {
    name: &'a str,
    when: &'a [Condition],
    /// Attributes it cannot do without.
    needs: Vec<Condition>,
}

impl Scope<'_> {
    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.when.iter().chain(&self.needs)
    }

    /// Whether no request can meet both, as far as their conditions tell.
    fn excludes(&self, other: &Self) -> bool {
        self.conditions().any(|one| other.conditions().any(|other| contradict(one, other)))
    }
}

/// Sorts limits and quotas into groups of which one request meets one member at most; so as many groups as there are,
/// that many counters a request can meet. Each group is told by its first member.
///
/// A group more than needed is possible: regular expressions are not compared, and the first group that fits is taken.
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
