//! Sequences that take over what others published, and slots that nobody else reads, against lists of tokens.

use std::collections::BTreeSet;

use larder::error::Error;
use larder::ids::{NO_SEGMENT, SequenceHandle, Slot, TokenId};
use larder::kv::{Evict, KvRepo};

fn ids(tokens: &[u32]) -> impl Iterator<Item = TokenId> + '_ {
    tokens.iter().map(|&token| TokenId(token))
}

fn append(repo: &mut KvRepo, sequence: SequenceHandle, tokens: &[u32]) {
    let mut slots = vec![Slot(0); tokens.len()];
    let tokens: Vec<_> = ids(tokens).collect();
    repo.append_tokens(sequence, &tokens, &mut slots).unwrap();
}

/// The slots of a sequence, from its end.
fn slots(repo: &KvRepo, sequence: SequenceHandle) -> Vec<u32> {
    let (mut index, mut slots) = (repo.last_segment(sequence).unwrap(), Vec::new());
    while index != NO_SEGMENT {
        let segment = repo.segments()[index as usize];
        slots.extend((segment.start.0..segment.start.0 + segment.len).rev());
        index = segment.parent;
    }
    slots
}

#[test]
fn a_sequence_is_extended_by_what_is_published() {
    let mut repo = KvRepo::new(64, 4, 40).unwrap();
    let (tokens, end): (Vec<u32>, Vec<u32>) = ((0..20).collect(), (20..26).collect());
    let (a, b) = (repo.open().unwrap(), repo.open().unwrap());
    append(&mut repo, a, &tokens);
    assert_eq!(repo.extend_cached(b, 7, ids(&tokens)), Ok(0), "nothing is published");
    repo.publish(a, 7).unwrap();
    assert_eq!(repo.extend_cached(b, 8, ids(&tokens)), Ok(0), "another namespace");
    assert_eq!(repo.extend_cached(b, 7, ids(&tokens[..5])), Ok(5));
    assert_eq!(repo.extend_cached(b, 7, ids(&[5, 6, 99])), Ok(7));
    assert_eq!(repo.extend_cached(b, 7, ids(&[])), Ok(7));
    assert_eq!(repo.used_slots(), 20);
    append(&mut repo, a, &end);
    repo.publish(a, 7).unwrap();
    let rest: Vec<u32> = (7..26).collect();
    assert_eq!(repo.extend_cached(b, 7, ids(&rest)), Ok(26));
    assert_eq!((slots(&repo, b), repo.used_slots()), (slots(&repo, a), 26));
    // With tokens of its own it stays as it is, and so it does in another's namespace.
    append(&mut repo, b, &[50]);
    append(&mut repo, a, &[50, 51]);
    repo.publish(a, 7).unwrap();
    assert_eq!(repo.extend_cached(b, 7, ids(&[51])), Ok(27));
    repo.publish(b, 7).unwrap();
    assert_eq!(repo.extend_cached(b, 8, ids(&[51])), Ok(27));
    assert_eq!(repo.extend_cached(b, 7, ids(&[51])), Ok(28));
    repo.give(a, 7, Evict::First).unwrap();
    repo.release(b).unwrap();
    assert_eq!((repo.used_slots(), repo.tree_slots()), (0, 28));
    assert!(matches!(repo.extend_cached(b, 7, ids(&[1])), Err(Error::StaleHandle(_))));
    assert!(matches!(repo.private_slots(b), Err(Error::StaleHandle(_))));
    repo.flush();
    assert_eq!(repo.empty_slots(), 64);
}

#[test]
fn no_sequence_is_extended_beyond_its_limit() {
    let mut repo = KvRepo::new(64, 2, 20).unwrap();
    let tokens: Vec<u32> = (0..20).collect();
    let a = repo.open().unwrap();
    append(&mut repo, a, &tokens);
    repo.publish(a, 0).unwrap();
    let (b, n) = repo.open_cached(0, ids(&tokens[..18])).unwrap();
    assert_eq!(n, 18);
    assert_eq!(repo.extend_cached(b, 0, ids(&[18, 19, 20, 21])), Ok(20));
    assert_eq!(repo.extend_cached(b, 0, ids(&[20])), Ok(20));
}

/// Random sequences over few tokens: whatever is done, an end that one sequence reads alone counts, and no more.
#[test]
fn private_slots_are_those_at_the_end_that_nobody_else_reads() {
    let mut random = 9_u64;
    let mut below = |n: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((random >> 33) % n) as usize
    };
    let mut repo = KvRepo::new(60, 6, 40).unwrap();
    let mut open: Vec<(SequenceHandle, Vec<u32>)> = Vec::new();
    for _ in 0..20_000 {
        let wanted: Vec<u32> = (0..below(14)).map(|_| below(2) as u32).collect();
        let at = below(open.len().max(1) as u64);
        let n_open = open.len();
        match (below(6), open.get_mut(at)) {
            (0, _) if n_open < 6 => {
                let (handle, n) = repo.open_cached(1, ids(&wanted)).unwrap();
                open.push((handle, wanted[..n as usize].to_vec()));
            }
            (1 | 2, Some((handle, tokens))) => {
                let fits = wanted.len() <= repo.free_slots() as usize;
                if fits && tokens.len() + wanted.len() <= 40 {
                    append(&mut repo, *handle, &wanted);
                    tokens.extend(wanted);
                }
            }
            (3, Some((handle, _))) => repo.publish(*handle, 1).unwrap(),
            (4, Some((handle, tokens))) => {
                let before = tokens.len();
                let n = repo.extend_cached(*handle, 1, ids(&wanted)).unwrap() as usize;
                tokens.extend(&wanted[..n - before]);
            }
            (5, Some(_)) => {
                let (handle, _) = open.swap_remove(at);
                repo.give(handle, 1, Evict::First).unwrap();
            }
            _ => {}
        }
        let all: Vec<_> = open.iter().map(|(handle, _)| slots(&repo, *handle)).collect();
        for (i, (handle, tokens)) in open.iter().enumerate() {
            assert_eq!(repo.length(*handle), Ok(tokens.len() as u32));
            let others: BTreeSet<u32> =
                (0..all.len()).filter(|&j| j != i).flat_map(|j| all[j].iter().copied()).collect();
            let n = all[i].iter().take_while(|slot| !others.contains(slot)).count();
            assert_eq!(repo.private_slots(*handle), Ok(n as u32));
        }
        let used: BTreeSet<u32> = all.into_iter().flatten().collect();
        assert_eq!(repo.used_slots() as usize, used.len());
    }
}
