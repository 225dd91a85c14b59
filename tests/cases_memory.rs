//! Known troubles of engines whose memory is full, or shared by those who must not share it.

mod serve_engine_common;

use std::path::{Path, PathBuf};

use larder::error::Error;
use larder::ids::TokenId;
use larder::kv::NameSpaceSettings;
use larder::options::Options;
use larder::serve::RequestInput;
use serve_engine_common::*;

const VOCABULARY: usize = 269;

fn prompt(n: usize, seed: u64) -> Vec<TokenId> {
    Random(seed).tokens(n, VOCABULARY)
}

/// A tiny model without a tokenizer, so without stop tokens: 128 tokens.
fn model_without_text() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/llama")
}

/// Case K02: prompts below, at and above the capacity, from a capacity of one slot on. The last token of an answer
/// needs no slot.
#[test]
fn k02_exactly_the_tokens_that_fit() {
    for capacity in [1, 2, 32] {
        for (total_tokens, max_sequence_tokens) in
            [(capacity, 0), (64, capacity), (capacity, capacity)]
        {
            let options =
                Options { total_tokens: u64::from(total_tokens), max_sequence_tokens, ..ample() };
            let mut server = Server::new(&model_without_text(), &options);
            let mut user = 0;
            for n_prompt in [capacity - 1, capacity, capacity + 1] {
                let tokens = Random(1).tokens(n_prompt as usize, 128);
                for max_new in [0, 1, 2] {
                    let submitted = Wanted::greedy(&tokens, max_new).submit(&server.port, user);
                    if n_prompt == 0 || n_prompt > capacity {
                        let Err(Error::InvalidArgument(text)) = submitted else {
                            panic!("{n_prompt} was taken")
                        };
                        let names = |n: u32| {
                            text.split(|c: char| !c.is_ascii_digit())
                                .any(|word| word == n.to_string())
                        };
                        assert!(n_prompt == 0 || names(n_prompt) && names(capacity), "{text}");
                        continue;
                    }
                    submitted.unwrap();
                    server.run(user as usize + 1, 8);
                    let room = capacity - n_prompt + 1;
                    let expected = if max_new == 0 { room } else { max_new.min(room) };
                    let answer = server.answer(user, 0);
                    assert_eq!(
                        (answer.tokens.len() as u32, answer.end),
                        (expected, FULL),
                        "{n_prompt} in {capacity}"
                    );
                    user += 1;
                }
            }
            server.assert_idle();
        }
    }
}

/// Case K07: an adapter, or one at another scale, is a namespace: what one has computed is not another's.
#[test]
fn k07_namespaces_share_nothing() {
    let mut server = Server::new(&chat_model(), &ample());
    let wanted = Wanted::greedy(&prompt(40, 1), 8);
    let alone = &wanted.alone(&chat_model())[0];
    let turns = [(0, 0), (1, 0), (2, 0), (u64::MAX, 0), (1, 39), (0, 39), (u64::MAX, 39)];
    for (user, (name_space, n_cached)) in (0..).zip(turns) {
        wanted.submit_as(&server.port, user, |input| RequestInput { name_space, ..input }).unwrap();
        server.run(user as usize + 1, 8);
        let answer = server.answer(user, 0);
        answer.assert_is(alone, "K07");
        assert_eq!(answer.n_cached_tokens, n_cached, "namespace {name_space}");
    }
    server.assert_idle();
}

/// Case K16: four answers that outgrow the repo together; some are paused, others in each order of arrival. Nothing
/// is told twice or lost, and the counts are those of an ample repo.
#[test]
fn k16_paused_answers_go_on_where_they_were() {
    // All are admitted, because each says that it will be short.
    let short = |user| Wanted { hint: 1, ..Wanted::greedy(&prompt(20, user), 32) };
    let all: Vec<Wanted> = (0..4).map(short).collect();
    let alone: Vec<_> = all.iter().map(|wanted| wanted.alone(&chat_model()).remove(0)).collect();
    let n_tokens: usize = alone.iter().map(|answer| answer.tokens.len()).sum();
    for total_tokens in [60, 75, 90, 105] {
        for max_idle_slots in [u32::MAX, 0] {
            for (first, capacity) in [(0, 1), (1, 8), (2, 1), (3, 8)] {
                let options = Options { total_tokens, ..ample() };
                let mut server = Server::new(&chat_model(), &options);
                let settings = NameSpaceSettings { max_idle_slots, ..Default::default() };
                server.engine.set_name_space(0, settings).unwrap();
                for user in (0..4).map(|n| (first + n) % 4) {
                    all[user].submit(&server.port, user as u64).unwrap();
                }
                server.run(4, capacity);
                let what = format!("{total_tokens} slots, {max_idle_slots} idle, from {first}");
                for (user, alone) in (0..).zip(&alone) {
                    server.answer(user, 0).assert_is(alone, &format!("request {user}, {what}"));
                }
                server.step(1);
                check_counts(&server, n_tokens, &what);
                assert!(max_idle_slots > 0 || server.stats().tree_slots == 0, "{what}");
                server.assert_idle();
            }
        }
    }
}

/// Four requests of 20 prompt tokens, of which at least two were paused.
fn check_counts(server: &Server, n_tokens: usize, what: &str) {
    let stats = server.stats();
    assert!(stats.pauses >= 2, "{what}: {stats:?}");
    assert_eq!((stats.prompt_tokens, stats.generated_tokens), (4 * 20, n_tokens as u64), "{what}");
    assert_eq!((stats.requests_finished, stats.requests_failed), (4, 0), "{what}");
    // Each token has had its row, and those that were lost have had another.
    let n_rows = stats.prefill_rows + stats.decode_rows;
    assert!(n_rows >= 4 * 20 + n_tokens as u64 - 4, "{what}: {stats:?}");
}
