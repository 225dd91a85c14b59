//! Constraints: answers that follow a JSON schema, a regular expression or a grammar. llguidance does the work; here
//! are its bounds, and what its refusals say.
#![forbid(unsafe_code)]

use std::panic::AssertUnwindSafe;

use llguidance::api::{GrammarInit, TopLevelGrammar};
use llguidance::{Logger, TokenParser, panic_utils};

use super::Text;
use super::matcher::{Advance, Matcher};
use super::token_trie::{self, TokenTrie};
use crate::error::{Error, Result};

/// Bytes of a constraint's text.
pub const MAX_CONSTRAINT_BYTES: usize = 128 << 10;
/// Brackets that may be open at once in a constraint's text.
const MAX_NESTING: usize = 100;
/// Bytes of one expression: a regular expression, a string of a schema, a line of a grammar. llguidance's time grows
/// with the square of an expression's length, and its fuel is only spent later.
const MAX_EXPRESSION_BYTES: usize = 4 << 10;
/// Lines of a grammar: llguidance follows its rules by recursion.
const MAX_GRAMMAR_LINES: usize = 2_000;
/// Compiling runs on a stack of its own, since the host's may be small.
const COMPILE_STACK_BYTES: usize = 64 << 20;
/// Of a refusal's text.
const MAX_REASON_BYTES: usize = 500;

/// The language of a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstraintKind {
    /// A JSON schema, as JSON. The answer is one JSON value.
    JsonSchema,
    /// A regular expression that the whole answer matches.
    Regex,
    /// A grammar in llguidance's form of Lark's language; `start` is the whole answer.
    Lark,
}

impl Text {
    /// Compiles a constraint. What comes stands at the begin of an answer. Allocates; any thread.
    ///
    /// # Errors
    /// `InvalidArgument` with the reason: a mistake in the text, a bound that it passes, or that it allows no text.
    /// `Unsupported`: this vocabulary cannot be constrained.
    pub fn constrain(&self, kind: ConstraintKind, source: &str) -> Result<Matcher> {
        let trie = self.trie.as_ref().map_err(Clone::clone)?;
        check_size(kind, source)?;
        // A mistake of llguidance becomes a refusal of this constraint.
        let compile = || stacker::grow(COMPILE_STACK_BYTES, || parser(trie, kind, source));
        let parser = panic_utils::catch_unwind(AssertUnwindSafe(compile)).map_err(refused)?;
        let mut matcher = Matcher::new(trie.clone(), parser);
        match matcher.begin() {
            Advance::Open => Ok(matcher),
            Advance::Complete => Err(invalid("allows the empty answer only")),
            Advance::Stuck => Err(invalid("allows no answer that this vocabulary can spell")),
            Advance::TooComplex => Err(invalid(&format!("is too complex: {}", matcher.reason()))),
        }
    }
}

fn check_size(kind: ConstraintKind, source: &str) -> Result<()> {
    if source.is_empty() {
        return Err(invalid("is empty"));
    }
    if source.len() > MAX_CONSTRAINT_BYTES {
        let n = source.len();
        return Err(invalid(&format!(
            "has {n} bytes, at most {MAX_CONSTRAINT_BYTES} are possible"
        )));
    }
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > MAX_NESTING {
        return Err(invalid(&format!(
            "nests brackets {deepest} deep, at most {MAX_NESTING} are possible"
        )));
    }
    let longest = match kind {
        ConstraintKind::Regex => source.len(),
        ConstraintKind::JsonSchema => longest_string(source),
        ConstraintKind::Lark => source.lines().map(str::len).max().unwrap_or(0),
    };
    if longest > MAX_EXPRESSION_BYTES {
        let what = match kind {
            ConstraintKind::Regex => "is an expression",
            ConstraintKind::JsonSchema => "has a string",
            ConstraintKind::Lark => "has a line",
        };
        return Err(invalid(&format!(
            "{what} of {longest} bytes, at most {MAX_EXPRESSION_BYTES} are possible"
        )));
    }
    let n_lines = source.lines().count();
    if kind == ConstraintKind::Lark && n_lines > MAX_GRAMMAR_LINES {
        return Err(invalid(&format!(
            "has {n_lines} lines, at most {MAX_GRAMMAR_LINES} are possible"
        )));
    }
    Ok(())
}

/// Bytes of the longest string of a JSON text.
fn longest_string(json: &str) -> usize {
    let (mut longest, mut begin, mut is_escaped) = (0, None, false);
    for (at, byte) in json.bytes().enumerate() {
        match (byte, begin) {
            _ if is_escaped => is_escaped = false,
            (b'\\', Some(_)) => is_escaped = true,
            (b'"', Some(first)) => (longest, begin) = (longest.max(at - first), None),
            (b'"', None) => begin = Some(at + 1),
            _ => {}
        }
    }
    longest
}

fn parser(trie: &TokenTrie, kind: ConstraintKind, source: &str) -> anyhow::Result<TokenParser> {
    let grammar = match kind {
        ConstraintKind::JsonSchema => {
            TopLevelGrammar::from_json_schema(serde_json::from_str(source)?)
        }
        ConstraintKind::Regex => TopLevelGrammar::from_regex(source),
        ConstraintKind::Lark => TopLevelGrammar::from_lark(source.to_string()),
    };
    let mut parser = trie.factory.create_parser_from_init_ext(
        GrammarInit::Serialized(grammar),
        Logger::new(0, 0),
        Default::default(),
        token_trie::limits(),
    )?;
    if parser.parser.grammar().lexer_spec().special_token_rx.is_some() {
        anyhow::bail!("it names tokens, where only text is possible");
    }
    parser.start_without_prompt();
    Ok(parser)
}

fn invalid(what: &str) -> Error {
    Error::InvalidArgument(format!("constraint {what}"))
}

fn refused(error: anyhow::Error) -> Error {
    invalid(&format!("is refused: {}", reason(&error)))
}

/// What an error of llguidance says, without the traces that it may carry.
pub(super) fn reason(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let mut text = text.split("\n<").next().unwrap_or_default().trim();
    if text.len() > MAX_REASON_BYTES {
        let end = (0..=MAX_REASON_BYTES).rev().find(|&end| text.is_char_boundary(end));
        text = &text[..end.unwrap_or(0)];
    }
    text.to_string()
}
