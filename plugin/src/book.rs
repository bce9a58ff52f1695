//! The book of a worker: every lease it holds, in which pool and on which endpoint. It is the truth that
//! KeepAlive carries to the shared table.

use evenkeel_proto::v1::{HeldPool, Pool};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
};

/// Most pools remembered. Pools come from the gateway's configuration, so this is not met in practice.
pub const POOLS_MAX: usize = 1024;

/// How long a pool that holds nothing is still listed in KeepAlive.
pub const POOL_KEPT_MS: u64 = 10 * 60 * 1000;

/// Identity of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolKey {
    /// Name of the route.
    pub route: String,
    /// Name of the cluster.
    pub cluster: String,
}

impl PoolKey {
    /// The message for it.
    pub fn message(&self) -> Pool {
        Pool { route: self.route.clone(), cluster: self.cluster.clone() }
    }
}

/// Where a lease is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Admit was asked and has not answered.
    Pending,
    /// The gateway chose the endpoint and it is not known yet.
    Unknown,
    /// On this endpoint.
    On(Rc<str>),
}

/// One lease.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its pool.
    pub pool: Rc<PoolKey>,
    /// Its place.
    pub place: Place,
    /// The stream it belongs to.
    pub context: u32,
    /// Its ticket, where it is to be shown.
    ticket: Option<Rc<[u8]>>,
}

#[derive(Debug, Default)]
struct PoolUse {
    leases: usize,
    empty_since_ms: u64,
    /// Forgotten, but for leases whose requests still run: not listed.
    refused: bool,
}

/// The leases of one holder.
#[derive(Debug, Default)]
pub struct Book {
    issued: u64,
    leases: BTreeMap<u64, Held>,
    pools: HashMap<Rc<PoolKey>, PoolUse>,
}

impl Book {
    /// Largest lease number issued so far.
    pub fn issued_through(&self) -> u64 {
        self.issued
    }

    /// Leases held.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether no lease is held.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Pools remembered, those without leases included.
    pub fn pools(&self) -> usize {
        self.pools.len()
    }

    /// Issues the next lease. None: no room for a further pool.
    pub fn issue(&mut self, pool: PoolKey, context: u32) -> Option<u64> {
        if !self.pools.contains_key(&pool) && self.pools.len() >= POOLS_MAX && !self.forget_emptiest() {
            return None;
        }
        let pool = match self.pools.get_key_value(&pool) {
            Some((key, _)) => Rc::clone(key),
            None => Rc::new(pool),
        };
        let pool_use = self.pools.entry(Rc::clone(&pool)).or_default();
        pool_use.leases += 1;
        pool_use.refused = false;
        self.issued += 1;
        self.leases.insert(self.issued, Held { pool, place: Place::Pending, context, ticket: None });
        Some(self.issued)
    }

    /// A number for a request that takes no lease.
    pub fn number(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }

    /// A lease that is held.
    pub fn get(&self, lease: u64) -> Option<&Held> {
        self.leases.get(&lease)
    }

    /// Puts a lease somewhere.
    pub fn place(&mut self, lease: u64, place: Place) {
        let Some(held) = self.leases.get_mut(&lease) else { return };
        held.place = place;
        if let (Place::On(_), Some(pool)) = (&held.place, self.pools.get_mut(&held.pool)) {
            // Something is known again: a list without it would have it given back.
            pool.refused = false;
        }
    }

    /// Shows the ticket of a lease in every list from now on.
    pub fn show(&mut self, lease: u64, ticket: Rc<[u8]>) {
        if let Some(held) = self.leases.get_mut(&lease) {
            held.ticket = Some(ticket);
        }
    }

    /// Ends a lease; none if it is not held.
    pub fn remove(&mut self, lease: u64, now_ms: u64) -> Option<Held> {
        let held = self.leases.remove(&lease)?;
        if let Some(pool) = self.pools.get_mut(&held.pool) {
            pool.leases -= 1;
            if pool.leases == 0 {
                pool.empty_since_ms = now_ms;
                if pool.refused {
                    self.pools.remove(&held.pool);
                }
            }
        }
        Some(held)
    }

    /// Forgets pools that have long been empty.
    pub fn prune(&mut self, now_ms: u64) {
        self.pools.retain(|_, pool| pool.leases > 0 || now_ms < pool.empty_since_ms + POOL_KEPT_MS);
    }

    /// Forgets pools the sidecar does not serve, but for those with a lease on a known endpoint: another sidecar
    /// may have granted it. Other leases of theirs are kept until they end, and listed only if their pool is asked
    /// for again or their endpoint becomes known.
    pub fn refuse(&mut self, pools: &HashSet<PoolKey>) {
        if pools.is_empty() {
            return;
        }
        let known = |held: &&Held| matches!(held.place, Place::On(_)) && pools.contains(&*held.pool);
        let known: HashSet<Rc<PoolKey>> =
            self.leases.values().filter(known).map(|held| Rc::clone(&held.pool)).collect();
        self.pools.retain(|key, pool| {
            pool.refused |= pools.contains(&**key) && !known.contains(key);
            !pool.refused || pool.leases > 0
        });
    }

    /// Up to `max` leases with their numbers, starting after `after`.
    pub fn after(&self, after: u64, max: usize) -> Vec<(u64, u32)> {
        self.leases.range(after + 1..).take(max).map(|(lease, held)| (*lease, held.context)).collect()
    }

    /// The list KeepAlive carries: every remembered pool that is not refused, with its leases.
    pub fn held(&self) -> Vec<HeldPool> {
        let mut lists: HashMap<&PoolKey, (HeldPool, HashMap<&str, u32>)> = self
            .pools
            .iter()
            .filter(|(_, pool_use)| !pool_use.refused)
            .map(|(pool, _)| {
                let list = HeldPool { pool: Some(pool.message()), ..HeldPool::default() };
                (&**pool, (list, HashMap::new()))
            })
            .collect();
        for (lease, held) in &self.leases {
            let Some((list, indexes)) = lists.get_mut(&*held.pool) else { continue };
            let index = match &held.place {
                Place::Pending | Place::Unknown => 0,
                Place::On(endpoint) => *indexes.entry(endpoint).or_insert_with(|| {
                    list.endpoints.push(endpoint.to_string());
                    list.endpoints.len() as u32
                }),
            };
            list.leases.push(*lease);
            list.endpoint_of.push(index);
            if let Some(ticket) = &held.ticket {
                // In parallel to the leases; where none has one the list is left out.
                list.tickets.resize(list.leases.len() - 1, Vec::new());
                list.tickets.push(ticket.to_vec());
            }
        }
        for (list, _) in lists.values_mut().filter(|(list, _)| !list.tickets.is_empty()) {
            list.tickets.resize(list.leases.len(), Vec::new());
        }
        lists.into_values().map(|(list, _)| list).collect()
    }

    /// Forgets the pool that has been empty longest. False: every pool holds something.
    fn forget_emptiest(&mut self) -> bool {
        let emptiest = self.pools.iter().filter(|(_, p)| p.leases == 0).min_by_key(|(_, p)| p.empty_since_ms);
        let Some(key) = emptiest.map(|(key, _)| Rc::clone(key)) else { return false };
        self.pools.remove(&key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cluster: &str) -> PoolKey {
        PoolKey { route: "r".into(), cluster: cluster.into() }
    }

    #[test]
    fn numbers_rise_from_one() {
        let mut book = Book::default();
        assert_eq!(book.issue(pool("a"), 1), Some(1));
        assert_eq!(book.issue(pool("b"), 2), Some(2));
        book.remove(2, 0);
        assert_eq!(book.issue(pool("b"), 3), Some(3));
        assert_eq!(book.issued_through(), 3);
    }

    #[test]
    fn the_list_names_each_endpoint_once_and_pending_leases_as_zero() {
        let mut book = Book::default();
        for context in 0..4 {
            book.issue(pool("a"), context);
        }
        book.place(1, Place::On("x:1".into()));
        book.place(2, Place::On("y:1".into()));
        book.place(3, Place::On("x:1".into()));
        let held = book.held();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].endpoints, ["x:1", "y:1"]);
        assert_eq!(held[0].leases, [1, 2, 3, 4]);
        assert_eq!(held[0].endpoint_of, [1, 2, 1, 0]);
    }

    #[test]
    fn tickets_to_be_shown_are_listed_beside_their_leases() {
        let mut book = Book::default();
        for context in 0..4 {
            book.issue(pool("a"), context);
        }
        assert!(book.held()[0].tickets.is_empty());
        book.show(2, Rc::from(*b"t2"));
        book.show(9, Rc::from(*b"not held"));
        assert_eq!(book.held()[0].tickets, [&b""[..], b"t2", b"", b""]);
        book.show(4, Rc::from(*b"t4"));
        book.remove(1, 0);
        assert_eq!(book.held()[0].tickets, [&b"t2"[..], b"", b"t4"]);
    }

    #[test]
    fn a_number_without_a_lease_is_not_listed() {
        let mut book = Book::default();
        book.issue(pool("a"), 1);
        assert_eq!((book.number(), book.issue(pool("a"), 2)), (2, Some(3)));
        assert_eq!((book.held()[0].leases.clone(), book.issued_through()), (vec![1, 3], 3));
    }

    #[test]
    fn an_empty_pool_is_listed_until_it_has_been_empty_long() {
        let mut book = Book::default();
        book.issue(pool("a"), 1);
        book.remove(1, 1000);
        book.prune(1000 + POOL_KEPT_MS - 1);
        assert_eq!(book.held().len(), 1);
        assert!(book.held()[0].leases.is_empty());
        book.prune(1000 + POOL_KEPT_MS);
        assert_eq!(book.held().len(), 0);
    }

    #[test]
    fn a_pool_in_use_is_never_pruned() {
        let mut book = Book::default();
        book.issue(pool("a"), 1);
        book.prune(u64::MAX / 2);
        assert_eq!(book.held().len(), 1);
    }

    #[test]
    fn pools_are_bounded_and_the_longest_empty_one_gives_way() {
        let mut book = Book::default();
        for i in 0..POOLS_MAX {
            assert!(book.issue(pool(&i.to_string()), 1).is_some());
        }
        assert_eq!(book.issue(pool("one more"), 1), None);
        book.remove(8, 20);
        book.remove(7, 10);
        assert!(book.issue(pool("one more"), 1).is_some());
        assert_eq!(book.pools(), POOLS_MAX);
        assert!(!book.held().iter().any(|h| h.pool.as_ref().unwrap().cluster == "6"));
    }

    fn listed(book: &Book) -> usize {
        book.held().iter().map(|pool| 1 + pool.leases.len()).sum()
    }

    #[test]
    fn a_refused_pool_is_forgotten_and_its_leases_still_end() {
        let mut book = Book::default();
        let refused = HashSet::from([pool("a"), pool("never heard of")]);
        book.issue(pool("a"), 1);
        book.place(1, Place::Unknown);
        book.issue(pool("a"), 2);
        book.refuse(&refused);
        assert_eq!((listed(&book), book.len(), book.pools()), (0, 2, 1));
        assert_eq!(&*book.remove(1, 0).unwrap().pool, &pool("a"));
        assert!(book.remove(2, 0).is_some());
        assert_eq!(book.pools(), 0);
        // An empty one goes at once, others stay.
        book.issue(pool("a"), 3);
        book.issue(pool("b"), 4);
        book.remove(3, 0);
        book.refuse(&refused);
        assert_eq!((listed(&book), book.pools()), (2, 1));
    }

    #[test]
    fn a_refused_pool_with_a_known_lease_is_kept() {
        let mut book = Book::default();
        book.issue(pool("a"), 1);
        book.issue(pool("a"), 2);
        book.place(1, Place::On("x:1".into()));
        book.refuse(&HashSet::from([pool("a")]));
        assert_eq!(listed(&book), 3);
        book.remove(1, 0);
        book.refuse(&HashSet::from([pool("a")]));
        assert_eq!(listed(&book), 0);
    }

    #[test]
    fn a_refused_pool_is_listed_whole_when_it_is_asked_for_or_known_again() {
        for again in [true, false] {
            let mut book = Book::default();
            book.issue(pool("a"), 1);
            book.refuse(&HashSet::from([pool("a")]));
            if again {
                book.issue(pool("a"), 2);
                assert_eq!(listed(&book), 3);
                book.remove(2, 0);
            } else {
                book.place(1, Place::On("x:1".into()));
            }
            assert_eq!(listed(&book), 2);
            book.remove(1, 0);
            assert_eq!((listed(&book), book.pools()), (1, 1));
        }
    }

    #[test]
    fn removing_twice_is_nothing() {
        let mut book = Book::default();
        book.issue(pool("a"), 1);
        assert!(book.remove(1, 0).is_some());
        assert!(book.remove(1, 0).is_none());
        assert!(book.is_empty());
    }
}
