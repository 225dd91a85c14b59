//! The command-line tool from outside, with the tiny models.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn larder(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(arguments).stdin(Stdio::null()).output().expect("the tool was built")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn tiny_model() -> String {
    format!("{}/tests/data/models/llama", env!("CARGO_MANIFEST_DIR"))
}

/// The bytes in the row of `larder plan`'s table that begins with `name`.
fn bytes_of(table: &str, name: &str) -> u64 {
    let row = table.lines().find(|line| line.trim_start().starts_with(name));
    let row = row.unwrap_or_else(|| panic!("{name} is missing in\n{table}"));
    let words: Vec<&str> = row.split_whitespace().collect();
    let unit = words.iter().position(|&word| word == "B").expect("a number of bytes");
    words[unit - 1].parse().expect("a number")
}

#[test]
fn help_teaches() {
    let help = stdout(&larder(&["--help"]));
    for part in ["plan", "run", "bench", "Examples:", "MODEL is a .gguf file"] {
        assert!(help.contains(part), "{part}");
    }
    let help = stdout(&larder(&["run", "--help"]));
    for part in ["--memory-limit", "--temperature", "--kv-type", "--area", "--stop", "--exact"] {
        assert!(help.contains(part), "{part}");
    }
}

#[test]
fn the_plan_adds_up() {
    let table =
        stdout(&larder(&["plan", &tiny_model(), "--total-tokens", "100", "--area", "short"]));
    let classes = ["weights", "KV repo", "compute area", "bookkeeping"];
    let sum: u64 = classes.iter().map(|name| bytes_of(&table, name)).sum();
    assert_eq!(bytes_of(&table, "total"), sum, "{table}");
    assert!(bytes_of(&table, "peak") >= sum);
    assert!(table.contains("100 token slots") && table.contains("short (asked for"), "{table}");
}

#[test]
fn a_plan_keeps_its_limit() {
    let limit = 8 << 20;
    let table = stdout(&larder(&["plan", &tiny_model(), "--memory-limit", "8M"]));
    assert!(bytes_of(&table, "peak") <= limit, "{table}");
    let refused = larder(&["plan", &tiny_model(), "--memory-limit", "1K"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("memory_limit_bytes is 1024"), "{}", stderr(&refused));
}

#[test]
fn the_picture_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("area.svg");
    stdout(&larder(&["plan", &tiny_model(), "--svg", file.to_str().unwrap()]));
    let svg = std::fs::read_to_string(&file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("more layer") && svg.contains(">logits"), "{svg}");
    let nowhere = folder.path().join("missing").join("area.svg");
    let refused = larder(&["plan", &tiny_model(), "--svg", nowhere.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn bench_tells_both_speeds() {
    let output =
        larder(&["bench", &tiny_model(), "-p", "9", "-n", "3", "-r", "2", "--threads", "1"]);
    let text = stdout(&output);
    for part in ["prefill      9 tokens", "decode       3 tokens", "tokens/s", "2 rounds"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn bench_takes_cases() {
    let cases = ["decode 5 2 3", "first 9 4", "generate 5 2 3", "prefill 9 2"];
    let cases: Vec<&str> = cases.iter().flat_map(|case| ["-c", case]).collect();
    let cases = [&cases[..], &["-r", "1", "--threads", "1"]].concat();
    let output = larder(&[&["bench", &tiny_model()], &cases[..]].concat());
    let text = stdout(&output);
    for part in [
        "decode       2 tokens of 3 each",
        "at depth 5",
        "first        9 tokens",
        "4 cached",
        "generate     2 tokens of 3 each",
        "prefill      9 tokens of 2 each",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let output = larder(&[&["bench", &tiny_model(), "--json"], &cases[..]].concat());
    let text = stdout(&output);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["engine"]), (5, &"larder".into()));
    assert_eq!((&lines[1]["case"], &lines[1]["tokens"]), (&"decode 5 2 3".into(), &6.into()));
    assert!(lines[2]["seconds"][0].as_f64().unwrap() > 0.0, "{text}");
    assert_eq!((&lines[2]["tokens"], &lines[2]["cached"]), (&9.into(), &4.into()));
    assert_eq!((&lines[3]["tokens"], &lines[4]["tokens"]), (&6.into(), &18.into()));
}

#[test]
fn bench_answers_line_by_line() {
    let sizes = ["--max-sequences", "4", "--max-sequence-tokens", "20", "--total-tokens", "40"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_larder"))
        .args([&["bench", &tiny_model(), "--stdin", "--threads", "1"], &sizes[..]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool was built");
    let cases = [
        ("prefill 20", None),
        ("prefill 21", Some("")),
        ("prefill x", Some("expected")),
        ("decode 3 7 4", None),
        ("decode 3 7 5", Some("max_sequences")),
        ("decode 18 2 1", None),
        ("first 15 10", None),
        ("generate 3 5 4", None),
        ("generate 3 8 4", Some("token slots")),
        ("generate 3 5 4", None),
        ("prefill 10 4", None),
        ("generate 3 20 1", Some("")),
        ("first 19 0", None),
        ("decode 0 10 4", None),
    ];
    let input: String = cases.iter().map(|(case, _)| format!("{case}\n")).collect();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let text = stdout(&child.wait_with_output().unwrap());
    assert_eq!(text.lines().count(), 1 + cases.len(), "{text}");
    for ((case, error), line) in cases.iter().zip(text.lines().skip(1)) {
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(answer["case"], *case);
        match error {
            None => assert!(answer["seconds"][0].is_f64(), "{line}"),
            Some(part) => assert!(answer["error"].as_str().unwrap().contains(part), "{line}"),
        }
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let missing = larder(&["plan", "no/such/model.gguf"]);
    assert_eq!(missing.status.code(), Some(1));
    let text = stderr(&missing);
    assert!(text.starts_with("larder: ") && text.contains("no/such/model.gguf"), "{text}");
    let without_tokenizer = larder(&["run", &tiny_model(), "-p", "x"]);
    assert_eq!(without_tokenizer.status.code(), Some(1));
    assert!(stderr(&without_tokenizer).contains("tokenizer"), "{}", stderr(&without_tokenizer));
    assert_eq!(larder(&["plan", &tiny_model(), "--area", "wide"]).status.code(), Some(2));
}

/// The tiny model with a tokenizer whose tokens are bytes.
fn model_with_tokenizer(folder: &Path) -> PathBuf {
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new(&tiny_model()).join(name), folder.join(name)).unwrap();
    }
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let n_tokens = config["vocab_size"].as_u64().unwrap() as u32;
    // Printable ASCII stands for itself in a byte-level vocabulary; the rest is never needed here.
    let token = |id: u32| match id {
        0x21..0x7f => char::from(id as u8).to_string(),
        _ => format!("<unused{id}>"),
    };
    let vocabulary: serde_json::Map<_, _> =
        (0..n_tokens).map(|id| (token(id), id.into())).collect();
    let byte_level = serde_json::json!(
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true }
    );
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    folder.to_path_buf()
}

#[test]
fn run_generates_the_same_text_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let model = model_with_tokenizer(folder.path());
    let run = |extra: &[&str]| {
        let model = model.to_str().unwrap();
        let arguments = [&["run", model, "-p", "abc", "-n", "6", "--raw"], extra].concat();
        larder(&arguments)
    };
    let greedy = run(&[]);
    let text = stdout(&greedy);
    assert!(!text.is_empty());
    assert!(stderr(&greedy).contains("prefill      3 tokens"), "{}", stderr(&greedy));
    assert!(stderr(&greedy).contains("compute area"), "{}", stderr(&greedy));
    assert_eq!(stdout(&run(&["--threads", "1"])), text);
    let drawn = ["--temperature", "1.5", "--seed", "7"];
    assert_eq!(stdout(&run(&drawn)), stdout(&run(&drawn)));
    let refused = run(&["--top-p", "1.5"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("top_p"), "{}", stderr(&refused));
}
