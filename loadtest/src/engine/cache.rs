//! The prefix cache of a model server.

use std::collections::{BTreeMap, HashMap};

/// The ids of the blocks in the cache. If it is full, the least recently used block leaves it.
///
/// A simplification: the blocks of running sequences can leave too. The capacity of a server is far above what its
/// running sequences need, so this is rare.
#[derive(Debug)]
pub(super) struct PrefixCache {
    /// Maximum number of blocks; 0 if the cache is off.
    capacity: u64,
    /// Number of uses so far.
    uses: u64,
    /// The last use of each block.
    used: HashMap<u64, u64>,
    /// The blocks by their last use.
    order: BTreeMap<u64, u64>,
}

impl PrefixCache {
    pub(super) fn new(capacity: u64) -> Self {
        Self { capacity, uses: 0, used: HashMap::new(), order: BTreeMap::new() }
    }

    pub(super) fn is_off(&self) -> bool {
        self.capacity == 0
    }

    pub(super) fn contains(&self, block: u64) -> bool {
        self.used.contains_key(&block)
    }

    /// Returns how many of the first blocks are in the cache.
    pub(super) fn matched(&self, blocks: &[u64]) -> u32 {
        blocks.iter().take_while(|block| self.contains(**block)).count() as u32
    }

    /// Puts blocks of one prompt into the cache. The first one counts as used last, because the others are worth nothing
    /// without it.
    pub(super) fn touch(&mut self, blocks: &[u64]) {
        if self.is_off() {
            return;
        }
        for block in blocks.iter().rev() {
            self.uses += 1;
            if let Some(before) = self.used.insert(*block, self.uses) {
                self.order.remove(&before);
            }
            self.order.insert(self.uses, *block);
        }
        while self.used.len() as u64 > self.capacity {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.used.remove(&oldest);
        }
    }

    pub(super) fn clear(&mut self) {
        self.used.clear();
        self.order.clear();
    }
}
