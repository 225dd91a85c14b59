//! Where an answer stands in its constraint, and which tokens may follow.
#![forbid(unsafe_code)]

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use llguidance::api::StopReason;
use llguidance::{TokenParser, panic_utils};

use super::constraint::reason;
use super::token_trie::TokenTrie;
use crate::ids::TokenId;

/// Bytes that one answer's constraint may take, by [`Matcher::bytes`].
pub const MAX_MATCHER_BYTES: u64 = 32 << 20;
/// Below so much of the thread's stack, a step of the parser runs on one of its own.
const STEP_STACK_BYTES: usize = 256 << 10;
const OWN_STACK_BYTES: usize = 4 << 20;

/// What llguidance keeps, roughly: a compiled grammar and its lexer before any text, an item and a row of the parse,
/// and a byte of text.
const GRAMMAR_BYTES: u64 = 16 << 10;
const LEXEME_BYTES: u64 = 1 << 10;
const ITEM_BYTES: u64 = 64;
const ROW_BYTES: u64 = 256;
const TEXT_BYTES: u64 = 32;

/// What a token led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// Text may follow.
    Open,
    /// The constraint is fulfilled, and no text can follow.
    Complete,
    /// The constraint is not fulfilled, and no token of the vocabulary continues it.
    Stuck,
    /// The parser has reached one of its bounds.
    TooComplex,
}

/// The parser of one answer and the tokens that may come next.
pub struct Matcher {
    trie: Arc<TokenTrie>,
    parser: Box<TokenParser>,
    /// `[vocab_size / 32]`, bit i of word i / 32: the token may follow.
    mask: Vec<u32>,
    n_items: u64,
    n_rows: u64,
    n_text_bytes: u64,
    bytes: u64,
    reason: String,
}

impl Matcher {
    pub(super) fn new(trie: Arc<TokenTrie>, parser: TokenParser) -> Matcher {
        let mask = vec![0; trie.is_text.len()];
        let mut matcher = Matcher {
            trie,
            parser: Box::new(parser),
            mask,
            n_items: 0,
            n_rows: 0,
            n_text_bytes: 0,
            bytes: 0,
            reason: String::new(),
        };
        matcher.count();
        matcher
    }

    /// Tokens that may follow, as bits: token i is bit `i % 32` of word `i / 32`. Stop tokens are among them exactly
    /// where the constraint is fulfilled.
    pub fn mask(&self) -> &[u32] {
        &self.mask
    }

    /// An independent matcher at the same place. Allocates.
    pub fn fork(&self) -> Matcher {
        Matcher {
            trie: Arc::clone(&self.trie),
            parser: Box::new(self.parser.deep_clone()),
            mask: self.mask.clone(),
            reason: self.reason.clone(),
            ..*self
        }
    }

    /// Takes a token that the mask allows and that is no stop token, and finds what may follow. Allocates. Unless it
    /// gives `Open`, the matcher is not to be used again.
    pub fn advance(&mut self, token: TokenId) -> Advance {
        self.step(Some(token))
    }

    /// Finds what may stand at the begin.
    pub(super) fn begin(&mut self) -> Advance {
        self.step(None)
    }

    /// Heap bytes, as an estimate that grows with what the parser has seen; its bound is [`MAX_MATCHER_BYTES`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Which bound was reached, after `TooComplex`.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    fn step(&mut self, token: Option<TokenId>) -> Advance {
        let before = self.parser.parser.stats().clone();
        let step = || {
            stacker::maybe_grow(STEP_STACK_BYTES, OWN_STACK_BYTES, || {
                if let Some(token) = token {
                    self.parser.consume_token(token.0)?;
                }
                let definite = self.parser.parser.stats().delta(&before);
                self.n_items += definite.all_items as u64;
                self.n_rows += definite.rows as u64;
                self.n_text_bytes += definite.definitive_bytes as u64;
                if self.parser.check_stop()? {
                    return Ok(Advance::Complete);
                }
                self.fill_mask()
            })
        };
        let outcome = panic_utils::catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|error| {
            self.reason = reason(&error);
            Advance::TooComplex
        });
        if outcome == Advance::TooComplex {
            return outcome;
        }
        self.count();
        if self.bytes > MAX_MATCHER_BYTES {
            let bytes = self.bytes;
            self.reason = format!("{bytes} bytes, at most {MAX_MATCHER_BYTES} are possible");
            return Advance::TooComplex;
        }
        outcome
    }

    /// Asks for the tokens that may follow.
    fn fill_mask(&mut self) -> anyhow::Result<Advance> {
        let is_fulfilled = self.parser.is_accepting();
        let allowed = match self.parser.compute_mask() {
            Ok(allowed) => allowed,
            Err(_) if self.parser.stop_reason() == StopReason::NoExtensionBias => {
                return Ok(if is_fulfilled { Advance::Complete } else { Advance::Stuck });
            }
            Err(error) => return Err(error),
        };
        let mut has_text = false;
        let words = allowed.as_slice().iter().zip(&self.trie.is_text);
        for (place, (&word, &is_text)) in self.mask.iter_mut().zip(words) {
            *place = word & is_text;
            has_text |= *place != 0;
        }
        if is_fulfilled {
            for stop in &self.trie.stops {
                self.mask[stop.0 as usize / 32] |= 1 << (stop.0 % 32);
            }
        }
        Ok(match (has_text, is_fulfilled) {
            (true, _) => Advance::Open,
            (false, true) => Advance::Complete,
            (false, false) => Advance::Stuck,
        })
    }

    fn count(&mut self) {
        let n_lexemes = self.parser.parser.grammar().lexer_spec().lexemes.len() as u64;
        self.bytes = GRAMMAR_BYTES
            + LEXEME_BYTES * n_lexemes
            + self.parser.parser.lexer_stats().num_bytes as u64
            + ITEM_BYTES * self.n_items
            + ROW_BYTES * self.n_rows
            + TEXT_BYTES * self.n_text_bytes
            + 4 * self.mask.len() as u64;
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
