//! From text to ids: control tokens first, then normalise, cut into words, merge.
//!
//! The steps are the tokenizers crate's; they are driven from here because one model must serve two readings of
//! control tokens (text of a user against text of a template) without being held twice.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::models::bpe::BPE;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{
    AddedToken, AddedVocabulary, Model as _, NormalizedString, Normalizer, OffsetReferential,
    OffsetType, PreTokenizedString, PreTokenizer as _, Token,
};

use super::guard::MARKER;
use super::pieces::Pieces;
use super::scored::ScoredPieces;
use crate::error::{Error, Result};

/// What merges characters into tokens.
pub(super) enum Merger {
    /// Merges by rank.
    Ranked(Box<BPE>),
    /// Merges by the score of the joined piece.
    Scored(ScoredPieces),
}

/// A tokenizer taken apart: what `json` and `vocabulary` build.
pub(super) struct Parts {
    pub merger: Merger,
    pub normalizer: Option<NormalizerWrapper>,
    pub words: Option<PreTokenizerWrapper>,
    /// Tokens that are found in the text before anything else, with their ids.
    pub added: Vec<(u32, AddedToken)>,
    pub pieces: Pieces,
    /// A text's first space belongs to the tokenizer, not to the text.
    pub strips_leading_space: bool,
    /// Ids that the file's own post-processor puts before and behind a text.
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
    /// Heap bytes of `merger`.
    pub merger_bytes: u64,
}

/// How control tokens in a text are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ControlText {
    /// As ordinary text.
    Plain,
    /// As the tokens.
    Parsed,
    /// As the tokens, where the guard has not marked them as ordinary text.
    Guarded,
}

pub(super) struct Encoder {
    merger: Merger,
    normalizer: Option<NormalizerWrapper>,
    words: Option<PreTokenizerWrapper>,
    plain: AddedVocabulary,
    parsed: AddedVocabulary,
}

impl Encoder {
    pub fn new(
        merger: Merger,
        normalizer: Option<NormalizerWrapper>,
        words: Option<PreTokenizerWrapper>,
        added: &[(u32, AddedToken)],
    ) -> Result<Encoder> {
        let parsed = added_vocabulary(added, normalizer.as_ref())?;
        let mut plain = parsed.clone();
        plain.set_encode_special_tokens(true);
        Ok(Encoder { merger, normalizer, words, plain, parsed })
    }

    /// The ids of `text`.
    pub fn encode(&self, text: &str, control: ControlText) -> Result<Vec<u32>> {
        // A regular expression of a tokenizer.json that backtracks too often panics: that text alone fails.
        let encode = || self.encode_unguarded(text, control);
        catch_unwind(AssertUnwindSafe(encode)).unwrap_or_else(|_| {
            Err(Error::InvalidArgument("tokenize: the tokenizer gave up on this text".into()))
        })
    }

    fn encode_unguarded(&self, text: &str, control: ControlText) -> Result<Vec<u32>> {
        let added = if control == ControlText::Plain { &self.plain } else { &self.parsed };
        let normalizer = Normal {
            removes_markers: control == ControlText::Guarded,
            inner: self.normalizer.as_ref(),
        };
        let mut text = added.extract_and_normalize(Some(&normalizer), text);
        if let Some(words) = &self.words {
            words.pre_tokenize(&mut text).map_err(failed)?;
        }
        self.merge(&mut text)?;
        let splits = text.get_splits(OffsetReferential::Normalized, OffsetType::None);
        let tokens = splits.iter().filter_map(|(_, _, tokens)| tokens.as_ref());
        Ok(tokens.flatten().map(|token| token.id).collect())
    }

    /// Byte ranges of `text` in which a control token's text of two or more characters stands.
    pub fn find_control(&self, text: &str) -> Vec<std::ops::Range<usize>> {
        let found = self.parsed.extract_and_normalize(None::<&NormalizerWrapper>, text);
        let splits = found.get_splits(OffsetReferential::Normalized, OffsetType::None);
        let mut ranges = Vec::new();
        for (part, (start, _), tokens) in splits {
            let Some([token]) = tokens.as_deref() else { continue };
            let Some(content) = self.parsed.simple_id_to_token(token.id) else { continue };
            // The part may include white space that the token takes along.
            if let Some(at) = part.find(&content)
                && self.parsed.is_special_token(&content)
                && content.chars().nth(1).is_some()
            {
                ranges.push(start + at..start + at + content.len());
            }
        }
        ranges
    }

    fn merge(&self, text: &mut PreTokenizedString) -> Result<()> {
        let result = match &self.merger {
            Merger::Ranked(bpe) => text.tokenize(|part| merge_by_rank(bpe, part.get())),
            Merger::Scored(pieces) => text.tokenize(|part| {
                let mut ids = Vec::new();
                pieces.encode(part.get(), &mut ids).map_err(|error| error.to_string())?;
                Ok(ids.into_iter().map(|id| Token::new(id, String::new(), (0, 0))).collect())
            }),
        };
        result.map_err(failed)
    }
}

/// Fails where the vocabulary leaves out a part of the text, rather than dropping it.
fn merge_by_rank(bpe: &BPE, part: &str) -> tokenizers::Result<Vec<Token>> {
    let tokens = bpe.tokenize(part)?;
    let covered: usize = tokens.iter().map(|token| token.offsets.1 - token.offsets.0).sum();
    if covered != part.len() {
        let start: String = part.chars().take(20).collect();
        return Err(format!("the vocabulary can not spell all of {start:?}").into());
    }
    Ok(tokens)
}

fn failed(error: tokenizers::Error) -> Error {
    Error::InvalidArgument(format!("tokenize: {error}"))
}

fn added_vocabulary(
    added: &[(u32, AddedToken)],
    normalizer: Option<&NormalizerWrapper>,
) -> Result<AddedVocabulary> {
    // Lends the ids to `add_tokens`, which asks a model for them.
    let vocab = added.iter().map(|(id, token)| (token.content.clone(), *id)).collect();
    let ids = WordLevel::builder()
        .vocab(vocab)
        .unk_token(String::new())
        .build()
        .map_err(|error| Error::Internal(format!("added tokens: {error}")))?;
    let tokens: Vec<AddedToken> = added.iter().map(|(_, token)| token.clone()).collect();
    let mut vocabulary = AddedVocabulary::new();
    vocabulary.add_tokens(&tokens, &ids, normalizer);
    Ok(vocabulary)
}

/// The file's normaliser, behind the removal of the guard's markers.
struct Normal<'a> {
    removes_markers: bool,
    inner: Option<&'a NormalizerWrapper>,
}

impl Normalizer for Normal<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        if self.removes_markers && text.get().contains(MARKER) {
            // One marker is the guard's, two are one of the text's own.
            let is_second = Cell::new(false);
            text.filter(|character| {
                let keep = character != MARKER || is_second.get();
                is_second.set(character == MARKER && !is_second.get());
                keep
            });
        }
        self.inner.map_or(Ok(()), |normalizer| normalizer.normalize(text))
    }
}
