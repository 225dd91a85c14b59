//! SentencePiece's BPE: of all adjacent pairs, the one whose joined piece has the highest score merges first, the
//! leftmost of equals; what no piece spells falls back to byte tokens, then to the unknown token.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::pieces::byte_of_token;
use super::source::Vocabulary;
use crate::error::{Error, Result};

const NONE: u32 = u32::MAX;

/// Pieces with scores, and an open-addressing index over their texts.
#[derive(Debug)]
pub(super) struct ScoredPieces {
    text: Vec<u8>,
    /// End of piece i in `text`.
    ends: Vec<u32>,
    scores: Vec<f32>,
    /// Power of two; an id or `NONE`. Searched linearly from the text's hash on.
    index: Vec<u32>,
    longest: usize,
    bytes: Box<[u32; 256]>,
    unknown: Option<u32>,
}

/// A run of text that is one piece so far; a doubly linked list in an array.
struct Symbol {
    start: usize,
    end: usize,
    previous: u32,
    next: u32,
}

/// Two neighbours that could merge into a piece of `len` bytes.
struct Pair {
    score: f32,
    left: u32,
    right: u32,
    len: usize,
}

impl ScoredPieces {
    /// Takes the pieces that text may be merged into: not control, unknown and byte tokens.
    pub fn new(vocabulary: &Vocabulary) -> Result<ScoredPieces> {
        let tokens = vocabulary.tokens;
        let scores = vocabulary.scores.ok_or_else(|| {
            Error::BadModel("tokenizer.ggml.scores is missing; model \"llama\" needs it".into())
        })?;
        if let Some(i) = scores.iter().position(|score| score.is_nan()) {
            return Err(Error::BadModel(format!("tokenizer.ggml.scores[{i}] is not a number")));
        }
        let mut pieces = ScoredPieces {
            text: Vec::with_capacity(tokens.iter().map(String::len).sum()),
            ends: Vec::with_capacity(tokens.len()),
            // Adding zero turns -0 into 0: the two must tie.
            scores: scores.iter().map(|score| score + 0.0).collect(),
            index: vec![NONE; (tokens.len() * 2).next_power_of_two()],
            longest: 0,
            bytes: Box::new([NONE; 256]),
            unknown: vocabulary.unknown,
        };
        for (id, token) in (0u32..).zip(tokens) {
            pieces.text.extend_from_slice(token.as_bytes());
            let end = u32::try_from(pieces.text.len())
                .map_err(|_| Error::BadModel("tokenizer.ggml.tokens exceeds 4 GiB".into()))?;
            pieces.ends.push(end);
            if let Some(byte) = byte_of_token(token) {
                let slot = &mut pieces.bytes[usize::from(byte)];
                *slot = (*slot).min(id);
            } else if !vocabulary.is_control(id) && !token.is_empty() {
                pieces.insert(id, token.as_bytes());
            }
        }
        Ok(pieces)
    }

    pub fn heap_bytes(&self) -> u64 {
        let words = self.ends.capacity() + self.scores.capacity() + self.index.capacity() + 256;
        (self.text.capacity() + 4 * words) as u64
    }

    /// Appends the ids of `text`, in which spaces are `▁` already.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let mut symbols = split_characters(text);
        let mut pairs = BinaryHeap::with_capacity(symbols.len());
        for left in 0..symbols.len().saturating_sub(1) as u32 {
            self.propose(text, &symbols, left, left + 1, &mut pairs);
        }
        while let Some(pair) = pairs.pop() {
            let (left, right) = (pair.left as usize, pair.right as usize);
            // Outdated when either side has been merged since: then the lengths differ.
            let is_gone =
                symbols[left].start == symbols[left].end || symbols[left].next != pair.right;
            if is_gone || symbols[right].end - symbols[left].start != pair.len {
                continue;
            }
            symbols[left].end = symbols[right].end;
            symbols[right].start = symbols[right].end;
            let after = symbols[right].next;
            symbols[left].next = after;
            if after != NONE {
                symbols[after as usize].previous = pair.left;
                self.propose(text, &symbols, pair.left, after, &mut pairs);
            }
            let before = symbols[left].previous;
            if before != NONE {
                self.propose(text, &symbols, before, pair.left, &mut pairs);
            }
        }
        let mut last_was_unknown = false;
        for symbol in symbols.iter().filter(|symbol| symbol.start < symbol.end) {
            let piece = &text[symbol.start..symbol.end];
            last_was_unknown = self.emit(piece, last_was_unknown, out)?;
        }
        Ok(())
    }

    /// Appends a finished symbol; true when it became the unknown token. A run of unknown ones gives one token.
    fn emit(&self, piece: &str, last_was_unknown: bool, out: &mut Vec<u32>) -> Result<bool> {
        if let Some(id) = self.find(piece.as_bytes()) {
            out.push(id);
            return Ok(false);
        }
        let byte_token = |byte: &u8| self.bytes[usize::from(*byte)];
        if piece.as_bytes().iter().all(|byte| byte_token(byte) != NONE) {
            out.extend(piece.as_bytes().iter().map(byte_token));
            return Ok(false);
        }
        match self.unknown {
            Some(_) if last_was_unknown => Ok(true),
            Some(id) => {
                out.push(id);
                Ok(true)
            }
            None => Err(Error::InvalidArgument(format!(
                "the vocabulary can not spell {piece:?}: it has no byte tokens and no unknown token"
            ))),
        }
    }

    fn propose(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: u32,
        right: u32,
        pairs: &mut BinaryHeap<Pair>,
    ) {
        let (start, end) = (symbols[left as usize].start, symbols[right as usize].end);
        if let Some(id) = self.find(&text.as_bytes()[start..end]) {
            pairs.push(Pair { score: self.scores[id as usize], left, right, len: end - start });
        }
    }

    fn find(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        let mask = self.index.len() - 1;
        let mut at = hash(text) as usize & mask;
        while self.index[at] != NONE {
            if self.piece(self.index[at]) == text {
                return Some(self.index[at]);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Of two pieces with one text, the first one stays.
    fn insert(&mut self, id: u32, text: &[u8]) {
        self.longest = self.longest.max(text.len());
        if self.find(text).is_some() {
            return;
        }
        let mask = self.index.len() - 1;
        let mut at = hash(text) as usize & mask;
        while self.index[at] != NONE {
            at = (at + 1) & mask;
        }
        self.index[at] = id;
    }

    fn piece(&self, id: u32) -> &[u8] {
        let i = id as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.text[start as usize..self.ends[i] as usize]
    }
}

fn split_characters(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = text
        .char_indices()
        .zip(0u32..)
        .map(|((start, character), i)| Symbol {
            start,
            end: start + character.len_utf8(),
            previous: i.checked_sub(1).unwrap_or(NONE),
            next: i + 1,
        })
        .collect();
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
}

/// FNV-1a with a final mix, so that the low bits depend on every byte.
fn hash(text: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for &byte in text {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^ (hash >> 29)
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}
