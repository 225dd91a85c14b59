//! Heap bytes of the structures that the tokenizers and minijinja crates keep: formulas, so that a plan has the
//! figure before anything is built; a test compares them with a counting allocator.
#![forbid(unsafe_code)]

use tokenizers::AddedToken;

/// A hash table of `n` entries of `entry` bytes: a power of two of places, at most 7/8 full, with a control byte each.
fn table(n: usize, entry: usize) -> u64 {
    let places = match n {
        0 => return 0,
        1..=3 => 4,
        4..=7 => 8,
        8..=14 => 16,
        _ => (n as u64 * 8 / 7).next_power_of_two(),
    };
    places * (entry as u64 + 1) + 16
}

/// The crate's BPE: text to id, id to text, and pair to (rank, id).
pub(super) fn ranked(token_lengths: impl Iterator<Item = usize>, n_merges: usize) -> u64 {
    let (mut n, mut text) = (0, 0);
    for length in token_lengths {
        n += 1;
        text += length as u64;
    }
    2 * (table(n, 32) + text) + table(n_merges, 16)
}

/// Two added vocabularies: each holds the tokens in four tables; they share one search automaton over the texts.
pub(super) fn added(tokens: &[(u32, AddedToken)]) -> u64 {
    let n = tokens.len();
    let text: u64 = tokens.iter().map(|(_, token)| token.content.len() as u64).sum();
    let special = tokens.iter().filter(|(_, token)| token.special).count();
    let tables = table(n, 32) + table(n, 40) + table(special, 24) + 32 * n as u64;
    2 * (tables + 4 * text) + automaton(tokens)
}

/// A state per distinct prefix: up to 100 texts with a transition per class of bytes, else with the few that exist.
fn automaton(tokens: &[(u32, AddedToken)]) -> u64 {
    let mut texts: Vec<&[u8]> = tokens.iter().map(|(_, token)| token.content.as_bytes()).collect();
    texts.sort_unstable();
    let mut n_states = 3;
    let mut last: &[u8] = &[];
    for text in &texts {
        let shared = text.iter().zip(last).take_while(|(a, b)| a == b).count();
        n_states += (text.len() - shared) as u64;
        last = text;
    }
    if texts.len() > 100 {
        return 42 * n_states;
    }
    // Each byte that occurs is a class, and so is each gap between two of them.
    let mut occurs = [false; 258];
    texts.concat().into_iter().for_each(|byte| occurs[usize::from(byte) + 1] = true);
    let n_classes = 1 + occurs.windows(2).filter(|pair| pair[0] || pair[1]).count() as u64;
    n_states * 4 * n_classes.next_power_of_two()
}

/// A compiled template: source, syntax and instructions, and the environment's filters and tests.
pub(super) fn template(source: Option<&str>) -> u64 {
    source.map_or(0, |source| 20_000 + source.len() as u64 * 9 / 2)
}
