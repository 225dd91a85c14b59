//! Blocks of slots that are wholly free: where a sequence begins a new run, so that it has room to grow there and no
//! other one begins in front of it. Only a preference: slots are still taken one by one, and any of them can be.
#![forbid(unsafe_code)]

use super::{filled, reserved};
use crate::error::Result;

/// Slots of a block: long enough to stream, short enough that a sequence's unused end is little.
pub(super) const BLOCK: u32 = 32;

/// The wholly free ones of `n_slots / BLOCK` blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Used slots of each.
    n_used: Vec<u32>,
    /// Those without.
    free: Vec<u32>,
    /// Of each free one: its index in `free`.
    place: Vec<u32>,
}

impl Blocks {
    /// All free.
    pub(super) fn new(n_slots: u32) -> Result<Blocks> {
        let n = n_slots / BLOCK;
        let mut free = reserved(n as usize)?;
        free.extend((0..n).rev());
        let mut place = filled(n as usize, 0)?;
        (0..).zip(&free).for_each(|(index, &block)| place[block as usize] = index);
        Ok(Blocks { n_used: filled(n as usize, 0)?, free, place })
    }

    /// Heap bytes of `new(n_slots)`.
    pub(super) fn bytes(n_slots: u32) -> u64 {
        3 * u64::from(n_slots / BLOCK) * size_of::<u32>() as u64
    }

    /// How many are wholly free.
    pub(super) fn n_free(&self) -> u32 {
        self.free.len() as u32
    }

    /// The first slot of a free block.
    pub(super) fn first(&self) -> Option<u32> {
        self.free.last().map(|block| block * BLOCK)
    }

    /// Slots `start .. start + n` are used from now on.
    pub(super) fn take(&mut self, start: u32, n: u32) {
        self.each(start, n, |blocks, block, n| {
            if blocks.n_used[block as usize] == 0 {
                let index = blocks.place[block as usize] as usize;
                blocks.free.swap_remove(index);
                if let Some(&moved) = blocks.free.get(index) {
                    blocks.place[moved as usize] = index as u32;
                }
            }
            blocks.n_used[block as usize] += n;
        });
    }

    /// Slots `start .. start + n` are free again.
    pub(super) fn give(&mut self, start: u32, n: u32) {
        self.each(start, n, |blocks, block, n| {
            blocks.n_used[block as usize] -= n;
            if blocks.n_used[block as usize] == 0 {
                blocks.place[block as usize] = blocks.free.len() as u32;
                blocks.free.push(block);
            }
        });
    }

    /// Calls `change(block, slots)` for each block that the slots lie in; those behind the last block are in none.
    fn each(&mut self, start: u32, n: u32, change: impl Fn(&mut Blocks, u32, u32)) {
        let end = (start + n).min(self.n_used.len() as u32 * BLOCK);
        let mut from = start;
        while from < end {
            let block = from / BLOCK;
            let to = end.min((block + 1) * BLOCK);
            change(self, block, to - from);
            from = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random takes and gives against a bitmap, with slots behind the last block.
    #[test]
    fn equals_a_bitmap() {
        for n_slots in [0_u32, 5, 32, 33, 200] {
            let mut blocks = Blocks::new(n_slots).unwrap();
            let mut used = vec![false; n_slots as usize];
            let mut random = 5_u64;
            for _ in 0..2000.min(n_slots * 100) {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let start = (random >> 33) as u32 % n_slots;
                let is_used = used[start as usize];
                let most = 1 + (random >> 20) as u32 % 70;
                let same = used[start as usize..].iter().take_while(|&&slot| slot == is_used);
                let n = (same.count() as u32).min(most);
                used[start as usize..(start + n) as usize].fill(!is_used);
                match is_used {
                    true => blocks.give(start, n),
                    false => blocks.take(start, n),
                }
                let is_free = |block: &[bool]| block.iter().all(|slot| !slot);
                let chunks = used.chunks_exact(BLOCK as usize);
                let naive: Vec<u32> =
                    (0..).zip(chunks).filter(|(_, c)| is_free(c)).map(|(i, _)| i).collect();
                let mut kept = blocks.free.clone();
                kept.sort_unstable();
                assert_eq!(kept, naive);
                assert_eq!(blocks.first().is_some(), !naive.is_empty());
            }
        }
    }
}
