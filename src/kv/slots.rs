//! Free token slots, kept as maximal runs: boundary tags find a run's neighbours, a heap finds the longest run.
//!
//! Boundary tags (Knuth, TAOCP 1, 2.5): a run's length stands at its first slot, its first slot at its last slot.
//! Everything is an array reserved by [`FreeRuns::new`]; taking and returning a run costs O(log runs).
#![forbid(unsafe_code)]

use super::blocks::Blocks;
use super::{filled, reserved};
use crate::error::Result;

/// The free slots of `0 .. n_slots`.
#[derive(Debug)]
pub(super) struct FreeRuns {
    n_free: u32,
    /// At the first slot of a free run: its length. 0 at every other slot.
    length: Vec<u32>,
    /// At the last slot of a free run: its first slot. Elsewhere left over, so `length` decides.
    first: Vec<u32>,
    /// At the first slot of a free run: its index in `heap`.
    place: Vec<u32>,
    /// First slots of the runs; the longest on top, of equal ones the lowest.
    heap: Vec<u32>,
    pub(super) blocks: Blocks,
}

impl FreeRuns {
    /// All of `0 .. n_slots`, free.
    pub(super) fn new(n_slots: u32) -> Result<FreeRuns> {
        let n = n_slots as usize;
        let mut runs = FreeRuns {
            n_free: n_slots,
            length: filled(n, 0)?,
            first: filled(n, 0)?,
            place: filled(n, 0)?,
            heap: reserved(n.div_ceil(2))?,
            blocks: Blocks::new(n_slots)?,
        };
        if n_slots > 0 {
            runs.insert(0, n_slots);
        }
        Ok(runs)
    }

    /// Heap bytes of `new(n_slots)`: free runs never touch, so there are at most half as many as slots.
    pub(super) fn bytes(n_slots: u32) -> u64 {
        let n = u64::from(n_slots);
        (3 * n + n.div_ceil(2)) * size_of::<u32>() as u64 + Blocks::bytes(n_slots)
    }

    /// Number of free slots.
    pub(super) fn n_free(&self) -> u32 {
        self.n_free
    }

    /// Slots of the free run that begins at `start`; 0 when none does.
    pub(super) fn n_at(&self, start: u32) -> u32 {
        self.length.get(start as usize).copied().unwrap_or(0)
    }

    /// Slots of the longest run.
    pub(super) fn longest(&self) -> u32 {
        self.heap.first().map_or(0, |&first| self.length[first as usize])
    }

    /// Takes up to `max` slots from `start` on and returns how many: 0 when no free run begins there.
    pub(super) fn take_at(&mut self, start: u32, max: u32) -> u32 {
        let taken = self.n_at(start).min(max);
        if taken > 0 {
            self.cut(start, start, taken);
        }
        taken
    }

    /// Takes up to `max` slots of the longest run and returns `(start, length)`, or `None` when no slot is free.
    ///
    /// They come from its middle, unless it begins the repo: the sequence that ends in front of the run can go on
    /// growing, and so can the one that gets the slots. Sequences that grow in turn then do not interleave.
    pub(super) fn take_longest(&mut self, max: u32) -> Option<(u32, u32)> {
        let first = *self.heap.first()?;
        let length = self.length[first as usize];
        let taken = length.min(max);
        let start = if first == 0 { 0 } else { first + (length - taken) / 2 };
        if taken > 0 {
            self.cut(first, start, taken);
        }
        Some((start, taken))
    }

    /// Takes up to `max` slots from the begin of a free block on, and returns `(start, length)`; `None` when no block
    /// is wholly free. The block's rest is for the sequence that gets them.
    pub(super) fn take_block(&mut self, max: u32) -> Option<(u32, u32)> {
        let start = self.blocks.first()?;
        let first = self.run_with(start);
        let end = first + self.length[first as usize];
        let taken = max.min(end - start);
        self.cut(first, start, taken);
        Some((start, taken))
    }

    /// The first slot of the free run that `slot` lies in.
    fn run_with(&self, slot: u32) -> u32 {
        let mut first = slot;
        while self.length[first as usize] == 0 {
            first -= 1;
        }
        first
    }

    /// Gives back the used slots `start .. start + length` and joins them with the free runs on either side.
    pub(super) fn give(&mut self, start: u32, length: u32) {
        if length == 0 {
            return;
        }
        let (mut start, mut end) = (start, start + length);
        self.n_free += length;
        self.blocks.give(start, length);
        let behind = self.n_at(end);
        if behind > 0 {
            self.remove(end);
            end += behind;
        }
        if let Some(first) = self.run_before(start) {
            self.remove(first);
            start = first;
        }
        self.insert(start, end - start);
    }

    /// The first slot of the free run that ends right before `start`.
    fn run_before(&self, start: u32) -> Option<u32> {
        let first = self.first[start.checked_sub(1)? as usize];
        let length = self.length[first as usize];
        (length > 0 && first + length == start).then_some(first)
    }

    /// Takes `start .. start + taken` out of the run that begins at `first`.
    fn cut(&mut self, first: u32, start: u32, taken: u32) {
        self.blocks.take(start, taken);
        let end = first + self.length[first as usize];
        self.n_free -= taken;
        if first == start && start + taken < end {
            return self.shorten(first, taken);
        }
        self.remove(first);
        if first < start {
            self.insert(first, start - first);
        }
        if start + taken < end {
            self.insert(start + taken, end - start - taken);
        }
    }

    /// Moves a run's begin behind its first `n` slots, as when a sequence grows: it seldom moves in the heap.
    fn shorten(&mut self, first: u32, n: u32) {
        let (start, length) = (first + n, self.length[first as usize] - n);
        let index = self.place[first as usize] as usize;
        self.length[first as usize] = 0;
        self.length[start as usize] = length;
        self.first[(start + length - 1) as usize] = start;
        self.put(index, start);
        self.sift_down(index);
    }

    fn insert(&mut self, start: u32, length: u32) {
        self.length[start as usize] = length;
        self.first[(start + length - 1) as usize] = start;
        self.heap.push(start);
        self.sift_up(self.heap.len() - 1);
    }

    fn remove(&mut self, start: u32) {
        let hole = self.place[start as usize] as usize;
        let last = self.heap.pop();
        if let Some(last) = last.filter(|&last| last != start) {
            self.put(hole, last);
            self.sift_down(hole);
            self.sift_up(self.place[last as usize] as usize);
        }
        self.length[start as usize] = 0;
    }

    /// Whether the run at `a` belongs above the run at `b`.
    fn above(&self, a: u32, b: u32) -> bool {
        let (length_a, length_b) = (self.length[a as usize], self.length[b as usize]);
        length_a > length_b || (length_a == length_b && a < b)
    }

    fn put(&mut self, index: usize, run: u32) {
        self.heap[index] = run;
        self.place[run as usize] = index as u32;
    }

    fn sift_up(&mut self, mut index: usize) {
        let run = self.heap[index];
        while index > 0 {
            let parent = (index - 1) / 2;
            if !self.above(run, self.heap[parent]) {
                break;
            }
            self.put(index, self.heap[parent]);
            index = parent;
        }
        self.put(index, run);
    }

    fn sift_down(&mut self, mut index: usize) {
        let run = self.heap[index];
        loop {
            let left = 2 * index + 1;
            if left >= self.heap.len() {
                break;
            }
            let right = (left + 1).min(self.heap.len() - 1);
            let child = if self.above(self.heap[right], self.heap[left]) { right } else { left };
            if !self.above(self.heap[child], run) {
                break;
            }
            self.put(index, self.heap[child]);
            index = child;
        }
        self.put(index, run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The maximal runs of free slots, by looking at every slot.
    fn naive_runs(free: &[bool]) -> Vec<(u32, u32)> {
        let mut runs = Vec::new();
        let mut slot = 0;
        while slot < free.len() {
            let length = free[slot..].iter().take_while(|&&is_free| is_free).count();
            if length > 0 {
                runs.push((slot as u32, length as u32));
            }
            slot += length.max(1);
        }
        runs
    }

    fn check(runs: &FreeRuns, free: &[bool]) {
        let naive = naive_runs(free);
        let mut kept: Vec<(u32, u32)> =
            runs.heap.iter().map(|&start| (start, runs.length[start as usize])).collect();
        let longest =
            naive.iter().copied().max_by_key(|&(start, length)| (length, u32::MAX - start));
        assert_eq!(kept.first().copied(), longest);
        kept.sort_unstable();
        assert_eq!(kept, naive);
        assert_eq!(runs.n_free() as usize, free.iter().filter(|&&is_free| is_free).count());
        for (slot, &length) in runs.length.iter().enumerate() {
            let of_run = naive.iter().find(|run| run.0 as usize == slot).map_or(0, |run| run.1);
            assert_eq!(length, of_run, "length at slot {slot}");
        }
    }

    /// Random takes and gives against a bitmap.
    #[test]
    fn equals_a_bitmap() {
        for n_slots in [1u32, 2, 3, 7, 64, 257] {
            let mut runs = FreeRuns::new(n_slots).unwrap();
            let mut free = vec![true; n_slots as usize];
            let mut used: Vec<(u32, u32)> = Vec::new();
            let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(n_slots);
            let mut random = |below: u32| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 33) % u64::from(below)) as u32
            };
            for _ in 0..2000 {
                let max = 1 + random(n_slots.min(9));
                let taken = match random(4) {
                    0 => {
                        let at = random(n_slots);
                        Some((at, runs.take_at(at, max)))
                    }
                    1 => runs.take_longest(max),
                    _ => None,
                };
                if let Some((start, length)) = taken.filter(|run| run.1 > 0) {
                    assert!(length <= max);
                    for slot in start..start + length {
                        assert!(std::mem::replace(&mut free[slot as usize], false));
                    }
                    used.push((start, length));
                } else if !used.is_empty() {
                    let index = random(used.len() as u32) as usize;
                    let (start, length) = used.swap_remove(index);
                    runs.give(start, length);
                    free[start as usize..(start + length) as usize].fill(true);
                }
                check(&runs, &free);
            }
        }
    }

    #[test]
    fn no_slots_and_slots_that_do_not_exist() {
        let mut runs = FreeRuns::new(0).unwrap();
        assert_eq!(runs.take_longest(1), None);
        assert_eq!(runs.take_at(0, 1), 0);
        let mut runs = FreeRuns::new(2).unwrap();
        assert_eq!(runs.take_at(u32::MAX, 1), 0);
        assert_eq!(runs.take_at(1, 1), 0, "no run begins inside another");
        assert_eq!(runs.take_longest(0), Some((0, 0)));
        assert_eq!(runs.n_free(), 2);
    }

    #[test]
    fn the_bytes_of_the_largest_repo_do_not_overflow() {
        let n = u64::from(u32::MAX) - 2;
        assert_eq!(FreeRuns::bytes(u32::MAX - 2), 14 * n + 2 + 12 * (n / 32));
    }
}
