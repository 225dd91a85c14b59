//! The JSON files of a Hugging Face folder, and paths that are no model.

mod format_support;

use format_support::*;
use larder::format::config::{HuggingFace, Object};
use larder::format::{Checkpoint, Metadata};

fn parse(text: &str) -> Object {
    Object::parse("config.json", text.as_bytes()).unwrap()
}

#[test]
fn getters_check_type_and_range() {
    let config = parse(
        r#"{"n": 4, "negative": -1, "big": 4294967296, "f": 1e-5, "whole": 10000,
        "yes": true, "s": "x",
        "null": null, "ids": [1, 106], "names": ["a", "b"], "mixed": [1, "a"], "huge": 1e300,
        "rope": {"type": "linear", "factor": "2"}}"#,
    );
    assert_eq!(config.get_u32("n"), Ok(Some(4)));
    assert_eq!(config.get_u32("null"), Ok(None));
    assert_eq!(config.get_u32("absent"), Ok(None));
    assert_bad(config.get_u32("negative"), &["config.json", "negative is -1", "0 to 4294967295"]);
    assert_bad(config.get_u32("big"), &["big is 4294967296"]);
    assert_eq!(config.get_u64("big"), Ok(Some(1 << 32)));
    assert_bad(config.get_u32("f"), &["f is"]);
    assert_bad(config.get_u32("s"), &["s is \"x\""]);
    assert_eq!(config.get_f32("f"), Ok(Some(1e-5)));
    assert_eq!(config.get_f32("whole"), Ok(Some(10000.0)));
    assert_bad(config.get_f32("huge"), &["huge", "a number"]);
    assert_eq!(config.get_bool("yes"), Ok(Some(true)));
    assert_bad(config.get_bool("n"), &["n is 4", "true or false"]);
    assert_eq!(config.get_str("s"), Ok(Some("x")));
    assert_bad(config.get_str("ids"), &["ids is a list"]);
    assert_eq!(config.get_u32s("ids"), Ok(Some(vec![1, 106])));
    assert_eq!(config.get_u32s("n"), Ok(Some(vec![4])));
    assert_bad(config.get_u32s("mixed"), &["mixed"]);
    assert_eq!(config.get_f32s("ids"), Ok(Some(vec![1.0, 106.0])));
    assert_eq!(config.get_strings("names"), Ok(Some(vec!["a", "b"])));
    let rope = config.get_object("rope").unwrap().unwrap();
    assert_bad(rope.get_f32("factor"), &["config.json: rope.factor is \"2\""]);
    assert_bad(config.get_object("n"), &["n is 4", "an object"]);
}

#[test]
fn text_of_the_file() {
    let bad = |text: &[u8]| Object::parse("config.json", text);
    assert_bad(bad(b""), &["config.json"]);
    assert_bad(bad(b"[1]"), &["config.json", "object"]);
    assert_bad(bad(b"{\"a\": 0,1}"), &["config.json", "line 1"]);
    assert_bad(bad(b"{\"a\": \"\xff\"}"), &["config.json"]);
    assert_bad(bad(b"{\"a\": 1, \"a\": 2}"), &["duplicate key \"a\""]);
    assert_bad(bad(b"{\"r\": {\"a\": 1, \"\\u0061\": 1}}"), &["duplicate key \"a\""]);
    assert_bad(bad(&b"[".repeat(1 << 20)), &["config.json", "recursion"]);
    assert_bad(bad(&b"{\"a\":".repeat(1 << 20)), &["config.json", "recursion"]);
}

fn hugging_face(folder: &Folder) -> HuggingFace {
    folder.write("model.safetensors", &safetensors("{}", 0));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    match checkpoint.metadata() {
        Metadata::HuggingFace(files) => HuggingFace::clone(files),
        Metadata::Gguf(_) => panic!("a folder is no GGUF file"),
    }
}

#[test]
fn optional_files() {
    let folder = Folder::hugging_face();
    let files = hugging_face(&folder);
    assert_eq!(files.config.get_str("model_type"), Ok(Some("llama")));
    assert!(files.generation_config.is_none() && files.tokenizer_config.is_none());
    assert!(files.tokenizer_json.is_none() && files.chat_template.is_none());
    folder.write("generation_config.json", br#"{"eos_token_id": 2}"#);
    folder.write("tokenizer.json", b"any bytes");
    let files = hugging_face(&folder);
    assert_eq!(files.generation_config.unwrap().get_u32s("eos_token_id"), Ok(Some(vec![2])));
    assert_eq!(files.tokenizer_json.as_deref(), Some(&b"any bytes"[..]));
    folder.write("generation_config.json", b"{");
    assert_bad(Checkpoint::open(folder.path()), &["generation_config.json"]);
}

#[test]
fn chat_template() {
    let folder = Folder::hugging_face();
    let file = "tokenizer_config.json";
    folder.write(
        file,
        br#"{"chat_template": "one", "bos_token": {"content": "<s>"}, "eos_token": "</s>"}"#,
    );
    let files = hugging_face(&folder);
    assert_eq!(files.chat_template.as_deref(), Some("one"));
    let config = files.tokenizer_config.unwrap();
    assert_eq!(config.get_token_text("bos_token"), Ok(Some("<s>")));
    assert_eq!(config.get_token_text("eos_token"), Ok(Some("</s>")));
    assert_eq!(config.get_token_text("pad_token"), Ok(None));
    let list = br#"{"chat_template": [{"name": "rag", "template": "r"},
        {"name": "default", "template": "d"}]}"#;
    folder.write(file, list);
    assert_eq!(hugging_face(&folder).chat_template.as_deref(), Some("d"));
    folder.write("chat_template.jinja", "own file é".as_bytes());
    assert_eq!(hugging_face(&folder).chat_template.as_deref(), Some("own file é"));
    folder.write("chat_template.jinja", b"\xff");
    assert_bad(Checkpoint::open(folder.path()), &["chat_template.jinja", "UTF-8"]);
}

#[test]
fn paths_that_are_no_model() {
    let folder = Folder::empty();
    let path = |name: &str| folder.path().join(name);
    assert_io(Checkpoint::open(&path("absent.gguf")), &["absent.gguf"]);
    assert_io(Checkpoint::open(&path("absent.safetensors")), &["config.json"]);
    assert_io(Checkpoint::open(folder.path()), &["model.safetensors"]);
    assert_io(Checkpoint::open("".as_ref()), &["cannot open"]);
    folder.write("model.safetensors", &safetensors("{}", 0));
    assert_io(Checkpoint::open(folder.path()), &["no config.json"]);
    assert_io(Checkpoint::open("/dev/null".as_ref()), &["/dev/null", "regular file"]);
    std::fs::create_dir(path("folder.gguf")).unwrap();
    assert_io(Checkpoint::open(&path("folder.gguf")), &["folder.gguf"]);
    folder.write("text.gguf", b"hello, world");
    assert_bad(Checkpoint::open(&path("text.gguf")), &["text.gguf", "not a GGUF file"]);
}
