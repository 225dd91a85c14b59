//! text: tokenizer, chat template, and text that streams. Pure: no files, no device, no other layer.
//!
//! * [`Text`]: text to tokens and back, and conversations to text.
//! * [`Utf8Stream`]: bytes of tokens to whole characters.
//! * [`StopMatcher`]: characters to what may be delivered before a stop string.
//! * [`Matcher`]: which tokens may follow in an answer under a constraint.
//!
//! Control tokens written out in a text are ordinary text, unless a call asks for them to be parsed. In a
//! conversation, those of the template are parsed and those inside messages are not (see `guard`).
#![forbid(unsafe_code)]

mod chat;
mod clock;
mod constraint;
mod dialect;
mod encoder;
mod guard;
mod heap;
mod json;
mod matcher;
mod pieces;
mod python;
mod scored;
mod source;
mod stops;
mod token_trie;
mod utf8;
mod vocabulary;
mod words;

pub use constraint::{ConstraintKind, MAX_CONSTRAINT_BYTES};
pub use matcher::{Advance, MAX_MATCHER_BYTES, Matcher};
pub use source::{MAX_TEXT_BYTES, TextSource, TokenizerSource, Vocabulary};
pub use stops::{StopMatcher, StopState};
pub use utf8::Utf8Stream;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::ids::TokenId;
use chat::ChatTemplate;
use encoder::{ControlText, Encoder};
use pieces::Pieces;
use token_trie::TokenTrie;

/// How a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenizeOptions {
    /// Put the begin of text in front, and the end of text behind, as the model's files say.
    pub add_special: bool,
    /// Read control tokens that are written out in the text as the tokens.
    pub parse_special: bool,
}

/// A model's tokenizer and chat template.
pub struct Text {
    encoder: Encoder,
    pieces: Pieces,
    strips_leading_space: bool,
    bos: Option<TokenId>,
    prefix: Vec<TokenId>,
    suffix: Vec<TokenId>,
    stops: Vec<TokenId>,
    chat: Option<ChatTemplate>,
    /// Or why there is none.
    trie: Result<Arc<TokenTrie>>,
    max_text_bytes: usize,
    heap_bytes: u64,
}

impl Text {
    /// Builds the tables. `BadModel` when the source contradicts itself, `Unsupported` for other kinds.
    pub fn new(source: &TextSource) -> Result<Text> {
        let vocab_size = source.vocab_size;
        let special = [("bos", source.bos), ("eos", source.eos)];
        let special = special.into_iter().filter_map(|(name, id)| Some((name, id?)));
        for (name, id) in special.chain(source.stops.iter().map(|&id| ("stop", id))) {
            if id >= vocab_size {
                return Err(Error::BadModel(format!(
                    "the {name} token is {id}, the model's vocabulary has {vocab_size} tokens"
                )));
            }
        }
        let parts = match &source.tokenizer {
            TokenizerSource::Json(bytes) => json::build(bytes, vocab_size)?,
            TokenizerSource::Vocabulary(vocabulary) => vocabulary::build(vocabulary, vocab_size)?,
        };
        let max_text_bytes = match source.max_text_bytes {
            0 => MAX_TEXT_BYTES,
            bytes => bytes.min(MAX_TEXT_BYTES),
        };
        let template = source.chat_template.as_deref();
        let stops: Vec<TokenId> = source.stops.iter().copied().map(TokenId).collect();
        let trie = TokenTrie::new(&parts.pieces, &stops).map(Arc::new);
        let heap_bytes = parts.merger_bytes
            + parts.pieces.heap_bytes()
            + trie.as_ref().map_or(0, |trie| trie.heap_bytes())
            + heap::added(&parts.added)
            + heap::template(template);
        let variables = || source.template_variables.clone();
        let chat = template
            .map(|source| ChatTemplate::new(source, variables(), max_text_bytes))
            .transpose()?;
        Ok(Text {
            prefix: affix(source.add_bos, source.bos, parts.prefix, "bos")?,
            suffix: affix(source.add_eos, source.eos, parts.suffix, "eos")?,
            encoder: Encoder::new(parts.merger, parts.normalizer, parts.words, &parts.added)?,
            pieces: parts.pieces,
            strips_leading_space: parts.strips_leading_space,
            bos: source.bos.map(TokenId),
            stops,
            chat,
            trie,
            max_text_bytes,
            heap_bytes,
        })
    }

    /// Tokens of a text. An empty text has none but those that `add_special` brings.
    ///
    /// A text that begins with its own begin of text and `add_special` gives two; see
    /// [`has_double_bos`](Self::has_double_bos).
    pub fn tokenize(&self, text: &str, options: TokenizeOptions) -> Result<Vec<TokenId>> {
        let control = if options.parse_special { ControlText::Parsed } else { ControlText::Plain };
        let ids = self.encode(text, control)?;
        if !options.add_special {
            return Ok(ids);
        }
        Ok([&self.prefix[..], &ids, &self.suffix].concat())
    }

    /// Tokens of what [`render_chat`](Self::render_chat) gave: control tokens of the template are parsed, those inside
    /// messages are not. Whether or not the template writes the begin of text, there is exactly one where the model
    /// wants one; there is no end of text.
    pub fn tokenize_chat(&self, rendered: &str) -> Result<Vec<TokenId>> {
        let mut ids = self.encode(rendered, ControlText::Guarded)?;
        if let Some(bos) = self.bos {
            let n_leading = ids.iter().take_while(|&&id| id == bos).count();
            ids.drain(..n_leading.saturating_sub(1));
            if n_leading > 0 {
                return Ok(ids);
            }
        }
        if !ids.starts_with(&self.prefix) {
            ids.splice(0..0, self.prefix.iter().copied());
        }
        Ok(ids)
    }

    /// Bytes of a sequence of tokens, as the file's decoder gives them but never replaced or lost. At the begin of the
    /// text, the space that the tokenizer put there is taken away. Ids are checked.
    pub fn detokenize(&self, tokens: &[TokenId], skip_special: bool) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (i, token) in tokens.iter().enumerate() {
            if token.0 >= self.vocab_size() {
                return Err(Error::InvalidArgument(format!(
                    "token {} at position {i} is not below the vocabulary's size {}",
                    token.0,
                    self.vocab_size()
                )));
            }
            if !(skip_special && self.is_special(*token)) {
                bytes.extend_from_slice(self.pieces.get(token.0));
            }
        }
        if self.strips_leading_space && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        Ok(bytes)
    }

    /// Text of a conversation: `{"messages": [...], "tools": ..., "add_generation_prompt": true, ...}`, every field but
    /// `messages` optional and handed to the template; or the bare array of messages.
    ///
    /// Where a message contains the text of a control token, U+FDD0 stands behind its first character, for
    /// [`tokenize_chat`](Self::tokenize_chat).
    pub fn render_chat(&self, messages_json: &str) -> Result<String> {
        let chat = self
            .chat
            .as_ref()
            .ok_or_else(|| Error::Unsupported("the model has no chat template".into()))?;
        self.check_length(messages_json.len())?;
        let mut value: Value = serde_json::from_str(messages_json)
            .map_err(|error| Error::InvalidArgument(format!("messages: {error}")))?;
        guard::guard(&mut value, &self.encoder);
        let input = match value {
            Value::Object(fields) => fields,
            messages => Map::from_iter([("messages".to_string(), messages)]),
        };
        match input.get("messages") {
            Some(Value::Array(messages)) if messages.iter().all(Value::is_object) => {
                chat.render(input)
            }
            _ => Err(Error::InvalidArgument(
                "messages: expected an array of objects, or an object with that under \"messages\""
                    .into(),
            )),
        }
    }

    /// Bytes of one token within a text, for streaming; empty for control tokens and unknown ids. Allocates nothing.
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        if self.is_special(token) { &[] } else { self.pieces.get(token.0) }
    }

    /// Whether it is a control token.
    pub fn is_special(&self, token: TokenId) -> bool {
        self.pieces.is_special(token.0)
    }

    /// Whether the tokens begin with the begin of text twice: the text had it, and it was added.
    pub fn has_double_bos(&self, tokens: &[TokenId]) -> bool {
        self.bos.is_some_and(|bos| tokens.starts_with(&[bos, bos]))
    }

    /// Whether a whole text loses one leading space in [`detokenize`](Self::detokenize).
    pub fn strips_leading_space(&self) -> bool {
        self.strips_leading_space
    }

    /// Tokens that end an answer.
    pub fn stop_tokens(&self) -> &[TokenId] {
        &self.stops
    }

    /// The begin of a text, if the model has one.
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// Whether [`render_chat`](Self::render_chat) can work.
    pub fn has_chat_template(&self) -> bool {
        self.chat.is_some()
    }

    /// Number of tokens that the model knows.
    pub fn vocab_size(&self) -> u32 {
        self.pieces.len()
    }

    /// Heap bytes of the tables: the same for the same source.
    pub fn heap_bytes(&self) -> u64 {
        self.heap_bytes
    }

    fn encode(&self, text: &str, control: ControlText) -> Result<Vec<TokenId>> {
        self.check_length(text.len())?;
        let ids = self.encoder.encode(text, control)?;
        Ok(ids.into_iter().map(TokenId).collect())
    }

    fn check_length(&self, bytes: usize) -> Result<()> {
        if bytes > self.max_text_bytes {
            return Err(Error::LimitReached(format!(
                "the text has {bytes} bytes, at most {} are taken",
                self.max_text_bytes
            )));
        }
        Ok(())
    }
}

/// What goes before or behind a text: as `add` says, else as the file's post-processor does.
fn affix(
    add: Option<bool>,
    token: Option<u32>,
    template: Vec<u32>,
    name: &str,
) -> Result<Vec<TokenId>> {
    let ids = match (add, token) {
        (Some(true), None) => {
            return Err(Error::BadModel(format!(
                "add_{name}_token is set, but there is no {name} token"
            )));
        }
        (Some(true), Some(token)) => vec![token],
        (Some(false), _) => Vec::new(),
        (None, _) => template,
    };
    Ok(ids.into_iter().map(TokenId).collect())
}
