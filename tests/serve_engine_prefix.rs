//! The prefix cache as requests see it: what is common is computed once.

mod serve_engine_common;

use larder::options::Options;
use serve_engine_common::*;

const N_COMMON: usize = 512;

/// Some tokens of its own behind a common beginning.
fn wanted(common: &[larder::ids::TokenId], number: u64) -> Wanted {
    let mut random = Random(number);
    let mut prompt = common.to_vec();
    prompt.push(larder::ids::TokenId(3 + number as u32));
    prompt.extend(random.tokens(number as usize % 5, 269));
    Wanted::seeded(&prompt, 1 + number as u32 % 6, number)
}

/// 32 requests, `n_first` of them before the others; every row that was computed is accounted for.
fn serve(n_first: u64) {
    let model =
        chat_model_with(r#""max_position_embeddings": 512"#, r#""max_position_embeddings": 1024"#);
    let options = Options {
        n_threads: 1,
        total_tokens: 4096,
        max_sequences: 32,
        max_requests: 32,
        max_batch_rows: 64,
        ..Options::default()
    };
    let common = Random(1).tokens(N_COMMON, 269);
    let all: Vec<Wanted> = (0..32).map(|number| wanted(&common, number)).collect();
    let mut server = Server::new(model.path(), &options);
    for (user, wanted) in (0..).zip(&all) {
        if user == n_first {
            server.run(n_first as usize, 64);
        }
        wanted.submit(&server.port, user).unwrap();
    }
    server.run(32, 64);
    let mut n_rows = N_COMMON as u64;
    let mut ample = Server::new(model.path(), &ample());
    for (user, wanted) in (0..).zip(&all) {
        let answer = server.answer(user, 0);
        answer.assert_is(&wanted.alone_on(&mut ample)[0], &format!("request {user}"));
        let n_cached = if user == 0 { 0 } else { N_COMMON as u32 };
        assert_eq!(answer.n_cached_tokens, n_cached, "request {user}");
        n_rows += (wanted.prompt.len() - N_COMMON) as u64;
        // A stop token's draw needs a row as well.
        n_rows += answer.tokens.len() as u64 - u64::from(answer.end == FULL);
    }
    server.step(1);
    let stats = server.stats();
    assert_eq!(stats.prefill_rows + stats.decode_rows, n_rows, "{stats:?}");
    assert_eq!(stats.cached_tokens, 31 * N_COMMON as u64);
    assert!(stats.prefill_rows < N_COMMON as u64 + 32 * 5);
    server.assert_idle();
}

#[test]
fn a_common_beginning_is_computed_once() {
    serve(1);
}

#[test]
fn a_common_beginning_of_requests_that_come_at_once_is_computed_once() {
    serve(0);
}
