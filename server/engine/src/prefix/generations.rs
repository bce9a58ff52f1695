//! A map of bounded size.

use std::{collections::HashMap, hash::Hash, mem::swap};

/// A map that forgets what has not been used for the longest time, in two generations: when the younger one has half of
/// the maximum, it becomes the older one, and what is left of the older one is forgotten.
#[derive(Debug)]
pub(super) struct Generations<K, V> {
    younger: HashMap<K, V>,
    older: HashMap<K, V>,
    max: usize,
}

impl<K: Eq + Hash, V> Generations<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self { younger: HashMap::new(), older: HashMap::new(), max }
    }

    /// Returns the value of a key, and counts it as used.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V>
    where
        K: Clone,
    {
        if let Some(value) = self.older.remove(key) {
            self.insert(key.clone(), value);
        }
        self.younger.get_mut(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.younger.len() >= self.max / 2 && !self.younger.contains_key(&key) {
            // Keeps the memory of both maps, so that no insertion moves many entries.
            swap(&mut self.older, &mut self.younger);
            self.younger.clear();
        }
        self.younger.insert(key, value);
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.younger.contains_key(key) || self.older.contains_key(key)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.younger.remove(key).or_else(|| self.older.remove(key))
    }

    pub(super) fn len(&self) -> usize {
        self.younger.len() + self.older.len()
    }

    pub(super) fn clear(&mut self) {
        self.younger.clear();
        self.older.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_size_is_bounded() {
        let mut map = Generations::new(10);
        for n in 0..1000 {
            map.insert(n, n);
            assert_eq!(map.get_mut(&0), Some(&mut 0), "after {n}");
            assert!(map.len() <= 10);
        }
        assert_eq!(map.get_mut(&998), Some(&mut 998));
        assert_eq!(map.get_mut(&500), None);
        assert_eq!((map.remove(&0), map.remove(&0)), (Some(0), None));
    }
}
