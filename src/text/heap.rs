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

/// Two added vocabularies: the tokens in four tables, and a search automaton over their texts.
pub(super) fn added(tokens: &[(u32, AddedToken)]) -> u64 {
    let n = tokens.len();
    let text: u64 = tokens.iter().map(|(_, token)| token.content.len() as u64).sum();
    let special = tokens.iter().filter(|(_, token)| token.special).count();
    let tables = table(n, 32) + table(n, 40) + table(special, 24) + 32 * n as u64;
    // A state per byte of text: some 24 bytes sparse, more in the dense automaton of few patterns.
    let automaton = text * if n > 100 { 24 } else { 160 } + 4096;
    2 * (tables + 4 * text + automaton)
}

/// A compiled template: source, syntax and instructions, and the environment's filters and tests.
pub(super) fn template(source: Option<&str>) -> u64 {
    source.map_or(0, |source| 24 * 1024 + 14 * source.len() as u64)
}
