//! The vocabulary as llguidance wants it: a trie over the tokens' bytes. Built once, beside the tokenizer.
//!
//! Only text is in it as text. Control tokens, and whatever ends an answer, stand under a byte that no text has: a
//! constraint cannot produce them. Tokens without bytes, and very long ones, are left out: a constrained answer never
//! has them.
#![forbid(unsafe_code)]

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie,
};

use super::pieces::Pieces;
use crate::error::{Error, Result};
use crate::ids::TokenId;

/// Bytes of the longest token that a constrained answer may have. The trie is walked by recursion.
const MAX_TOKEN_BYTES: usize = 128;
/// Nodes of the largest trie, of which llguidance's numbers hold a few more.
const MAX_NODES: usize = 4_000_000;
/// Bytes of a node, and of a token's place and rank.
const NODE_BYTES: u64 = 8;
const TOKEN_BYTES: u64 = 16;
/// llguidance keeps the trie itself, and two more for the parts that a vocabulary can be cut into; we cut none.
const N_TRIES: u64 = 3;

/// What every constraint of a model shares.
pub(super) struct TokenTrie {
    pub(super) factory: ParserFactory,
    /// Bit i: token i is text.
    pub(super) is_text: Vec<u32>,
    pub(super) stops: Vec<TokenId>,
    heap_bytes: u64,
}

impl TokenTrie {
    /// Builds the trie of a vocabulary whose answers end with `stops`.
    ///
    /// # Errors
    /// `Unsupported`: the vocabulary is too large, or no token has text.
    pub(super) fn new(pieces: &Pieces, stops: &[TokenId]) -> Result<TokenTrie> {
        let n = pieces.len();
        let mut is_text = vec![0; n.div_ceil(32) as usize];
        let mut words: Vec<Vec<u8>> = Vec::with_capacity(n as usize);
        for id in 0..n {
            let bytes = pieces.get(id);
            let fits = bytes.len() <= MAX_TOKEN_BYTES;
            let is_control = pieces.is_special(id) || stops.contains(&TokenId(id));
            words.push(match bytes.first() {
                Some(_) if is_control && fits => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
                Some(&first) if fits && !is_control && first != TokTrie::SPECIAL_TOKEN_MARKER => {
                    is_text[id as usize / 32] |= 1 << (id % 32);
                    bytes.to_vec()
                }
                _ => Vec::new(),
            });
        }
        let n_nodes = count_nodes(&words);
        if n_nodes > MAX_NODES || is_text.iter().all(|&word| word == 0) {
            return Err(Error::Unsupported(format!(
                "constraints need a vocabulary of text whose trie has at most {MAX_NODES} nodes; this one has {n_nodes}"
            )));
        }
        let n_bytes = words.iter().map(Vec::len).sum::<usize>() as u64;
        let heap_bytes = N_TRIES
            * (NODE_BYTES * n_nodes as u64 + TOKEN_BYTES * u64::from(n) + n_bytes)
            + 4 * (is_text.len() + stops.len()) as u64;
        let (factory, stops) = (factory(n, &words, stops)?, stops.to_vec());
        Ok(TokenTrie { factory, is_text, stops, heap_bytes })
    }

    /// Heap bytes: a formula, the same for the same vocabulary.
    pub(super) fn heap_bytes(&self) -> u64 {
        self.heap_bytes
    }
}

fn factory(n: u32, words: &[Vec<u8>], stops: &[TokenId]) -> Result<ParserFactory> {
    let stops: Vec<u32> = stops.iter().map(|stop| stop.0).collect();
    let info = TokRxInfo::new(n, stops.first().copied().unwrap_or(INVALID_TOKEN));
    let mut trie = TokTrie::from(&info, words);
    if stops.len() > 1 {
        trie = trie.with_eos_tokens(&stops);
    }
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &[])
        .map_err(|error| Error::Internal(format!("the trie of the vocabulary: {error}")))?;
    factory.quiet();
    *factory.limits_mut() = limits();
    Ok(factory)
}

/// What llguidance may spend on one constraint. Time: a few milliseconds a step in the worst case.
pub(super) fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// Distinct prefixes, with the empty one; tokens of the same bytes have a node each.
fn count_nodes(words: &[Vec<u8>]) -> usize {
    let mut sorted: Vec<&[u8]> =
        words.iter().map(Vec::as_slice).filter(|w| !w.is_empty()).collect();
    sorted.sort_unstable();
    let mut last: &[u8] = &[];
    let mut n = 1;
    for word in sorted {
        let n_shared = word.iter().zip(last).take_while(|(a, b)| a == b).count();
        n += (word.len() - n_shared).max(1);
        last = word;
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(words: &[&str], n_control: u32, stops: &[u32]) -> Result<TokenTrie> {
        let n = words.len() as u32;
        let piece = |id: u32| (words[id as usize].as_bytes().to_vec(), id >= n - n_control);
        let stops: Vec<TokenId> = stops.iter().copied().map(TokenId).collect();
        TokenTrie::new(&Pieces::new(n, piece).unwrap(), &stops)
    }

    #[test]
    fn text_is_told_from_the_rest() {
        let long = "x".repeat(MAX_TOKEN_BYTES + 1);
        let words = ["a", "ab", "", &long[1..], &long, "é", "a", "stop", "<c>", ""];
        let trie = trie(&words, 2, &[7]).unwrap();
        assert_eq!(trie.is_text, [0b0110_1011]);
        let nodes = trie.factory.tok_env().tok_trie().root().subtree_size();
        let counted: Vec<Vec<u8>> = words[..4].iter().map(|w| w.as_bytes().to_vec()).collect();
        // Beside them é (2), the second a (1), and the mark (1) with stop (4) and <c> (3).
        assert_eq!(nodes, count_nodes(&counted) + 2 + 1 + 1 + 4 + 3);
        assert_eq!(count_nodes(&counted), 1 + 2 + MAX_TOKEN_BYTES);
    }

    #[test]
    fn a_vocabulary_without_text_is_unsupported() {
        assert!(matches!(trie(&["", "<s>"], 1, &[]), Err(Error::Unsupported(_))));
        assert!(matches!(trie(&["a", "b"], 2, &[]), Err(Error::Unsupported(_))));
        assert!(matches!(trie(&["a"], 0, &[0]), Err(Error::Unsupported(_))));
    }
}
