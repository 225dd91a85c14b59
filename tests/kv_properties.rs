//! The KV repo against a model that keeps every sequence as a plain list of slots.

use larder::error::Error;
use larder::ids::{NO_SEGMENT, SequenceHandle, Slot};
use larder::kv::KvRepo;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;

thread_local! {
    static HEAP_BYTES: Cell<i64> = const { Cell::new(0) };
    static N_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts this thread's heap bytes and allocations.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP_BYTES.set(HEAP_BYTES.get() + layout.size() as i64);
        N_ALLOCATIONS.set(N_ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        HEAP_BYTES.set(HEAP_BYTES.get() - layout.size() as i64);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.dealloc(address, layout) }
    }
}

/// Knuth's MMIX generator: the same operations in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

/// What the repo must look like from outside.
struct Model {
    repo: KvRepo,
    capacity: usize,
    max_sequences: usize,
    max_sequence_tokens: usize,
    sequences: Vec<(SequenceHandle, Vec<u32>)>,
    released: Vec<SequenceHandle>,
}

impl Model {
    fn new(capacity: usize, max_sequences: usize, max_sequence_tokens: usize) -> Model {
        let repo =
            KvRepo::new(capacity as u32, max_sequences as u32, max_sequence_tokens as u32).unwrap();
        let (sequences, released) = (Vec::with_capacity(max_sequences), Vec::new());
        Model { repo, capacity, max_sequences, max_sequence_tokens, sequences, released }
    }

    fn owned(&self) -> BTreeSet<u32> {
        self.sequences.iter().flat_map(|(_, slots)| slots.iter().copied()).collect()
    }

    fn free(&self) -> usize {
        self.capacity - self.owned().len()
    }

    fn open(&mut self) {
        let opened = self.repo.open();
        if self.sequences.len() == self.max_sequences {
            assert!(
                matches!(opened, Err(Error::LimitReached(text)) if text.contains("max_sequences"))
            );
        } else {
            self.sequences.push((opened.unwrap(), Vec::new()));
        }
    }

    fn append(&mut self, index: usize, n: usize) {
        let free = self.free();
        let (handle, slots) = &mut self.sequences[index];
        let mut added = vec![Slot(u32::MAX); n];
        let result = self.repo.append(*handle, &mut added);
        if slots.len() + n > self.max_sequence_tokens {
            assert!(
                matches!(result, Err(Error::LimitReached(text)) if text.contains("max_sequence_tokens"))
            );
        } else if n > free {
            assert_eq!(result, Err(Error::OutOfSlots { needed: n as u64, free: free as u64 }));
        } else {
            assert_eq!(result, Ok(()));
            slots.extend(added.iter().map(|slot| slot.0));
            return;
        }
        assert!(added.iter().all(|slot| slot.0 == u32::MAX), "an error fills nothing in");
    }

    fn fork(&mut self, index: usize, n: usize) {
        let (parent, slots) = &self.sequences[index];
        let forked = self.repo.fork(*parent, n as u32);
        if n > slots.len() {
            assert!(matches!(forked, Err(Error::InvalidArgument(_))));
        } else if self.sequences.len() == self.max_sequences {
            assert!(matches!(forked, Err(Error::LimitReached(_))));
        } else {
            let shared = slots[..n].to_vec();
            self.sequences.push((forked.unwrap(), shared));
        }
    }

    fn truncate(&mut self, index: usize, n: usize) {
        let (handle, slots) = &mut self.sequences[index];
        let result = self.repo.truncate(*handle, n as u32);
        if n > slots.len() {
            assert!(matches!(result, Err(Error::InvalidArgument(_))));
        } else {
            assert_eq!(result, Ok(()));
            slots.truncate(n);
        }
    }

    fn release(&mut self, index: usize) {
        let (handle, _) = self.sequences.swap_remove(index);
        self.repo.release(handle).unwrap();
        self.released.push(handle);
        if self.released.len() > 64 {
            self.released.remove(0);
        }
    }

    /// Handles that were released before, or never given out, change nothing.
    fn use_stale(&mut self, random: &mut Random) {
        let known = self.released.get(random.below(self.released.len().max(1))).copied();
        let never = SequenceHandle((random.below(1 << 30) as u64) << 33 | random.below(4) as u64);
        let open = |handle| self.sequences.iter().any(|(known, _)| *known == handle);
        for handle in [SequenceHandle(0), SequenceHandle(u64::MAX), never].into_iter().chain(known)
        {
            if open(handle) {
                continue;
            }
            let stale = |result| matches!(result, Err(Error::StaleHandle(_)));
            assert!(stale(self.repo.append(handle, &mut [])));
            assert!(stale(self.repo.append(handle, &mut [Slot(0)])));
            assert!(stale(self.repo.fork(handle, 0).map(|_| ())));
            assert!(stale(self.repo.truncate(handle, 0)));
            assert!(stale(self.repo.length(handle).map(|_| ())));
            assert!(stale(self.repo.last_segment(handle).map(|_| ())));
            assert!(stale(self.repo.release(handle)));
        }
    }

    /// Walks a chain from its last segment backwards.
    fn chain(&self, handle: SequenceHandle) -> Vec<u32> {
        let mut slots = Vec::new();
        let mut end = self.repo.length(handle).unwrap();
        let mut last = self.repo.last_segment(handle).unwrap();
        while last != NO_SEGMENT {
            let segment = self.repo.segments()[last as usize];
            assert!(segment.len > 0);
            assert_eq!(segment.first_position + segment.len, end, "segments adjoin");
            slots.extend((segment.start.0..segment.start.0 + segment.len).rev());
            end = segment.first_position;
            last = segment.parent;
        }
        assert_eq!(end, 0, "the first segment begins the sequence");
        slots.reverse();
        slots
    }

    fn check(&self) {
        for (handle, slots) in &self.sequences {
            assert_eq!(self.repo.length(*handle), Ok(slots.len() as u32));
            assert_eq!(&self.chain(*handle), slots);
            let distinct: BTreeSet<u32> = slots.iter().copied().collect();
            assert_eq!(distinct.len(), slots.len(), "a slot twice in one sequence");
        }
        // Slots stand at one position only, and two sequences that share one share all before it.
        let mut before = vec![None; self.capacity];
        for (_, slots) in &self.sequences {
            for (position, &slot) in slots.iter().enumerate() {
                let previous = position.checked_sub(1).map(|p| slots[p]);
                let known = before[slot as usize].get_or_insert((position, previous));
                assert_eq!(*known, (position, previous), "slot {slot} is owned twice");
            }
        }
        assert_eq!(self.repo.used_slots() as usize, self.owned().len());
        assert_eq!(self.repo.free_slots() as usize, self.free());
        assert_eq!(self.repo.n_sequences() as usize, self.sequences.len());
        assert!(self.repo.segments().len() <= self.capacity);
    }

    /// Takes all free slots, sees that they are those that nobody owns, and gives them back.
    fn drain(&mut self) {
        let free = self.free();
        if self.sequences.len() == self.max_sequences || free > self.max_sequence_tokens {
            return;
        }
        let handle = self.repo.open().unwrap();
        let mut slots = vec![Slot(0); free];
        self.repo.append(handle, &mut slots).unwrap();
        assert_eq!(self.repo.free_slots(), 0);
        let taken: BTreeSet<u32> = slots.iter().map(|slot| slot.0).collect();
        let owned = self.owned();
        let expected = (0..self.capacity as u32).filter(|slot| !owned.contains(slot)).collect();
        assert_eq!(taken, expected);
        self.repo.release(handle).unwrap();
    }

    fn random_operation(&mut self, random: &mut Random) {
        if self.sequences.is_empty() || random.below(12) == 0 {
            return self.open();
        }
        let index = random.below(self.sequences.len());
        let length = self.sequences[index].1.len();
        match random.below(20) {
            0..=5 => self.append(index, 1),
            6..=9 => self.append(index, random.below(1 + self.capacity / 3)),
            10 => self.append(index, self.free() + random.below(2)),
            11..=13 => self.fork(index, random.below(length + 1)),
            14 => self.fork(index, length + random.below(2)),
            15 | 16 => self.truncate(index, random.below(length + 2)),
            17 => self.release(index),
            18 => self.release(random.below(self.sequences.len())),
            _ => self.use_stale(random),
        }
    }
}

fn random_operations(capacity: usize, max_sequence_tokens: usize, n_operations: usize) {
    let mut random = Random(capacity as u64 + 1);
    let mut model = Model::new(capacity, 6, max_sequence_tokens);
    for operation in 0..n_operations {
        model.random_operation(&mut random);
        model.check();
        if operation % 50 == 0 {
            model.drain();
        }
    }
    while !model.sequences.is_empty() {
        model.release(0);
        model.check();
    }
    assert_eq!(model.repo.free_slots() as usize, capacity);
    model.drain();
}

#[test]
fn a_hundred_thousand_operations_with_small_repos() {
    random_operations(1, 1, 10_000);
    random_operations(2, 2, 10_000);
    random_operations(7, 7, 20_000);
    random_operations(64, 64, 40_000);
    random_operations(64, 20, 20_000);
}

#[test]
fn many_operations_with_a_larger_repo() {
    random_operations(1000, 1000, 5_000);
    random_operations(1000, 300, 5_000);
}

/// Case K02: capacities 0, 1, 2, 32 and prompts one below, at and one above.
#[test]
fn prompts_at_the_capacity() {
    for capacity in [0usize, 1, 2, 32] {
        for n in [capacity.saturating_sub(1), capacity, capacity + 1] {
            let mut model = Model::new(capacity, 2, usize::MAX >> 33);
            model.open();
            model.append(0, n);
            model.append(0, 1);
            model.check();
            model.release(0);
            assert_eq!(model.repo.free_slots() as usize, capacity);
        }
    }
}

/// Case K04: a release that comes twice, in any order with a fork's, counts once.
#[test]
fn a_second_release_changes_nothing() {
    let mut repo = KvRepo::new(8, 4, 8).unwrap();
    let parent = repo.open().unwrap();
    repo.append(parent, &mut [Slot(0); 6]).unwrap();
    let child = repo.fork(parent, 4).unwrap();
    repo.release(parent).unwrap();
    assert_eq!(repo.free_slots(), 4, "the child still reads four slots");
    assert!(matches!(repo.release(parent), Err(Error::StaleHandle(_))));
    assert_eq!(repo.free_slots(), 4);
    // The parent's place is taken again: its old handle must not reach the newcomer.
    let newcomer = repo.open().unwrap();
    repo.append(newcomer, &mut [Slot(0); 4]).unwrap();
    assert!(matches!(repo.release(parent), Err(Error::StaleHandle(_))));
    assert_eq!((repo.free_slots(), repo.length(newcomer)), (0, Ok(4)));
    repo.release(child).unwrap();
    assert!(matches!(repo.release(child), Err(Error::StaleHandle(_))));
    assert_eq!(repo.free_slots(), 4);
}

fn n_segments(repo: &KvRepo, sequence: SequenceHandle) -> usize {
    let mut last = repo.last_segment(sequence).unwrap();
    let mut n = 0;
    while last != NO_SEGMENT {
        last = repo.segments()[last as usize].parent;
        n += 1;
    }
    n
}

/// Sequences that decode in turn must not interleave slot by slot, or attention could not stream.
#[test]
fn sequences_that_grow_in_turn_keep_few_runs() {
    let mut repo = KvRepo::new(16 * 256, 16, 256).unwrap();
    let sequences: Vec<_> = (0..16).map(|_| repo.open().unwrap()).collect();
    for sequence in &sequences {
        repo.append(*sequence, &mut [Slot(0); 20]).unwrap();
    }
    for _ in 20..256 {
        for sequence in &sequences {
            repo.append(*sequence, &mut [Slot(0)]).unwrap();
        }
    }
    assert_eq!(repo.free_slots(), 0, "every slot is usable");
    let n_runs: usize = sequences.iter().map(|&sequence| n_segments(&repo, sequence)).sum();
    assert!(n_runs <= 16 * 8, "{n_runs} runs for 16 sequences");
}

/// Forks that come and go leave no lasting splits behind.
#[test]
fn splits_heal() {
    let mut repo = KvRepo::new(64, 4, 64).unwrap();
    let sequence = repo.open().unwrap();
    repo.append(sequence, &mut [Slot(0); 32]).unwrap();
    for n_tokens in 1..32 {
        let fork = repo.fork(sequence, n_tokens).unwrap();
        repo.append(fork, &mut [Slot(0); 3]).unwrap();
        repo.release(fork).unwrap();
    }
    assert!(n_segments(&repo, sequence) > 1);
    repo.append(sequence, &mut [Slot(0)]).unwrap();
    assert_eq!(n_segments(&repo, sequence), 1);
}

#[test]
fn bookkeeping_bytes_are_the_heap_bytes() {
    for (total_tokens, max_sequences) in [(0, 0), (1, 1), (2, 1), (7, 3), (64, 64), (4096, 5)] {
        let before = HEAP_BYTES.get();
        let repo = KvRepo::new(total_tokens, max_sequences, 16).unwrap();
        let taken = (HEAP_BYTES.get() - before) as u64;
        assert_eq!(taken, KvRepo::bookkeeping_bytes(total_tokens, max_sequences));
        drop(repo);
        assert_eq!(HEAP_BYTES.get(), before);
    }
    // 59 bytes a token and 16 a sequence, also where that is more than 32 bits; and the namespaces.
    let largest = KvRepo::bookkeeping_bytes(KvRepo::MAX_TOTAL_TOKENS, u32::MAX);
    let (n_tokens, n_sequences) = (u64::from(u32::MAX) - 2, u64::from(u32::MAX));
    assert!((59 * n_tokens + 16 * n_sequences..).contains(&largest));
    assert!(largest < 59 * n_tokens + 12 * (n_tokens / 32) + 16 * n_sequences + 60_000);
    assert!(matches!(KvRepo::new(u32::MAX - 1, 1, 1), Err(Error::InvalidArgument(_))));
}

#[test]
fn nothing_allocates_after_new() {
    let mut repo = KvRepo::new(64, 4, 64).unwrap();
    let mut random = Random(7);
    let mut slots = [Slot(0); 8];
    let mut open = Vec::with_capacity(4);
    let before = N_ALLOCATIONS.get();
    for _ in 0..10_000 {
        if open.len() < 4 {
            let opened = match open.first() {
                Some(&parent) => {
                    let length = repo.length(parent).unwrap();
                    repo.fork(parent, random.below(length as usize + 1) as u32)
                }
                None => repo.open(),
            };
            open.push(opened.unwrap());
        }
        let sequence = open[random.below(open.len())];
        let n = random.below(9);
        if n as u32 <= repo.free_slots().min(64 - repo.length(sequence).unwrap()) {
            repo.append(sequence, &mut slots[..n]).unwrap();
        } else {
            repo.truncate(sequence, repo.length(sequence).unwrap() / 2).unwrap();
        }
        if random.below(5) == 0 {
            repo.release(open.swap_remove(random.below(open.len()))).unwrap();
        }
    }
    assert_eq!(N_ALLOCATIONS.get(), before);
}
