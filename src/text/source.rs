//! What a tokenizer and a chat template are made from; whoever reads the model's files fills these in.
#![forbid(unsafe_code)]

/// Longest text that is tokenised or rendered: 8 MiB. A source may set less, not more: the regular expressions that cut
/// text into words give up on longer runs of one character.
pub const MAX_TEXT_BYTES: usize = 8 << 20;

/// The two forms in which model files carry a tokenizer.
pub enum TokenizerSource<'a> {
    /// The bytes of a tokenizer.json.
    Json(&'a [u8]),
    /// The vocabulary of a GGUF file.
    Vocabulary(Vocabulary<'a>),
}

/// A GGUF vocabulary: the arrays of `tokenizer.ggml.*`.
#[derive(Clone, Default)]
pub struct Vocabulary<'a> {
    /// `"gpt2"`: byte-level BPE with merges. `"llama"`: SentencePiece BPE with scores.
    pub model: &'a str,
    /// How `gpt2` cuts text into words; `None` is "default".
    pub pre: Option<&'a str>,
    /// Text of each token, its index being its id.
    pub tokens: &'a [String],
    /// `[tokens]`, for `llama`: of two adjacent pairs, the one whose joined piece has the higher score merges first.
    pub scores: Option<&'a [f32]>,
    /// `[tokens]` 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte. `None`: all normal.
    pub kinds: Option<&'a [i32]>,
    /// For `gpt2`: "left right", the most important first.
    pub merges: Option<&'a [String]>,
    /// The token for what the vocabulary cannot spell.
    pub unknown: Option<u32>,
    /// For `llama`: a space goes before each text and behind each control token. `None` is true.
    pub add_space_prefix: Option<bool>,
    /// A control token takes the white space behind it along (Phi-3).
    pub control_strips_right: bool,
}

/// Everything that a `Text` is built from.
pub struct TextSource<'a> {
    pub tokenizer: TokenizerSource<'a>,
    /// Begin of a text.
    pub bos: Option<u32>,
    /// End of a text, appended when `add_eos` says so.
    pub eos: Option<u32>,
    /// Every token that ends an answer.
    pub stops: Vec<u32>,
    /// Whether a text begins with `bos`; `None`: as tokenizer.json's post-processor says, else no.
    pub add_bos: Option<bool>,
    /// Whether a text ends with `eos`; `None` likewise.
    pub add_eos: Option<bool>,
    /// Jinja source of the chat template.
    pub chat_template: Option<String>,
    /// Variables of the template such as `("bos_token", "<s>")`.
    pub template_variables: Vec<(String, String)>,
    /// Number of tokens that the model knows: ids are below it.
    pub vocab_size: u32,
    /// Longer texts are refused. 0: [`MAX_TEXT_BYTES`], which also is the most.
    pub max_text_bytes: usize,
}
