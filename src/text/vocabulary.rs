//! A tokenizer from a GGUF file's vocabulary.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};

use super::encoder::{Merger, Parts};
use super::pieces::{Pieces, Spelling};
use super::scored::ScoredPieces;
use super::source::Vocabulary;
use super::{heap, words};
use crate::error::{Error, Result};

const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

impl Vocabulary<'_> {
    fn kind(&self, id: u32) -> i32 {
        self.kinds.and_then(|kinds| kinds.get(id as usize)).copied().unwrap_or(1)
    }

    /// Control tokens, and the unknown token, never come from ordinary text.
    pub(super) fn is_control(&self, id: u32) -> bool {
        matches!(self.kind(id), CONTROL | UNKNOWN)
    }

    fn check(&self, vocab_size: u32) -> Result<()> {
        let n = self.tokens.len();
        if n == 0 {
            return Err(Error::BadModel("tokenizer.ggml.tokens is empty".into()));
        }
        if n > vocab_size as usize {
            return Err(Error::BadModel(format!(
                "tokenizer.ggml.tokens has {n} tokens, the model's vocabulary {vocab_size}"
            )));
        }
        let lengths = [
            ("tokenizer.ggml.scores", self.scores.map(<[f32]>::len)),
            ("tokenizer.ggml.token_type", self.kinds.map(<[i32]>::len)),
        ];
        for (key, length) in lengths {
            if let Some(length) = length.filter(|&length| length != n) {
                return Err(Error::BadModel(format!(
                    "{key} has {length} values for {n} tokens of tokenizer.ggml.tokens"
                )));
            }
        }
        if let Some(unknown) = self.unknown.filter(|&id| id as usize >= n) {
            return Err(Error::BadModel(format!(
                "tokenizer.ggml.unknown_token_id is {unknown}, tokenizer.ggml.tokens has {n} tokens"
            )));
        }
        Ok(())
    }

    /// Control, unknown and user-defined tokens are found in the text before merging.
    fn added(&self) -> Vec<(u32, AddedToken)> {
        (0u32..)
            .zip(self.tokens)
            .filter(|(id, token)| {
                !token.is_empty() && (self.is_control(*id) || self.kind(*id) == USER_DEFINED)
            })
            .map(|(id, token)| {
                let is_control = self.is_control(id);
                let strips = is_control
                    && self.control_strips_right
                    && !["<s>", "<unk>", "<|endoftext|>"].contains(&token.as_str());
                let added =
                    AddedToken::from(token.clone(), is_control).normalized(false).rstrip(strips);
                (id, added)
            })
            .collect()
    }

    fn pieces(&self, vocab_size: u32, spelling: Spelling) -> Result<Pieces> {
        Pieces::new(vocab_size, |id| match self.tokens.get(id as usize) {
            None => (Vec::new(), false),
            Some(token) if self.is_control(id) => (token.as_bytes().to_vec(), true),
            Some(token) if self.kind(id) == USER_DEFINED => (token.as_bytes().to_vec(), false),
            Some(token) => (spelling.decode(token), false),
        })
    }
}

/// Builds the tokenizer; `vocab_size` is the model's.
pub(super) fn build(vocabulary: &Vocabulary, vocab_size: u32) -> Result<Parts> {
    vocabulary.check(vocab_size)?;
    match vocabulary.model {
        "gpt2" => byte_level(vocabulary, vocab_size),
        "llama" => sentence_piece(vocabulary, vocab_size),
        other => Err(Error::Unsupported(format!(
            "tokenizer.ggml.model is {other:?}; known are gpt2 (byte-level BPE) and llama (SentencePiece BPE)"
        ))),
    }
}

fn byte_level(vocabulary: &Vocabulary, vocab_size: u32) -> Result<Parts> {
    let (words, ignore_merges) = words::by_name(vocabulary.pre)?;
    let merges = merges(vocabulary)?;
    let vocab = mergeable(vocabulary, &merges);
    let merger_bytes = heap::ranked(vocab.keys().map(String::len), merges.len());
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .cache_capacity(0)
        .ignore_merges(ignore_merges)
        .build()
        .map_err(|error| Error::BadModel(format!("tokenizer.ggml.merges: {error}")))?;
    Ok(Parts {
        merger: Merger::Ranked(Box::new(bpe)),
        normalizer: None,
        words: Some(words),
        added: vocabulary.added(),
        pieces: vocabulary.pieces(vocab_size, Spelling::ByteLevel)?,
        strips_leading_space: false,
        prefix: Vec::new(),
        suffix: Vec::new(),
        merger_bytes,
    })
}

/// "left right" pairs. A piece never is empty, so the separator is not the first character.
fn merges(vocabulary: &Vocabulary) -> Result<Vec<(String, String)>> {
    let merges = vocabulary.merges.ok_or_else(|| {
        Error::BadModel("tokenizer.ggml.merges is missing; model \"gpt2\" needs it".into())
    })?;
    let split = |(i, merge): (usize, &String)| {
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let at = merge[first..].find(' ').map(|at| first + at);
        at.map(|at| (merge[..at].to_string(), merge[at + 1..].to_string())).ok_or_else(|| {
            Error::BadModel(format!("tokenizer.ggml.merges[{i}] is {merge:?}, not two pieces"))
        })
    };
    merges.iter().enumerate().map(split).collect()
}

/// The tokens that merging may give: all but control and user-defined ones that no merge mentions. Of two tokens
/// with one text, the first one stays.
fn mergeable(vocabulary: &Vocabulary, merges: &[(String, String)]) -> Vocab {
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(vocabulary.tokens.len());
    let mut reserved: HashMap<&str, u32> = HashMap::new();
    for (id, token) in (0u32..).zip(vocabulary.tokens) {
        let is_reserved = vocabulary.is_control(id) || vocabulary.kind(id) == USER_DEFINED;
        let table = if is_reserved { &mut reserved } else { &mut ids };
        table.entry(token.as_str()).or_insert(id);
    }
    if !reserved.is_empty() {
        let mut mentioned = |piece: &str| {
            if let Some((text, id)) = reserved.get_key_value(piece) {
                ids.entry(*text).or_insert(*id);
            }
        };
        for (left, right) in merges {
            mentioned(left);
            mentioned(right);
            mentioned(&format!("{left}{right}"));
        }
    }
    ids.into_iter().map(|(token, id)| (token.to_string(), id)).collect()
}

fn sentence_piece(vocabulary: &Vocabulary, vocab_size: u32) -> Result<Parts> {
    let pieces = ScoredPieces::new(vocabulary)?;
    let prefixes = vocabulary.add_space_prefix.unwrap_or(true);
    let mut steps = Vec::with_capacity(2);
    if prefixes {
        steps.push(NormalizerWrapper::Prepend(Prepend::new("▁".into())));
    }
    let replace = Replace::new(" ", "▁")
        .map_err(|error| Error::Internal(format!("space normaliser: {error}")))?;
    steps.push(NormalizerWrapper::Replace(replace));
    Ok(Parts {
        merger_bytes: pieces.heap_bytes(),
        merger: Merger::Scored(pieces),
        normalizer: Some(NormalizerWrapper::Sequence(Sequence::new(steps))),
        words: None,
        added: vocabulary.added(),
        pieces: vocabulary.pieces(vocab_size, Spelling::Spaces { bytes: true })?,
        strips_leading_space: prefixes,
        prefix: Vec::new(),
        suffix: Vec::new(),
    })
}
