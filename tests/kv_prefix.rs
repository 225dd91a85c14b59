//! The prefix cache against a model that keeps a map of token prefixes and evicts token by token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use larder::ids::{NO_SEGMENT, SequenceHandle, Slot, TokenId};
use larder::kv::{Cached, Evict, KvRepo, MAX_NAME_SPACES, NameSpaceSettings, OnEvicted};

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

fn ids(tokens: &[u32]) -> impl Iterator<Item = TokenId> + '_ {
    tokens.iter().map(|&token| TokenId(token))
}

/// What a token's K and V are made of: everything before it, and the namespace.
fn content(name_space: u64, tokens: &[u32]) -> u64 {
    tokens.iter().fold(name_space + 7, |hash, &token| {
        (hash ^ u64::from(token)).wrapping_mul(0x100_0000_01b3).rotate_left(23)
    })
}

/// One token of the tree.
#[derive(Debug, Clone, Copy)]
struct Node {
    n_readers: usize,
    is_kept: bool,
    /// When its last reader left.
    time: u64,
}

struct Sequence {
    handle: SequenceHandle,
    name_space: u64,
    tokens: Vec<u32>,
    /// Tokens that are read from the tree.
    n_in_tree: usize,
}

struct Model {
    repo: KvRepo,
    capacity: usize,
    nodes: BTreeMap<(u64, Vec<u32>), Node>,
    sequences: Vec<Sequence>,
    settings: BTreeMap<u64, NameSpaceSettings>,
    stored: Vec<u64>,
    evicted: BTreeMap<u64, u64>,
    told: Arc<Mutex<BTreeMap<u64, u64>>>,
    clock: u64,
    has_forks: bool,
}

const MAX_SEQUENCES: usize = 5;

impl Model {
    fn new(capacity: usize) -> Model {
        let mut repo = KvRepo::new(capacity as u32, MAX_SEQUENCES as u32, u32::MAX >> 1).unwrap();
        let told = Arc::new(Mutex::new(BTreeMap::new()));
        let log = told.clone();
        repo.on_evicted(OnEvicted(Some(Arc::new(move |name_space, n| {
            *log.lock().unwrap().entry(name_space).or_insert(0) += n;
        }))));
        Model {
            repo,
            capacity,
            nodes: BTreeMap::new(),
            sequences: Vec::new(),
            settings: BTreeMap::new(),
            stored: vec![0; capacity],
            evicted: BTreeMap::new(),
            told,
            clock: 0,
            has_forks: false,
        }
    }

    fn is_pinned(&self, name_space: u64) -> bool {
        self.settings.get(&name_space).is_some_and(|settings| settings.is_pinned)
    }

    fn n_idle(&self, is_meant: impl Fn(u64) -> bool) -> usize {
        let nodes = self.nodes.iter();
        nodes.filter(|((space, _), node)| node.n_readers == 0 && is_meant(*space)).count()
    }

    /// Adds (or removes) a reader to the first `n` tokens of a sequence.
    fn read(&mut self, name_space: u64, tokens: &[u32], is_kept: bool, by: isize) {
        self.clock += 1;
        let is_kept = is_kept && !self.is_pinned(name_space);
        for n in (1..=tokens.len()).rev() {
            let node = self.nodes.get_mut(&(name_space, tokens[..n].to_vec())).unwrap();
            node.n_readers = node.n_readers.checked_add_signed(by).unwrap();
            if node.n_readers == 0 {
                (node.time, node.is_kept) = (self.clock, is_kept);
            }
        }
    }

    fn open(&mut self, name_space: u64, tokens: &[u32]) {
        if self.sequences.len() == MAX_SEQUENCES {
            assert!(self.repo.open_cached(name_space, ids(tokens)).is_err());
            return;
        }
        let (handle, n) = self.repo.open_cached(name_space, ids(tokens)).unwrap();
        let n_in_tree = n as usize;
        assert_eq!(self.repo.length(handle), Ok(n));
        if !self.has_forks {
            assert_eq!(n_in_tree, self.cached(name_space, tokens).n_tokens as usize);
            self.read(name_space, &tokens[..n_in_tree], false, 1);
        }
        let tokens = tokens[..n_in_tree].to_vec();
        self.sequences.push(Sequence { handle, name_space, tokens, n_in_tree });
    }

    fn cached(&self, name_space: u64, tokens: &[u32]) -> Cached {
        let mut cached = Cached::default();
        for n in 1..=tokens.len() {
            match self.nodes.get(&(name_space, tokens[..n].to_vec())) {
                Some(node) => {
                    cached.n_tokens += 1;
                    cached.n_idle += u32::from(node.n_readers == 0);
                }
                None => break,
            }
        }
        cached
    }

    fn append(&mut self, index: usize, tokens: &[u32]) {
        let free = self.repo.free_slots() as usize;
        let empty = self.repo.empty_slots() as usize;
        let sequence = &mut self.sequences[index];
        let mut slots = vec![Slot(u32::MAX); tokens.len()];
        let given: Vec<TokenId> = ids(tokens).collect();
        let result = self.repo.append_tokens(sequence.handle, &given, &mut slots);
        assert_eq!(result.is_ok(), tokens.len() <= free, "{result:?}");
        if result.is_err() {
            return;
        }
        for (slot, token) in slots.iter().zip(tokens) {
            sequence.tokens.push(*token);
            self.stored[slot.0 as usize] = content(sequence.name_space, &sequence.tokens);
        }
        if !self.has_forks {
            self.evict(tokens.len().saturating_sub(empty), |_| true);
        }
    }

    /// Evicts the tokens that were read longest ago, the end of a path before its beginning.
    fn evict(&mut self, n: usize, is_meant: impl Fn(u64) -> bool) {
        for _ in 0..n {
            loop {
                let idle = self.nodes.iter().filter(|((space, _), node)| {
                    node.n_readers == 0 && is_meant(*space) && !self.is_pinned(*space)
                });
                let order = |node: &Node, depth| (node.is_kept, node.time, usize::MAX - depth);
                let first = idle.min_by_key(|((_, tokens), node)| order(node, tokens.len()));
                let key = first.unwrap().0.clone();
                if self.is_leaf(&key) {
                    self.nodes.remove(&key);
                    *self.evicted.entry(key.0).or_insert(0) += 1;
                    break;
                }
                self.clock += 1;
                let node = self.nodes.get_mut(&key).unwrap();
                (node.is_kept, node.time) = (true, self.clock);
            }
        }
    }

    fn is_leaf(&self, (space, tokens): &(u64, Vec<u32>)) -> bool {
        let mut behind = self.nodes.range((*space, tokens.clone())..).skip(1);
        !behind.next().is_some_and(|((s, t), _)| s == space && t.starts_with(tokens))
    }

    fn keep_quota(&mut self, name_space: u64) {
        let Some(settings) = self.settings.get(&name_space) else { return };
        while self.n_idle(|space| space == name_space) > settings.max_idle_slots as usize {
            let nodes = self.nodes.iter().filter(|(key, node)| {
                key.0 == name_space && node.n_readers == 0 && self.is_leaf(key)
            });
            let first = nodes.min_by_key(|((_, tokens), node)| {
                (node.is_kept, node.time, usize::MAX - tokens.len())
            });
            let key = first.unwrap().0.clone();
            self.nodes.remove(&key);
            *self.evicted.entry(name_space).or_insert(0) += 1;
        }
    }

    fn publish(&mut self, index: usize) {
        let Sequence { handle, name_space, tokens, n_in_tree } = &mut self.sequences[index];
        self.repo.publish(*handle, *name_space).unwrap();
        for n in *n_in_tree + 1..=tokens.len() {
            let fresh = Node { n_readers: 0, is_kept: false, time: 0 };
            let node = self.nodes.entry((*name_space, tokens[..n].to_vec())).or_insert(fresh);
            node.n_readers += 1;
        }
        *n_in_tree = tokens.len();
    }

    fn give(&mut self, index: usize, order: Evict) {
        self.publish(index);
        let Sequence { handle, name_space, tokens, .. } = self.sequences.swap_remove(index);
        self.repo.give(handle, name_space, order).unwrap();
        self.read(name_space, &tokens, order == Evict::Last, -1);
        self.keep_quota(name_space);
    }

    fn truncate(&mut self, index: usize, n: usize) {
        let Sequence { handle, name_space, tokens, n_in_tree } = &mut self.sequences[index];
        self.repo.truncate(*handle, n as u32).unwrap();
        let before = tokens[..*n_in_tree].to_vec();
        let space = *name_space;
        tokens.truncate(n);
        let kept = (*n_in_tree).min(n);
        *n_in_tree = kept;
        if kept < before.len() {
            self.read(space, &before[..kept], false, 1);
            self.read(space, &before, false, -1);
        }
    }

    fn release(&mut self, index: usize) {
        let Sequence { handle, name_space, tokens, n_in_tree } = self.sequences.swap_remove(index);
        self.repo.release(handle).unwrap();
        self.read(name_space, &tokens[..n_in_tree], false, -1);
    }

    fn set(&mut self, name_space: u64, settings: NameSpaceSettings) {
        let was_pinned = self.is_pinned(name_space);
        self.repo.set_name_space(name_space, settings).unwrap();
        self.settings.insert(name_space, settings);
        if was_pinned != settings.is_pinned {
            // They come behind all others, in their order.
            let mut moved: Vec<_> = self.nodes.iter_mut().collect();
            moved.retain(|((space, _), node)| *space == name_space && node.n_readers == 0);
            moved.sort_by_key(|((_, t), node)| (node.is_kept, node.time, usize::MAX - t.len()));
            for (_, node) in moved {
                self.clock += 1;
                (node.is_kept, node.time) = (false, self.clock);
            }
        }
        self.keep_quota(name_space);
    }

    /// The slots of a sequence, by its chain.
    fn chain(&self, handle: SequenceHandle) -> Vec<u32> {
        let mut last = self.repo.last_segment(handle).unwrap();
        let mut slots = Vec::new();
        while last != NO_SEGMENT {
            let segment = self.repo.segments()[last as usize];
            slots.extend((segment.start.0..segment.start.0 + segment.len).rev());
            assert_eq!(segment.first_position == 0, segment.parent == NO_SEGMENT);
            last = segment.parent;
        }
        slots.reverse();
        slots
    }

    /// Every sequence reads what it would have computed itself.
    fn check_contents(&self) -> BTreeSet<u32> {
        let mut read = BTreeSet::new();
        for sequence in &self.sequences {
            let slots = self.chain(sequence.handle);
            assert_eq!(slots.len(), sequence.tokens.len());
            for (i, &slot) in slots.iter().enumerate() {
                let expected = content(sequence.name_space, &sequence.tokens[..=i]);
                assert_eq!(self.stored[slot as usize], expected, "token {i}");
            }
            read.extend(slots);
        }
        read
    }

    fn check(&self, random: &mut Random) {
        let n_read = self.check_contents().len();
        let private: usize = self.sequences.iter().map(|s| s.tokens.len() - s.n_in_tree).sum();
        let n_idle = self.n_idle(|_| true);
        assert_eq!(n_read, private + self.nodes.len() - n_idle, "doubles are returned");
        assert_eq!(self.repo.tree_slots() as usize, self.nodes.len());
        assert_eq!(self.repo.empty_slots() as usize, self.capacity - n_read - n_idle);
        let n_pinned = self.n_idle(|space| self.is_pinned(space));
        assert_eq!(self.repo.free_slots() as usize, self.capacity - n_read - n_pinned);
        let n_tokens: usize = self.sequences.iter().map(|s| s.tokens.len()).sum();
        assert_eq!(self.repo.shared_slots() as usize, n_tokens - n_read);
        assert_eq!(*self.told.lock().unwrap(), self.evicted);
        assert_eq!(self.repo.n_evicted(), self.evicted.values().sum::<u64>());
        let (space, tokens) = (random.below(3) as u64, some_tokens(random));
        assert_eq!(self.repo.cached(space, ids(&tokens)), self.cached(space, &tokens));
    }

    fn random_operation(&mut self, random: &mut Random) {
        let index = random.below(self.sequences.len().max(1));
        if self.sequences.is_empty() || random.below(6) == 0 {
            let tokens = some_tokens(random);
            return self.open(random.below(3) as u64, &tokens);
        }
        let length = self.sequences[index].tokens.len();
        match random.below(24) {
            0..=9 => self.append(index, &some_tokens(random)[..1 + random.below(4)]),
            10..=13 => self.publish(index),
            14..=17 => self.give(index, Evict::First),
            18 => self.give(index, Evict::Last),
            19 => self.truncate(index, random.below(length + 1)),
            20 => self.release(index),
            21 if random.below(4) == 0 => {
                self.repo.flush();
                let n = self.n_idle(|space| !self.is_pinned(space));
                self.evict(n, |_| true);
            }
            22 => {
                let max_idle_slots = [u32::MAX, u32::MAX, 0, 5][random.below(4)];
                let is_pinned = random.below(4) == 0;
                let settings = NameSpaceSettings { max_idle_slots, is_pinned };
                self.set(random.below(3) as u64, settings);
            }
            _ => {}
        }
    }
}

/// Two kinds of tokens, so that prefixes meet.
fn some_tokens(random: &mut Random) -> Vec<u32> {
    (0..4 + random.below(9)).map(|_| random.below(5) as u32 / 4).collect()
}

#[test]
fn equals_a_map_of_prefixes() {
    for (capacity, n_operations) in [(1, 500), (2, 1000), (9, 4000), (40, 8000), (150, 4000)] {
        let mut random = Random(capacity as u64);
        let mut model = Model::new(capacity);
        for _ in 0..n_operations {
            model.random_operation(&mut random);
            model.check(&mut random);
        }
        let n_evicted = model.repo.n_evicted();
        assert!(n_evicted > n_operations / 40, "{n_evicted} of {n_operations}");
        while !model.sequences.is_empty() {
            model.give(0, Evict::First);
        }
        (0..3).for_each(|space| model.set(space, NameSpaceSettings::default()));
        model.repo.flush();
        assert_eq!((model.repo.empty_slots() as usize, model.repo.tree_slots()), (capacity, 0));
    }
}

/// With forks, whose private parts several sequences read, contents stay right and nothing is lost.
#[test]
fn forks_and_the_tree_share_slots() {
    for capacity in [9, 40, 150] {
        let mut random = Random(capacity as u64 + 1);
        let mut model = Model::new(capacity);
        model.has_forks = true;
        for _ in 0..6000 {
            let n = model.sequences.len();
            let index = random.below(n.max(1));
            match random.below(10) {
                _ if n == 0 => model.open(0, &some_tokens(&mut random)),
                0 | 1 => model.open(random.below(2) as u64, &some_tokens(&mut random)),
                2..=4 => model.append(index, &some_tokens(&mut random)[..1 + random.below(4)]),
                5 | 6 if n < MAX_SEQUENCES => {
                    let parent = &model.sequences[index];
                    let n_shared = random.below(parent.tokens.len() + 1);
                    let handle = model.repo.fork(parent.handle, n_shared as u32).unwrap();
                    let (tokens, name_space) =
                        (parent.tokens[..n_shared].to_vec(), parent.name_space);
                    let child = Sequence { handle, name_space, tokens, n_in_tree: 0 };
                    model.sequences.push(child);
                }
                7 => {
                    let Sequence { handle, name_space, .. } = model.sequences[index];
                    model.repo.publish(handle, name_space).unwrap();
                }
                8 => {
                    let Sequence { handle, name_space, .. } = model.sequences.swap_remove(index);
                    model.repo.give(handle, name_space, Evict::First).unwrap();
                }
                _ => model.repo.release(model.sequences.swap_remove(index).handle).unwrap(),
            }
            let n_read = model.check_contents().len();
            assert_eq!(model.repo.free_slots() as usize, capacity - n_read);
        }
        model.sequences.drain(..).for_each(|s| model.repo.release(s.handle).unwrap());
        model.repo.flush();
        assert_eq!((model.repo.empty_slots() as usize, model.repo.tree_slots()), (capacity, 0));
    }
}

/// Fills a namespace's cache with a sequence of these tokens.
fn fill(repo: &mut KvRepo, name_space: u64, tokens: &[u32]) {
    let (handle, n) = repo.open_cached(name_space, ids(tokens)).unwrap();
    let rest: Vec<TokenId> = ids(&tokens[n as usize..]).collect();
    repo.append_tokens(handle, &rest, &mut vec![Slot(0); rest.len()]).unwrap();
    repo.give(handle, name_space, Evict::First).unwrap();
}

/// Case K07: an adapter, or the same at another scale, is a namespace of its own.
#[test]
fn namespaces_share_nothing() {
    let mut repo = KvRepo::new(100, 4, 100).unwrap();
    let tokens: Vec<u32> = (0..20).collect();
    for name_space in [0, 1, u64::MAX] {
        assert_eq!(repo.cached(name_space, ids(&tokens)).n_tokens, 0);
        fill(&mut repo, name_space, &tokens);
        assert_eq!(repo.cached(name_space, ids(&tokens)).n_tokens, 20);
    }
    assert_eq!(repo.tree_slots(), 60);
}

/// Case K08: whatever the buckets, a hit is of equal tokens. A repo of 4 slots has one bucket.
#[test]
fn tokens_decide_and_not_their_hash() {
    let mut repo = KvRepo::new(4, 2, 4).unwrap();
    fill(&mut repo, 5, &[1000, 31]);
    for other in [[1001, 30], [999, 62], [31, 1000], [1000, 0]] {
        let n_equal = u32::from(other[0] == 1000);
        assert_eq!(repo.cached(5, ids(&other)).n_tokens, n_equal, "{other:?}");
    }
    fill(&mut repo, 5, &[1001, 30]);
    assert_eq!(repo.cached(5, ids(&[1000, 31])).n_tokens, 2);
    assert_eq!(repo.cached(5, ids(&[1001, 30])).n_tokens, 2);
}

/// Cached prompts of many namespaces come and go; one too many is not cached, and nothing fails.
#[test]
fn more_namespaces_than_can_be_known() {
    let n = MAX_NAME_SPACES;
    let mut repo = KvRepo::new(n + 9, 2, 4).unwrap();
    let mut settings = NameSpaceSettings { max_idle_slots: 3, is_pinned: false };
    (0..n).for_each(|space| repo.set_name_space(u64::from(space), settings).unwrap());
    let error = repo.set_name_space(u64::MAX, settings).unwrap_err().to_string();
    assert!(error.contains("1024 namespaces"), "{error}");
    fill(&mut repo, u64::MAX, &[1, 2]);
    assert_eq!((repo.tree_slots(), repo.empty_slots()), (0, n + 9));
    settings = NameSpaceSettings::default();
    repo.set_name_space(7, settings).unwrap();
    fill(&mut repo, u64::MAX, &[1, 2]);
    assert_eq!(repo.tree_slots(), 2);
    repo.flush();
    repo.set_name_space(8, settings).unwrap();
    fill(&mut repo, 8, &[1, 2]);
    assert_eq!(repo.tree_slots(), 2);
}

/// A sequence that is open reads its prefix however many slots others need.
#[test]
fn what_is_read_is_never_evicted() {
    static N_EVICTED: AtomicU64 = AtomicU64::new(0);
    let mut repo = KvRepo::new(32, 4, 64).unwrap();
    repo.on_evicted(OnEvicted(Some(Arc::new(|_, n| {
        N_EVICTED.fetch_add(n, Relaxed);
    }))));
    fill(&mut repo, 0, &(0..20).collect::<Vec<_>>());
    let (reader, n) = repo.open_cached(0, ids(&[0, 1, 2, 3, 4, 5, 9])).unwrap();
    assert_eq!((n, repo.free_slots()), (6, 26));
    let other = repo.open().unwrap();
    assert!(repo.append(other, &mut [Slot(0); 27]).is_err());
    assert_eq!(N_EVICTED.load(Relaxed), 0, "an error changes nothing");
    // 12 are empty: a leaf loses only its end.
    repo.append(other, &mut [Slot(0); 15]).unwrap();
    assert_eq!(repo.cached(0, ids(&(0..20).collect::<Vec<_>>())).n_tokens, 17);
    repo.append(other, &mut [Slot(0); 11]).unwrap();
    assert_eq!(N_EVICTED.load(Relaxed), 14);
    assert_eq!((repo.length(reader), repo.tree_slots(), repo.free_slots()), (Ok(6), 6, 0));
}

/// Sequences that grow in turn behind a full tree get runs to grow in, and little is evicted before its time.
#[test]
fn evicted_slots_come_in_runs() {
    let (total, n_sequences) = (32_768, 8);
    let mut repo = KvRepo::new(total, n_sequences, total).unwrap();
    for space in 0..32 {
        fill(&mut repo, space, &(0..1024).collect::<Vec<_>>());
    }
    assert_eq!(repo.empty_slots(), 0);
    let sequences: Vec<_> = (0..n_sequences).map(|_| repo.open().unwrap()).collect();
    for _ in 0..512 {
        for &sequence in &sequences {
            repo.append(sequence, &mut [Slot(0)]).unwrap();
        }
        assert!(repo.empty_slots() <= total / 8, "{}", repo.empty_slots());
    }
    for sequence in sequences {
        let (mut n, mut last) = (0, repo.last_segment(sequence).unwrap());
        while last != NO_SEGMENT {
            (n, last) = (n + 1, repo.segments()[last as usize].parent);
        }
        assert!(n <= 512 / 16, "512 tokens lie in {n} runs");
    }
}
