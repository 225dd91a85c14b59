//! A hash table over items `0 .. n_items` in reserved arrays, with chains for what shares a bucket.
//!
//! The hash only says where to look: whoever looks compares the items.
#![forbid(unsafe_code)]

use super::filled;
use crate::error::Result;

const NONE: u32 = u32::MAX;

/// Items by hash.
#[derive(Debug)]
pub(super) struct Chains {
    /// First item of each chain.
    buckets: Vec<u32>,
    /// `[n_items]` the next item of the chain.
    next: Vec<u32>,
}

impl Chains {
    pub(super) fn new(n_buckets: u32, n_items: u32) -> Result<Chains> {
        let (buckets, next) = (filled(n_buckets as usize, NONE)?, filled(n_items as usize, NONE)?);
        Ok(Chains { buckets, next })
    }

    /// Heap bytes of `new(n_buckets, n_items)`.
    pub(super) fn bytes(n_buckets: u32, n_items: u32) -> u64 {
        (u64::from(n_buckets) + u64::from(n_items)) * size_of::<u32>() as u64
    }

    /// The first item of the hash's chain that is it.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut item = self.buckets.get(self.bucket(hash)).copied()?;
        while item != NONE && !is_it(item) {
            item = self.next[item as usize];
        }
        (item != NONE).then_some(item)
    }

    /// Adds an item that is in no chain. There is at least one bucket.
    pub(super) fn insert(&mut self, hash: u64, item: u32) {
        let bucket = self.bucket(hash);
        self.next[item as usize] = std::mem::replace(&mut self.buckets[bucket], item);
    }

    /// Takes an item out that was added with this hash.
    pub(super) fn remove(&mut self, hash: u64, item: u32) {
        let bucket = self.bucket(hash);
        let behind = std::mem::replace(&mut self.next[item as usize], NONE);
        if self.buckets[bucket] == item {
            self.buckets[bucket] = behind;
            return;
        }
        let mut before = self.buckets[bucket];
        while before != NONE {
            let next = self.next[before as usize];
            if next == item {
                self.next[before as usize] = behind;
                return;
            }
            before = next;
        }
    }

    fn bucket(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.buckets.len() as u128) >> 64) as usize
    }
}

/// Spreads two numbers over 64 bits (the finish of splitmix64).
pub(super) fn hash(a: u64, b: u64) -> u64 {
    let mixed = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_add(0xd1b5_4a32_d192_ed03);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chains of any length find every item that is in and no other.
    #[test]
    fn equals_a_set() {
        for n_buckets in [1, 2, 16] {
            let mut chains = Chains::new(n_buckets, 32).unwrap();
            let mut set = [false; 32];
            for step in 0..2000_u64 {
                let item = (hash(step, 1) % 32) as u32;
                let key = hash(u64::from(item) / 3, 0);
                let is_in = set[item as usize];
                set[item as usize] = !is_in;
                if is_in {
                    chains.remove(key, item)
                } else {
                    chains.insert(key, item)
                }
                for (item, &is_in) in (0..32_u32).zip(&set) {
                    let found = chains.find(hash(u64::from(item) / 3, 0), |other| other == item);
                    assert_eq!(found, is_in.then_some(item));
                }
            }
        }
        assert_eq!(Chains::new(0, 0).unwrap().find(7, |_| true), None);
    }
}
