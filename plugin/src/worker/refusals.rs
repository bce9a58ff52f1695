//! Refusals that stand for a while. If the answer to a request is late, the worker honours the last refusal of the same
//! key: a client that keeps the worker busy must not get its requests through.

use evenkeel_proto::v1::{AdmitRequest, Denied};

use crate::{path::without_query, text::digest};

/// Maximum number of different lists of attributes for which refusals stand, one for each limit that refuses.
const LISTS_MAX: usize = 8;

/// Maximum number of attributes in one list.
const ATTRIBUTES_MAX: usize = 32;

/// Maximum number of refusals that are remembered. Beyond it, the one that ends first is dropped.
const REFUSALS_MAX: usize = 256;

/// Longest time that a refusal is believed. An administrator may raise the amount in the meantime.
const STANDS_MAX_MS: u64 = 10_000;

#[derive(Debug)]
struct Standing {
    key: u64,
    until_ms: u64,
    denied: Denied,
}

#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The attributes for which refusals stand, as the sidecar named them.
    lists: Vec<Vec<String>>,
    standing: Vec<Standing>,
    /// Makes keys unpredictable, so that no client can choose attributes with the key of another.
    seed: u64,
}

impl Refusals {
    pub(super) fn seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// Returns the key of a request for each list of attributes that the worker knows.
    pub(super) fn keys(&self, request: &AdmitRequest) -> Vec<u64> {
        self.lists.iter().map(|list| self.key(list, request)).collect()
    }

    /// Remembers a refusal that stands. `keys` are those of its request. The first refusal for a list of attributes only
    /// teaches the list.
    pub(super) fn remember(&mut self, keys: &[u64], denied: &Denied, now_ms: u64) {
        let names = &denied.stands_for;
        if denied.stands_ms == 0 || names.len() > ATTRIBUTES_MAX {
            return;
        }
        let Some(index) = self.lists.iter().position(|list| list == names) else {
            if self.lists.len() < LISTS_MAX {
                self.lists.push(names.clone());
            }
            return;
        };
        let Some(key) = keys.get(index).copied() else { return };
        let until_ms = now_ms + denied.stands_ms.min(STANDS_MAX_MS);
        if let Some(known) = self.standing.iter_mut().find(|known| known.key == key) {
            known.until_ms = until_ms;
            return;
        }
        if self.standing.len() >= REFUSALS_MAX {
            let first = self.standing.iter().enumerate().min_by_key(|(_, known)| known.until_ms);
            if let Some((index, _)) = first {
                self.standing.swap_remove(index);
            }
        }
        self.standing.push(Standing { key, until_ms, denied: denied.clone() });
    }

    /// Returns the refusal that stands for a request with these keys.
    pub(super) fn standing(&self, keys: &[u64], now_ms: u64) -> Option<Denied> {
        let known = self.standing.iter().find(|known| known.until_ms > now_ms && keys.contains(&known.key));
        known.map(|known| known.denied.clone())
    }

    fn key(&self, list: &[String], request: &AdmitRequest) -> u64 {
        let mut hash = self.seed;
        // The length separates the texts, and makes an empty one count.
        let mut add = |text: &str| hash = digest(hash.wrapping_add(1 + text.len() as u64), text);
        // Limits of tokens do not apply to a request that generates nothing.
        add(if request.generation == 0 { "" } else { "other" });
        for name in list {
            add(name);
            add(value(name, request));
        }
        hash
    }
}

/// Returns the value of an attribute, or a longer text that contains it.
fn value<'r>(name: &str, request: &'r AdmitRequest) -> &'r str {
    let (subject, pool) = (request.subject.as_ref(), request.pool.as_ref());
    let header = |name: &str| subject.and_then(|subject| subject.headers.get(name)).map(String::as_str);
    let value = match name.split_once(':') {
        Some(("query", _)) => subject.map(|subject| subject.path.as_str()),
        Some(("cookie", _)) => header("cookie"),
        Some(("descriptor", name)) => {
            subject.and_then(|subject| subject.descriptors.get(name)).map(String::as_str)
        }
        Some(("header", name)) => header(name),
        // `ip:x` and `ip/24:x`: the first address of a header.
        Some((_, name)) => header(name).and_then(|value| value.split(',').next()),
        None => match name {
            "consumer" => subject.map(|subject| subject.consumer.as_str()),
            "model" => Some(request.model.as_str()),
            "route" => pool.map(|pool| pool.route.as_str()),
            "cluster" => pool.map(|pool| pool.cluster.as_str()),
            "path" => subject.map(|subject| without_query(&subject.path)),
            _ => subject.map(|subject| subject.source_ip.as_str()),
        },
    };
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use evenkeel_proto::v1::{Pool, Subject};

    use super::*;

    fn request(consumer: &str, path: &str, team: &str) -> AdmitRequest {
        let headers = [("x-team".to_owned(), team.to_owned())].into();
        let subject = Subject { consumer: consumer.into(), path: path.into(), headers, ..Subject::default() };
        let pool = Some(Pool { route: "r".into(), cluster: "c".into() });
        AdmitRequest { subject: Some(subject), pool, model: "m".into(), ..AdmitRequest::default() }
    }

    fn denied(stands_ms: u64, stands_for: &[&str]) -> Denied {
        let stands_for = stands_for.iter().map(ToString::to_string).collect();
        Denied { status: 429, stands_ms, stands_for, ..Denied::default() }
    }

    #[test]
    fn a_refusal_stands_for_its_attributes_and_its_time() {
        let mut refusals = Refusals::default();
        let (alice, denied) =
            (request("alice", "/a?x=1", "t"), denied(5000, &["consumer", "header:x-team", "path"]));
        refusals.remember(&refusals.keys(&alice), &denied, 0);
        assert!(
            refusals.standing(&refusals.keys(&alice), 1).is_none(),
            "the first only teaches the attributes"
        );
        refusals.remember(&refusals.keys(&alice), &denied, 0);
        let stands =
            |request: &AdmitRequest, now_ms| refusals.standing(&refusals.keys(request), now_ms).is_some();
        assert!(stands(&alice, 4999) && !stands(&alice, 5000));
        assert!(stands(&request("alice", "/a?x=2", "t"), 1), "the query is not an attribute of the limit");
        for other in [request("bob", "/a", "t"), request("alice", "/b", "t"), request("alice", "/a", "u")] {
            assert!(!stands(&other, 1), "{other:?}");
        }
        assert!(!stands(&AdmitRequest { generation: 2, ..alice }, 1));
    }

    #[test]
    fn refusals_are_bounded() {
        let mut refusals = Refusals::default();
        for list in 0..2 * LISTS_MAX {
            let denied = denied(1_000_000, &["consumer", &format!("header:x-{list}")]);
            for consumer in 0..100 {
                let keys = refusals.keys(&request(&consumer.to_string(), "/", "t"));
                refusals.remember(&keys, &denied, consumer);
            }
        }
        assert_eq!((refusals.lists.len(), refusals.standing.len()), (LISTS_MAX, REFUSALS_MAX));
        let keys = refusals.keys(&request("99", "/", "t"));
        assert!(refusals.standing(&keys, 10_000).is_some() && refusals.standing(&keys, 10_200).is_none());
        // A refusal that does not stand is not remembered.
        let mut refusals = Refusals::default();
        refusals.remember(&[], &denied(0, &["consumer"]), 0);
        assert!(refusals.lists.is_empty());
    }
}
