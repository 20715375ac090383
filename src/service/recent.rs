//! A map that forgets what was put in long ago, so that whoever invents keys fills no memory.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Keeps at least the `most` keys that were put in last, and at most twice as many: when the young generation is
/// full, it becomes the old one, which is forgotten. So no key needs a place in an order.
pub(super) struct Recent<K, V> {
    most: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(most: usize) -> Recent<K, V> {
        Recent { most, young: HashMap::new(), old: HashMap::new() }
    }

    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Puts in a value, or another one, which makes the key young again.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.most && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.young.remove(key);
        self.old.remove(key);
    }

    pub(super) fn clear(&mut self) {
        self.young = HashMap::new();
        self.old = HashMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(recent: &Recent<u32, u32>) -> Vec<u32> {
        (0..100).filter(|key| recent.get(key).is_some()).collect()
    }

    #[test]
    fn the_last_ones_are_kept_and_no_more_than_twice_as_many() {
        let mut recent = Recent::new(3);
        for key in 0..50 {
            recent.insert(key, key);
            let held = known(&recent);
            assert!(held.len() <= 6, "{held:?}");
            let last: Vec<u32> = (key.saturating_sub(2)..=key).collect();
            assert!(held.ends_with(&last), "{held:?}");
        }
    }

    #[test]
    fn a_key_that_is_put_in_again_displaces_none_and_stays() {
        let mut recent = Recent::new(3);
        for key in [0, 1, 2] {
            recent.insert(key, 0);
        }
        for value in 1..10 {
            recent.insert(1, value);
        }
        assert_eq!((known(&recent), recent.get(&1)), (vec![0, 1, 2], Some(&9)));
        for key in 3..20 {
            recent.insert(key, 0);
            recent.insert(1, key);
        }
        assert_eq!(recent.get(&1), Some(&19), "also where an older value is left");
    }

    #[test]
    fn what_is_removed_is_in_neither_generation() {
        let mut recent = Recent::new(2);
        for key in [1, 2, 3, 1] {
            recent.insert(key, key);
        }
        recent.remove(&1);
        assert_eq!(known(&recent), [2, 3]);
        recent.clear();
        assert!(known(&recent).is_empty());
    }
}
