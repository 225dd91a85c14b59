//! The told heap bytes against a counting allocator, and streaming without allocation.

mod text_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use larder::engine::text_source::open_text;
use larder::format::Checkpoint;
use larder::text::{StopMatcher, Text, TokenizerSource, Utf8Stream};
use text_support::{Arrays, PLAIN, byte_level_text, data, source};

struct Counting;

thread_local! {
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() + bytes));
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Told and counted bytes of what `build` makes.
fn measure(build: impl Fn() -> Text) -> (i64, i64) {
    // The first build also fills statics of the crates inside.
    let told = build().heap_bytes() as i64;
    let before = LIVE_BYTES.get();
    let text = build();
    let counted = LIVE_BYTES.get() - before;
    assert_eq!(text.heap_bytes() as i64, told, "the same source tells the same bytes");
    (told, counted)
}

fn assert_close(name: &str, (told, counted): (i64, i64)) {
    let ratio = told as f64 / counted as f64;
    assert!(
        (0.85..=1.15).contains(&ratio),
        "{name}: told {told}, counted {counted}, ratio {ratio:.3}"
    );
}

/// Arrays of a size as models have them: pieces of one to three made-up syllables.
fn large(n: usize, n_special: usize) -> Arrays {
    let mut tokens: Vec<String> =
        (0..256u32).map(|byte| char::from_u32(0x100 + byte).unwrap().to_string()).collect();
    let mut merges = Vec::new();
    for left in 0..256 {
        for right in 0..256 {
            if tokens.len() < n {
                merges.push(format!("{} {}", tokens[left], tokens[right]));
                tokens.push(format!("{}{}", tokens[left], tokens[right]));
            }
        }
    }
    let mut kinds = vec![1; tokens.len()];
    tokens.extend((0..n_special).map(|i| format!("<|special_token_{i}|>")));
    kinds.resize(tokens.len(), 3);
    let scores = (0..tokens.len()).map(|i| -(i as f32)).collect();
    Arrays { tokens, scores, kinds, merges }
}

#[test]
fn told_bytes_are_close_to_counted_ones() {
    let template = String::from_utf8(data("templates/qwen3.jinja")).unwrap();
    for (n, n_special) in [(8_000, 4), (30_000, 300), (60_000, 3000)] {
        let arrays = large(n, n_special);
        for model in ["gpt2", "llama"] {
            let build = |template: Option<&str>| {
                let mut source = arrays.source(model, Some("gpt-2"));
                source.chat_template = template.map(str::to_string);
                Text::new(&source).unwrap()
            };
            assert_close(&format!("{model} {n}"), measure(|| build(None)));
            assert_close(&format!("{model} {n} chat"), measure(|| build(Some(&template))));
        }
    }
    let file = data("byte_level.json");
    let (told, counted) =
        measure(|| Text::new(&source(TokenizerSource::Json(&file), 2000)).unwrap());
    assert!((told - counted).abs() < 16 << 10, "told {told}, counted {counted}");
}

#[test]
fn told_bytes_of_a_real_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return;
    }
    let checkpoint = Checkpoint::open(&path).unwrap();
    let build = || open_text(&checkpoint, 49_152).unwrap().unwrap();
    assert_close("SmolLM2", measure(build));
}

#[test]
fn streaming_allocates_nothing() {
    let text = byte_level_text(|_| {});
    let tokens = text.tokenize("The 👨‍👩‍👧 family says: STOP it, 日本語!", PLAIN).unwrap();
    let mut stream = Utf8Stream::new();
    let mut matcher = StopMatcher::new(4, 64);
    let (mut characters, mut delivered) = (String::with_capacity(64), String::with_capacity(256));
    let before = CALLS.get();
    for stop in ["STOP!", "日本語?"] {
        matcher.set([stop, "never"].into_iter()).unwrap();
        delivered.clear();
        for token in &tokens {
            characters.clear();
            stream.push(text.token_bytes(*token), &mut characters);
            matcher.push(&characters, &mut delivered);
        }
        characters.clear();
        stream.finish(&mut characters);
        matcher.push(&characters, &mut delivered);
        matcher.finish(&mut delivered);
    }
    assert_eq!(CALLS.get(), before);
    assert_eq!(delivered, "The 👨‍👩‍👧 family says: STOP it, 日本語!");
    let before = LIVE_BYTES.get();
    let matcher = StopMatcher::new(4, 64);
    assert_eq!((LIVE_BYTES.get() - before) as u64, StopMatcher::heap_bytes(4, 64));
    drop(matcher);
}
