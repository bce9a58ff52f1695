//! The pool's table of requests in flight, as Redis has it, compared with what the gateways know.

use std::collections::BTreeMap;

use super::store::Store;
use crate::lab::{CLUSTER, LabError};

/// Returns counts and leases as of one moment. Holders' leases are found by their keys, so that leases of a holder that
/// the pool has forgotten are found too.
const READ: &str = "
local leases = {}
for _, key in ipairs(redis.call('KEYS', (string.gsub(KEYS[1], 'in%-flight$', 'leases:*')))) do
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    leases[#leases + 1] = {string.match(key, ':leases:(.*)$'), fields[i], fields[i + 1]}
  end
end
local unread = redis.call('HGETALL', (string.gsub(KEYS[1], 'in%-flight$', 'unread')))
return {redis.call('HGETALL', KEYS[1]), unread, leases}";

/// Holder and number of a lease, and the endpoint.
pub(super) type Leases = BTreeMap<(String, u64), String>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) counts: BTreeMap<String, i64>,
    /// Unread tokens by endpoint.
    pub(super) unread: BTreeMap<String, i64>,
    pub(super) leases: Leases,
    /// The same sums over the leases.
    pub(super) unread_of_leases: BTreeMap<String, i64>,
}

/// Returns the key of the pool's counts. All keys of the pool are in its slot.
pub(super) fn counts_key() -> String {
    format!("ek2:{{|{CLUSTER}}}:in-flight")
}

pub(super) async fn read(store: &Store) -> Result<Table, LabError> {
    type Pairs = Vec<(String, String)>;
    let (counts, unread, leases): (Pairs, Pairs, Vec<(String, String, String)>) =
        store.eval(READ, &counts_key()).await?;
    let numbers = |pairs: Pairs| -> BTreeMap<String, i64> {
        let pairs = pairs.into_iter().filter(|(endpoint, _)| !endpoint.is_empty());
        pairs.map(|(endpoint, number)| (endpoint, number.parse().unwrap_or(i64::MIN))).collect()
    };
    let mut table = Table { counts: numbers(counts), unread: numbers(unread), ..Table::default() };
    for (holder, lease, value) in leases {
        // The other fields are fillers.
        let Ok(lease) = lease.parse() else { continue };
        let (before, endpoint) = value.split_once(':').unwrap_or_default();
        if let Some((_, tokens)) = before.split_once(';') {
            *table.unread_of_leases.entry(endpoint.to_owned()).or_default() +=
                tokens.parse().unwrap_or(i64::MIN);
        }
        table.leases.insert((holder, lease), endpoint.to_owned());
    }
    Ok(table)
}

impl Table {
    /// Returns what is wrong with the table by itself.
    pub(super) fn contradiction(&self) -> Option<String> {
        let mut of_leases: BTreeMap<&str, i64> = BTreeMap::new();
        for endpoint in self.leases.values() {
            *of_leases.entry(endpoint).or_default() += 1;
        }
        let counts = self.counts.iter().filter(|(_, count)| **count != 0);
        let counts: BTreeMap<&str, i64> = counts.map(|(endpoint, count)| (&**endpoint, *count)).collect();
        if counts != of_leases {
            return Some(format!("counts {counts:?}, but leases make {of_leases:?}"));
        }
        let Self { unread, unread_of_leases, .. } = self;
        (unread != unread_of_leases)
            .then(|| format!("unread tokens {unread:?}, but leases make {unread_of_leases:?}"))
    }

    /// Returns how the table differs from the leases that the gateways have.
    pub(super) fn difference(&self, live: &Leases) -> Option<String> {
        let missing: Vec<_> = live.keys().filter(|lease| !self.leases.contains_key(*lease)).collect();
        let leaked: Vec<_> = self.leases.keys().filter(|lease| !live.contains_key(*lease)).collect();
        let moved = live.iter().filter(|(lease, at)| self.leases.get(*lease).is_some_and(|a| a != *at));
        let moved: Vec<_> = moved.map(|(lease, _)| lease).collect();
        if missing.is_empty() && leaked.is_empty() && moved.is_empty() {
            return None;
        }
        let some = |of: &[&(String, u64)]| {
            let first: Vec<_> =
                of.iter().take(3).map(|(holder, lease)| format!("{holder}/{lease}")).collect();
            format!("{} {}", of.len(), first.join(" ")).trim().to_owned()
        };
        Some(format!(
            "{} leases in the table: missing {}; leaked {}; at another endpoint {}",
            self.leases.len(),
            some(&missing),
            some(&leaked),
            some(&moved)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(of: &[(u64, &str)]) -> Leases {
        of.iter().map(|(lease, endpoint)| (("gateway".to_owned(), *lease), (*endpoint).to_owned())).collect()
    }

    fn table(counts: &[(&str, i64)], of: &[(u64, &str)]) -> Table {
        let counts = counts.iter().map(|(endpoint, count)| ((*endpoint).to_owned(), *count)).collect();
        Table { counts, leases: leases(of), ..Table::default() }
    }

    #[test]
    fn a_leaked_a_missing_and_a_moved_lease_are_found() {
        let live = leases(&[(1, "a"), (2, "b")]);
        let exact = table(&[("a", 1), ("b", 1)], &[(1, "a"), (2, "b")]);
        assert_eq!((exact.contradiction(), exact.difference(&live)), (None, None));

        let leaked = table(&[("a", 2), ("b", 1)], &[(1, "a"), (2, "b"), (3, "a")]);
        assert_eq!(leaked.contradiction(), None);
        assert!(leaked.difference(&live).unwrap().contains("leaked 1 gateway/3"));

        let missing = table(&[("a", 1)], &[(1, "a")]);
        assert!(missing.difference(&live).unwrap().contains("missing 1 gateway/2"));

        let moved = table(&[("a", 2)], &[(1, "a"), (2, "a")]);
        assert!(moved.difference(&live).unwrap().contains("at another endpoint 1 gateway/2"));
    }

    #[test]
    fn counts_that_are_negative_or_not_the_leases_are_found() {
        assert!(table(&[("a", -1)], &[]).contradiction().is_some());
        assert!(table(&[("a", 2)], &[(1, "a")]).contradiction().is_some());
        assert!(table(&[], &[(1, "a")]).contradiction().is_some());
        assert_eq!(table(&[("a", 0)], &[]).contradiction(), None);
        let unread = BTreeMap::from([("a".to_owned(), 100)]);
        let wrong = Table { unread: unread.clone(), ..table(&[("a", 1)], &[(1, "a")]) };
        assert!(wrong.contradiction().unwrap().starts_with("unread tokens"));
        assert_eq!(Table { unread_of_leases: unread, ..wrong }.contradiction(), None);
    }
}
