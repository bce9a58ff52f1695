//! The leases that a worker holds, each with its pool and endpoint. A list sends this table to the sidecar, and the
//! sidecar makes the shared table in its store match it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
};

use evenkeel_proto::v1::{HeldPool, Pool};

/// Maximum number of pools in the table. Pools come from the gateway's configuration, so real gateways have far fewer.
pub const POOLS_MAX: usize = 1024;

/// How long lists still contain a pool after the pool's last lease ended.
pub const EMPTY_POOL_KEPT_MS: u64 = 10 * 60 * 1000;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolKey {
    pub route: String,
    pub cluster: String,
}

impl PoolKey {
    pub fn to_proto(&self) -> Pool {
        Pool { route: self.route.clone(), cluster: self.cluster.clone() }
    }
}

/// What the plugin knows about the endpoint of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// The sidecar has not answered Admit yet.
    Pending,
    /// The gateway chose the endpoint, and the plugin does not know it yet.
    Unknown,
    At(Rc<str>),
}

#[derive(Clone, Debug)]
pub struct HeldLease {
    pub pool: Rc<PoolKey>,
    pub location: Location,
    /// The stream that holds the lease.
    pub context: u32,
    /// The ticket, if lists must contain it.
    ticket: Option<Rc<[u8]>>,
    /// Prompt tokens that the endpoint has not read yet, if the pool chooses by work.
    unread_tokens: u64,
}

#[derive(Debug, Default)]
struct PoolState {
    leases: usize,
    empty_since_ms: u64,
    /// True if the sidecar does not serve this pool. Lists then omit the pool, and the table removes it
    /// when its requests have ended.
    refused: bool,
}

/// The leases of one holder.
#[derive(Debug, Default)]
pub struct LeaseTable {
    issued: u64,
    leases: BTreeMap<u64, HeldLease>,
    pools: HashMap<Rc<PoolKey>, PoolState>,
}

impl LeaseTable {
    /// Returns the largest lease number issued so far.
    pub fn issued_through(&self) -> u64 {
        self.issued
    }

    /// Returns the number of leases held.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Returns the number of pools in the table, including pools without leases.
    pub fn pools(&self) -> usize {
        self.pools.len()
    }

    /// Issues the next lease. Returns `None` if the pool is new and the table is full of pools that have leases.
    pub fn issue(&mut self, pool: PoolKey, context: u32) -> Option<u64> {
        if !self.pools.contains_key(&pool) && self.pools.len() >= POOLS_MAX && !self.evict_longest_empty() {
            return None;
        }
        let pool = match self.pools.get_key_value(&pool) {
            Some((key, _)) => Rc::clone(key),
            None => Rc::new(pool),
        };
        let pool_state = self.pools.entry(Rc::clone(&pool)).or_default();
        pool_state.leases += 1;
        pool_state.refused = false;
        self.issued += 1;
        self.leases.insert(
            self.issued,
            HeldLease { pool, location: Location::Pending, context, ticket: None, unread_tokens: 0 },
        );
        Some(self.issued)
    }

    /// Issues a lease number for a request that takes no lease.
    pub fn issue_number(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }

    pub fn get(&self, lease: u64) -> Option<&HeldLease> {
        self.leases.get(&lease)
    }

    pub fn set_location(&mut self, lease: u64, location: Location) {
        let Some(held) = self.leases.get_mut(&lease) else { return };
        held.location = location;
        if let (Location::At(_), Some(pool)) = (&held.location, self.pools.get_mut(&held.pool)) {
            // List the pool again. If the list lacked a lease on a known endpoint, the sidecar would drop that lease.
            pool.refused = false;
        }
    }

    /// Adds a lease's ticket to every later list.
    pub fn show_ticket(&mut self, lease: u64, ticket: Rc<[u8]>) {
        if let Some(held) = self.leases.get_mut(&lease) {
            held.ticket = Some(ticket);
        }
    }

    /// Sets the tokens that the endpoint must read before it answers.
    pub fn set_unread(&mut self, lease: u64, tokens: u64) {
        if let Some(held) = self.leases.get_mut(&lease) {
            held.unread_tokens = tokens;
        }
    }

    /// Records that the answer to a request has begun. Returns its pool if the sidecar counts its tokens until then.
    pub fn read(&mut self, lease: u64) -> Option<&PoolKey> {
        let held = self.leases.get_mut(&lease).filter(|held| held.unread_tokens > 0)?;
        held.unread_tokens = 0;
        Some(&held.pool)
    }

    /// Removes and returns a lease; `None` if the table does not contain it.
    pub fn remove(&mut self, lease: u64, now_ms: u64) -> Option<HeldLease> {
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

    /// Removes pools that have been empty for [`EMPTY_POOL_KEPT_MS`].
    pub fn prune(&mut self, now_ms: u64) {
        self.pools.retain(|_, pool| pool.leases > 0 || now_ms < pool.empty_since_ms + EMPTY_POOL_KEPT_MS);
    }

    /// Stops listing pools that the sidecar does not serve, except pools with a lease on a known endpoint: another
    /// sidecar may have granted that lease. The leases of an unlisted pool stay in the table until they end. Lists
    /// contain them again only after a new Admit for the pool, or once an endpoint becomes known.
    pub fn forget_refused(&mut self, pools: &HashSet<PoolKey>) {
        if pools.is_empty() {
            return;
        }
        let known =
            |held: &&HeldLease| matches!(held.location, Location::At(_)) && pools.contains(&*held.pool);
        let known: HashSet<Rc<PoolKey>> =
            self.leases.values().filter(known).map(|held| Rc::clone(&held.pool)).collect();
        self.pools.retain(|key, pool| {
            pool.refused |= pools.contains(&**key) && !known.contains(key);
            !pool.refused || pool.leases > 0
        });
    }

    /// Returns up to `max` leases with numbers above `after`, each with its stream.
    pub fn leases_after(&self, after: u64, max: usize) -> Vec<(u64, u32)> {
        self.leases.range(after + 1..).take(max).map(|(lease, held)| (*lease, held.context)).collect()
    }

    /// Returns the list for the sidecar: every pool that the sidecar has not refused, with its leases.
    pub fn held_pools(&self) -> Vec<HeldPool> {
        let mut lists: HashMap<&PoolKey, (HeldPool, HashMap<&str, u32>)> = self
            .pools
            .iter()
            .filter(|(_, pool_state)| !pool_state.refused)
            .map(|(pool, _)| {
                let list = HeldPool { pool: Some(pool.to_proto()), ..HeldPool::default() };
                (&**pool, (list, HashMap::new()))
            })
            .collect();
        for (lease, held) in &self.leases {
            let Some((list, indexes)) = lists.get_mut(&*held.pool) else { continue };
            let index = match &held.location {
                Location::Pending | Location::Unknown => 0,
                Location::At(endpoint) => *indexes.entry(endpoint).or_insert_with(|| {
                    list.endpoints.push(endpoint.to_string());
                    list.endpoints.len() as u32
                }),
            };
            list.leases.push(*lease);
            list.endpoint_of.push(index);
            if let Some(ticket) = &held.ticket {
                // `tickets` is parallel to `leases`, and stays empty while no lease has a ticket. So is `unread_tokens`.
                list.tickets.resize(list.leases.len() - 1, Vec::new());
                list.tickets.push(ticket.to_vec());
            }
            if held.unread_tokens > 0 {
                list.unread_tokens.resize(list.leases.len() - 1, 0);
                list.unread_tokens.push(held.unread_tokens);
            }
        }
        for (list, _) in lists.values_mut() {
            if !list.tickets.is_empty() {
                list.tickets.resize(list.leases.len(), Vec::new());
            }
            if !list.unread_tokens.is_empty() {
                list.unread_tokens.resize(list.leases.len(), 0);
            }
        }
        lists.into_values().map(|(list, _)| list).collect()
    }

    /// Removes the pool that has been empty longest. Returns false if every pool has a lease.
    fn evict_longest_empty(&mut self) -> bool {
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
    fn lease_numbers_increase_from_one() {
        let mut table = LeaseTable::default();
        assert_eq!(table.issue(pool("a"), 1), Some(1));
        assert_eq!(table.issue(pool("b"), 2), Some(2));
        table.remove(2, 0);
        assert_eq!(table.issue(pool("b"), 3), Some(3));
        assert_eq!(table.issued_through(), 3);
    }

    #[test]
    fn a_list_contains_each_endpoint_once_and_zero_for_pending_leases() {
        let mut table = LeaseTable::default();
        for context in 0..4 {
            table.issue(pool("a"), context);
        }
        table.set_location(1, Location::At("x:1".into()));
        table.set_location(2, Location::At("y:1".into()));
        table.set_location(3, Location::At("x:1".into()));
        let held = table.held_pools();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].endpoints, ["x:1", "y:1"]);
        assert_eq!(held[0].leases, [1, 2, 3, 4]);
        assert_eq!(held[0].endpoint_of, [1, 2, 1, 0]);
    }

    #[test]
    fn tickets_are_listed_in_parallel_to_leases() {
        let mut table = LeaseTable::default();
        for context in 0..4 {
            table.issue(pool("a"), context);
        }
        assert!(table.held_pools()[0].tickets.is_empty());
        table.show_ticket(2, Rc::from(*b"t2"));
        table.show_ticket(9, Rc::from(*b"not held"));
        assert_eq!(table.held_pools()[0].tickets, [&b""[..], b"t2", b"", b""]);
        table.show_ticket(4, Rc::from(*b"t4"));
        table.remove(1, 0);
        assert_eq!(table.held_pools()[0].tickets, [&b"t2"[..], b"", b"t4"]);
    }

    #[test]
    fn a_number_without_a_lease_is_not_listed() {
        let mut table = LeaseTable::default();
        table.issue(pool("a"), 1);
        assert_eq!((table.issue_number(), table.issue(pool("a"), 2)), (2, Some(3)));
        assert_eq!((table.held_pools()[0].leases.clone(), table.issued_through()), (vec![1, 3], 3));
    }

    #[test]
    fn an_empty_pool_is_listed_until_its_time_is_over() {
        let mut table = LeaseTable::default();
        table.issue(pool("a"), 1);
        table.remove(1, 1000);
        table.prune(1000 + EMPTY_POOL_KEPT_MS - 1);
        assert_eq!(table.held_pools().len(), 1);
        assert!(table.held_pools()[0].leases.is_empty());
        table.prune(1000 + EMPTY_POOL_KEPT_MS);
        assert_eq!(table.held_pools().len(), 0);
    }

    #[test]
    fn a_pool_in_use_is_never_pruned() {
        let mut table = LeaseTable::default();
        table.issue(pool("a"), 1);
        table.prune(u64::MAX / 2);
        assert_eq!(table.held_pools().len(), 1);
    }

    #[test]
    fn pools_are_bounded_and_the_longest_empty_one_is_evicted() {
        let mut table = LeaseTable::default();
        for i in 0..POOLS_MAX {
            assert!(table.issue(pool(&i.to_string()), 1).is_some());
        }
        assert_eq!(table.issue(pool("one more"), 1), None);
        table.remove(8, 20);
        table.remove(7, 10);
        assert!(table.issue(pool("one more"), 1).is_some());
        assert_eq!(table.pools(), POOLS_MAX);
        assert!(!table.held_pools().iter().any(|h| h.pool.as_ref().unwrap().cluster == "6"));
    }

    fn listed(table: &LeaseTable) -> usize {
        table.held_pools().iter().map(|pool| 1 + pool.leases.len()).sum()
    }

    #[test]
    fn a_refused_pool_is_forgotten_and_its_leases_still_end() {
        let mut table = LeaseTable::default();
        let refused = HashSet::from([pool("a"), pool("never listed")]);
        table.issue(pool("a"), 1);
        table.set_location(1, Location::Unknown);
        table.issue(pool("a"), 2);
        table.forget_refused(&refused);
        assert_eq!((listed(&table), table.len(), table.pools()), (0, 2, 1));
        assert_eq!(&*table.remove(1, 0).unwrap().pool, &pool("a"));
        assert!(table.remove(2, 0).is_some());
        assert_eq!(table.pools(), 0);
        // An empty pool is removed at once; other pools stay.
        table.issue(pool("a"), 3);
        table.issue(pool("b"), 4);
        table.remove(3, 0);
        table.forget_refused(&refused);
        assert_eq!((listed(&table), table.pools()), (2, 1));
    }

    #[test]
    fn a_refused_pool_with_a_known_lease_is_kept() {
        let mut table = LeaseTable::default();
        table.issue(pool("a"), 1);
        table.issue(pool("a"), 2);
        table.set_location(1, Location::At("x:1".into()));
        table.forget_refused(&HashSet::from([pool("a")]));
        assert_eq!(listed(&table), 3);
        table.remove(1, 0);
        table.forget_refused(&HashSet::from([pool("a")]));
        assert_eq!(listed(&table), 0);
    }

    #[test]
    fn a_refused_pool_is_listed_again_after_admit_or_a_known_endpoint() {
        for again in [true, false] {
            let mut table = LeaseTable::default();
            table.issue(pool("a"), 1);
            table.forget_refused(&HashSet::from([pool("a")]));
            if again {
                table.issue(pool("a"), 2);
                assert_eq!(listed(&table), 3);
                table.remove(2, 0);
            } else {
                table.set_location(1, Location::At("x:1".into()));
            }
            assert_eq!(listed(&table), 2);
            table.remove(1, 0);
            assert_eq!((listed(&table), table.pools()), (1, 1));
        }
    }

    #[test]
    fn removing_twice_changes_nothing() {
        let mut table = LeaseTable::default();
        table.issue(pool("a"), 1);
        assert!(table.remove(1, 0).is_some());
        assert!(table.remove(1, 0).is_none());
        assert!(table.is_empty());
    }
}
