//! Which server has which slots. A store that is no cluster has one server for all slots.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::{sync::watch, time::Instant};

use super::{
    access::Address,
    keys::Keys,
    node::{Node, Shared},
    slot::{SLOTS, slot_of},
};

/// How long a node without slots stays known after a redirection to it. A node that receives its first slot has none
/// until the slot has moved.
const REDIRECTED_KEPT: Duration = Duration::from_secs(60);

/// The slots from the first to the last, and the server that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) address: Address,
}

pub(super) struct Routes {
    shared: Arc<Shared>,
    keys: Keys,
    map: RwLock<Map>,
    /// Changes when the map changes.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Map {
    nodes: HashMap<Address, Known>,
    /// Sorted, so that a lookup can bisect them.
    ranges: Vec<(Range, Arc<Node>)>,
}

struct Known {
    node: Arc<Node>,
    redirected_at: Option<Instant>,
}

impl Routes {
    pub(super) fn new(shared: Arc<Shared>, prefix: &str) -> Self {
        Self { shared, keys: Keys::new(prefix), map: RwLock::default(), changed: watch::Sender::new(()) }
    }

    /// Returns the server that has a slot, or any usable server if no slot is given.
    pub(super) fn of(&self, slot: Option<u16>) -> Option<Arc<Node>> {
        let map = self.map.read();
        let Some(slot) = slot else {
            let nodes = || map.ranges.iter().map(|(_, node)| node);
            return nodes().find(|node| node.is_usable()).or_else(|| nodes().next()).map(Arc::clone);
        };
        let at = map.ranges.partition_point(|(range, _)| range.last < slot);
        map.ranges.get(at).filter(|(range, _)| range.first <= slot).map(|(_, node)| Arc::clone(node))
    }

    /// Like [`Self::of`]. Waits until the server is known.
    pub(super) async fn wait_for(&self, slot: Option<u16>, limit: Duration) -> Option<Arc<Node>> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                if let Some(node) = self.of(slot) {
                    return Some(node);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(limit, found).await.ok().flatten()
    }

    /// Returns all servers, also those that have no slots yet.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.map.read().nodes.values().map(|known| Arc::clone(&known.node)).collect()
    }

    /// Makes one server responsible for all keys.
    pub(super) fn use_one(&self, address: Address) {
        self.adopt(&[Range { first: 0, last: SLOTS - 1, address }]);
    }

    /// Returns the node that a redirection names.
    pub(super) fn redirected_to(&self, address: Address) -> Arc<Node> {
        let mut map = self.map.write();
        let known = map.nodes.entry(address.clone()).or_insert_with(|| Known {
            node: Node::new(address, Arc::clone(&self.shared)),
            redirected_at: None,
        });
        known.redirected_at = Some(Instant::now());
        Arc::clone(&known.node)
    }

    /// Replaces the map by one that is sorted. Servers that are still in it keep their connections and the state of their
    /// circuit breakers.
    pub(super) fn adopt(&self, ranges: &[Range]) {
        let is_known = |map: &Map| map.ranges.iter().map(|(range, _)| range).eq(ranges);
        if !ranges.is_empty() && is_known(&self.map.read()) {
            return;
        }
        // The search for keys takes time, in which calls can still read the map.
        let mut keys: HashMap<&Address, String> = HashMap::new();
        for Range { address, .. } in ranges {
            keys.entry(address).or_insert_with(|| self.probe_key(ranges, address));
        }
        let mut map = self.map.write();
        let mut new = Vec::with_capacity(ranges.len());
        for range in ranges {
            let known = map.nodes.entry(range.address.clone()).or_insert_with(|| Known {
                node: Node::new(range.address.clone(), Arc::clone(&self.shared)),
                redirected_at: None,
            });
            known.node.set_probe_key(keys.get(&range.address).cloned());
            new.push((range.clone(), Arc::clone(&known.node)));
        }
        map.ranges = new;
        map.nodes.retain(|address, known| {
            let is_used = keys.contains_key(address);
            if !is_used {
                known.node.set_probe_key(None);
            }
            let recent = known.redirected_at.is_some_and(|at| at.elapsed() < REDIRECTED_KEPT);
            let keep = is_used || (self.shared.has_slots && recent);
            if !keep {
                known.node.retire();
            }
            keep
        });
        drop(map);
        self.changed.send_replace(());
    }

    /// Returns a key that probes of this server can write.
    fn probe_key(&self, ranges: &[Range], address: &Address) -> String {
        // With one slot of 16,384, this many attempts fail once in 10^5 times. Then the probe is redirected, and counts
        // as successful.
        const ATTEMPTS: u32 = 200_000;
        let has = |key: &str| {
            let slot = slot_of(key.as_bytes());
            let mut of_it = ranges.iter().filter(|range| range.address == *address);
            of_it.any(|range| (range.first..=range.last).contains(&slot))
        };
        let plain = self.keys.probe();
        if has(&plain) {
            return plain;
        }
        (0..ATTEMPTS).map(|n| format!("{plain}:{n}")).find(|key| has(key)).unwrap_or(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        Routes::new(Shared::of_tests(true), "")
    }

    fn range(first: u16, last: u16, port: u16) -> Range {
        Range { first, last, address: Address { host: "127.0.0.1".into(), port } }
    }

    #[tokio::test]
    async fn a_slot_leads_to_its_node_and_a_gap_to_none() {
        let routes = routes();
        assert!(routes.of(Some(0)).is_none());
        routes.adopt(&[range(0, 99, 2), range(200, SLOTS - 1, 1)]);
        let port = |slot| routes.of(Some(slot)).map(|node| node.address().port);
        assert_eq!([port(0), port(99), port(100), port(200)], [Some(2), Some(2), None, Some(1)]);
        assert_eq!(port(SLOTS - 1), Some(1));
        // The node keeps its circuit breaker when its slots change.
        let before = routes.of(Some(0)).unwrap();
        routes.adopt(&[range(0, 199, 2), range(200, SLOTS - 1, 3)]);
        assert!(Arc::ptr_eq(&before, &routes.of(Some(100)).unwrap()));
        assert_eq!(routes.nodes().len(), 2);
    }

    #[tokio::test]
    async fn probes_write_a_key_of_their_node() {
        let routes = routes();
        let ranges = [range(0, 9, 1), range(10, 10, 2), range(11, SLOTS - 1, 3)];
        for (port, slots) in [(1, 0..=9), (2, 10..=10), (3, 11..=SLOTS - 1)] {
            let key = routes.probe_key(&ranges, &range(0, 0, port).address);
            assert!(slots.contains(&slot_of(key.as_bytes())), "{key}");
        }
    }
}
