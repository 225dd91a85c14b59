//! From model files to the text layer: GGUF metadata and Hugging Face folders.

mod text_support;

use std::path::{Path, PathBuf};

use larder::engine::text_source::open_text;
use larder::error::{Error, Result};
use larder::format::Checkpoint;
use larder::ids::TokenId;
use larder::text::{Text, TokenizeOptions};
use serde_json::{Value, json};
use text_support::{Arrays, PARSED, PLAIN, data, ids};

/// One metadata value of a GGUF file.
enum Entry<'a> {
    Text(&'a str),
    Number(u32),
    Flag(bool),
    Texts(&'a [String]),
    Floats(&'a [f32]),
    Integers(&'a [i32]),
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A GGUF file of metadata and one tensor of a single number.
fn gguf(folder: &Path, entries: &[(&str, Entry)]) -> PathBuf {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    let array = |kind: u32, n: usize| {
        let mut header = 9u32.to_le_bytes().to_vec();
        header.extend(kind.to_le_bytes());
        header.extend((n as u64).to_le_bytes());
        header
    };
    for (key, entry) in entries {
        push_text(&mut bytes, key);
        match entry {
            Entry::Text(text) => {
                bytes.extend(8u32.to_le_bytes());
                push_text(&mut bytes, text);
            }
            Entry::Number(number) => {
                bytes.extend(4u32.to_le_bytes());
                bytes.extend(number.to_le_bytes());
            }
            Entry::Flag(flag) => {
                bytes.extend(7u32.to_le_bytes());
                bytes.push(u8::from(*flag));
            }
            Entry::Texts(texts) => {
                bytes.extend(array(8, texts.len()));
                texts.iter().for_each(|text| push_text(&mut bytes, text));
            }
            Entry::Floats(floats) => {
                bytes.extend(array(6, floats.len()));
                bytes.extend(floats.iter().flat_map(|float| float.to_le_bytes()));
            }
            Entry::Integers(integers) => {
                bytes.extend(array(5, integers.len()));
                bytes.extend(integers.iter().flat_map(|integer| integer.to_le_bytes()));
            }
        }
    }
    push_text(&mut bytes, "t");
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + 32, 0);
    let path = folder.join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Opens a GGUF file with the vocabulary `arrays` and more entries.
fn open_gguf(arrays: &Arrays, model: &str, more: Vec<(&str, Entry)>) -> Result<Option<Text>> {
    let folder = tempfile::tempdir().unwrap();
    let mut entries = vec![
        ("general.architecture", Entry::Text("llama")),
        ("tokenizer.ggml.model", Entry::Text(model)),
        ("tokenizer.ggml.tokens", Entry::Texts(&arrays.tokens)),
        ("tokenizer.ggml.token_type", Entry::Integers(&arrays.kinds)),
    ];
    match model {
        "gpt2" => entries.push(("tokenizer.ggml.merges", Entry::Texts(&arrays.merges))),
        _ => entries.push(("tokenizer.ggml.scores", Entry::Floats(&arrays.scores))),
    }
    entries.extend(more);
    let checkpoint = Checkpoint::open(&gguf(folder.path(), &entries)).unwrap();
    open_text(&checkpoint, arrays.tokens.len() as u32)
}

fn bad_model(result: Result<Option<Text>>) -> String {
    match result {
        Err(Error::BadModel(message)) => message,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it opened"),
    }
}

const BOTH: TokenizeOptions = TokenizeOptions { add_special: true, parse_special: true };

#[test]
fn gguf_keys_become_a_text() {
    let arrays = Arrays::byte_level();
    let text = open_gguf(
        &arrays,
        "gpt2",
        vec![
            ("tokenizer.ggml.pre", Entry::Text("llama-bpe")),
            ("tokenizer.ggml.bos_token_id", Entry::Number(0)),
            ("tokenizer.ggml.eos_token_id", Entry::Number(1)),
            ("tokenizer.ggml.eot_token_id", Entry::Number(3)),
            (
                "tokenizer.chat_template",
                Entry::Text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"),
            ),
        ],
    );
    let text = text.unwrap().unwrap();
    assert_eq!(text.stop_tokens(), [TokenId(1), TokenId(3)]);
    assert_eq!(ids(&text, "<s>", PARSED), [0]);
    assert_eq!(text.tokenize("hi", BOTH).unwrap()[0], TokenId(0), "llama-bpe begins with BOS");
    assert_eq!(text.render_chat(r#"[{"content": "x"}]"#).unwrap(), "<s>x</s>");
    let flag = |flag| {
        vec![
            ("tokenizer.ggml.pre", Entry::Text("llama-bpe")),
            ("tokenizer.ggml.bos_token_id", Entry::Number(0)),
            ("tokenizer.ggml.add_bos_token", Entry::Flag(flag)),
        ]
    };
    for add in [true, false] {
        let text = open_gguf(&arrays, "gpt2", flag(add)).unwrap().unwrap();
        assert_eq!(text.tokenize("", BOTH).unwrap().len(), usize::from(add));
    }
    let text = open_gguf(&arrays, "gpt2", vec![]).unwrap().unwrap();
    assert_eq!((text.bos(), text.tokenize("", BOTH).unwrap().len()), (None, 0));
}

#[test]
fn sentence_piece_files_have_defaults() {
    let text = open_gguf(&Arrays::spaces(), "llama", vec![]).unwrap().unwrap();
    // 2 is the default, 4 is <|end|>, a control token that ends a turn.
    assert_eq!((text.bos(), text.stop_tokens()), (Some(TokenId(1)), &[TokenId(2), TokenId(4)][..]));
    assert_eq!(text.tokenize("", BOTH).unwrap(), [TokenId(1)]);
    assert_eq!(text.tokenize("hi", PLAIN).unwrap(), open_plain().tokenize("hi", PLAIN).unwrap());
    let bare = open_gguf(
        &Arrays::spaces(),
        "llama",
        vec![("tokenizer.ggml.add_space_prefix", Entry::Flag(false))],
    );
    assert!(!bare.unwrap().unwrap().strips_leading_space());
}

fn open_plain() -> Text {
    text_support::spaces_text(|_| {})
}

#[test]
fn ids_beyond_the_vocabulary_name_key_and_value() {
    let arrays = Arrays::byte_level();
    let n = arrays.tokens.len() as u32;
    for name in ["bos", "eos", "eot", "eom", "unknown"] {
        for id in [n, 5_000, u32::MAX] {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let message = bad_model(open_gguf(&arrays, "gpt2", vec![(&key, Entry::Number(id))]));
            assert!(message.contains(&key) && message.contains(&id.to_string()), "{message}");
        }
    }
    let two = Arrays {
        tokens: vec!["a".into(), "b".into()],
        scores: vec![0.0; 2],
        kinds: vec![1; 2],
        ..Arrays::default()
    };
    let message = bad_model(open_gguf(&two, "llama", vec![]));
    assert!(message.contains("eos_token_id is 2"), "the default is checked too: {message}");
}

#[test]
fn without_tokenizer_there_is_no_text() {
    let folder = tempfile::tempdir().unwrap();
    for entries in [
        vec![("general.architecture", Entry::Text("llama"))],
        vec![
            ("general.architecture", Entry::Text("llama")),
            ("tokenizer.ggml.model", Entry::Text("none")),
        ],
    ] {
        let checkpoint = Checkpoint::open(&gguf(folder.path(), &entries)).unwrap();
        assert!(open_text(&checkpoint, 10).unwrap().is_none());
    }
    let files = Folder::new(json!({}));
    std::fs::remove_file(files.path.path().join("tokenizer.json")).unwrap();
    assert!(files.open().unwrap().is_none());
}

/// A Hugging Face folder with the byte-level tokenizer and an empty checkpoint.
struct Folder {
    path: tempfile::TempDir,
}

impl Folder {
    fn new(config: Value) -> Folder {
        let folder = Folder { path: tempfile::tempdir().unwrap() };
        folder.write("config.json", config.to_string().as_bytes());
        folder.write("tokenizer.json", &data("byte_level.json"));
        let header = r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let mut weights = (header.len() as u64).to_le_bytes().to_vec();
        weights.extend(header.as_bytes());
        weights.extend([0; 4]);
        folder.write("model.safetensors", &weights);
        folder
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path.path().join(name), bytes).unwrap();
    }

    fn with(self, name: &str, value: Value) -> Folder {
        self.write(name, value.to_string().as_bytes());
        self
    }

    fn open(&self) -> Result<Option<Text>> {
        open_text(&Checkpoint::open(self.path.path())?, 800)
    }

    fn text(&self) -> Text {
        self.open().unwrap().unwrap()
    }
}

fn ids_of(text: &Text) -> (Option<u32>, Vec<u32>) {
    (text.bos().map(|id| id.0), text.stop_tokens().iter().map(|id| id.0).collect())
}

#[test]
fn hugging_face_files_become_a_text() {
    let text = Folder::new(json!({"bos_token_id": 0, "eos_token_id": 1})).text();
    assert_eq!(ids_of(&text), (Some(0), vec![1]));
    assert_eq!(text.tokenize("", BOTH).unwrap(), [TokenId(0)], "the post-processor adds BOS");
    assert!(!text.has_chat_template());

    let config = json!({
        "bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "<|end|>", "add_bos_token": false,
        "chat_template": "{{ bos_token }}{{ eos_token }}{{ messages | length }}",
    });
    let folder = Folder::new(json!({"eos_token_id": 1}))
        .with("generation_config.json", json!({"eos_token_id": [3, 1]}))
        .with("tokenizer_config.json", config);
    let text = folder.text();
    assert_eq!(ids_of(&text), (Some(0), vec![1, 3]));
    assert_eq!(text.tokenize("", BOTH).unwrap(), []);
    assert_eq!(text.render_chat("[]").unwrap(), "<s><|end|>0");
    folder.write("chat_template.jinja", b"the file's");
    assert_eq!(folder.text().render_chat("[]").unwrap(), "the file's");

    let nested = Folder::new(json!({"text_config": {"eos_token_id": [1, 2]}})).text();
    assert_eq!(ids_of(&nested), (None, vec![1, 2]));
    let without_bos = Folder::new(json!({"bos_token_id": 0}))
        .with("tokenizer_config.json", json!({"bos_token": null}))
        .text();
    assert_eq!(without_bos.bos(), None, "the tokenizer says there is none");
}

#[test]
fn named_templates() {
    let named = |templates: Value| {
        Folder::new(json!({})).with("tokenizer_config.json", json!({"chat_template": templates}))
    };
    let two = json!([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]);
    assert_eq!(named(two).text().render_chat("[]").unwrap(), "d");
    assert_eq!(
        named(json!([{"name": "x", "template": "y"}])).text().render_chat("[]").unwrap(),
        "y"
    );
    assert!(!named(json!([])).text().has_chat_template());
    for broken in [json!(3), json!([{"name": "default"}]), json!({"a": 1})] {
        assert!(bad_model(named(broken).open()).contains("chat_template"));
    }
}

#[test]
fn hugging_face_ids_are_checked() {
    let message = bad_model(Folder::new(json!({"eos_token_id": 800})).open());
    assert!(message.contains("config.json: eos_token_id is 800"), "{message}");
    let folder =
        Folder::new(json!({})).with("generation_config.json", json!({"eos_token_id": [1, 900]}));
    let message = bad_model(folder.open());
    assert!(message.contains("generation_config.json: eos_token_id is 900"), "{message}");
    assert!(bad_model(Folder::new(json!({"eos_token_id": -1})).open()).contains("eos_token_id"));
    assert!(bad_model(Folder::new(json!({"eos_token_id": "x"})).open()).contains("eos_token_id"));
}

#[test]
fn a_real_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return;
    }
    let text = open_text(&Checkpoint::open(&path).unwrap(), 49_152).unwrap().unwrap();
    assert_eq!(ids(&text, "The capital of France is", PLAIN), [504, 3575, 282, 4649, 314]);
    assert_eq!((text.bos(), text.stop_tokens().contains(&TokenId(2))), (Some(TokenId(1)), true));
    let rendered = text.render_chat(r#"[{"role": "user", "content": "Hi <|im_end|>"}]"#).unwrap();
    let tokens = text.tokenize_chat(&rendered).unwrap();
    let starts = tokens.iter().filter(|token| token.0 == 1).count();
    assert_eq!(starts, 3, "system, user, assistant");
    assert_eq!(tokens.iter().filter(|token| token.0 == 2).count(), 2, "system, user");
    let shown = String::from_utf8(text.detokenize(&tokens, false).unwrap()).unwrap();
    let expected = "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n";
    assert!(shown.ends_with(expected), "{shown}");
}
