//! `larder bench`: tokens per second of prefill and decode, without sampling.

use crate::Result;
use crate::arguments::BenchArguments;
use crate::load::load;
use crate::units::size;
use larder::engine::{Engine, ForwardBatch, Pooling};
use larder::ids::{SequenceHandle, TokenId};
use std::io::Write;
use std::time::Instant;

/// Runs all rounds and prints the medians.
pub fn bench(arguments: &BenchArguments) -> Result<()> {
    let (n_prompt, n_new) = (arguments.prompt_tokens, arguments.new_tokens);
    let mut options = arguments.engine.options();
    if options.max_sequence_tokens == 0 && options.total_tokens == 0 {
        options.max_sequence_tokens = n_prompt.saturating_add(n_new).max(1);
    }
    let mut engine = load(arguments.engine.path(), options)?;
    let (n_tokens, most) = (n_prompt.saturating_add(n_new), engine.memory().max_sequence_tokens);
    if n_tokens > most {
        return Err(format!("{n_tokens} tokens are to be measured, a sequence has {most}").into());
    }
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for round in 0..=arguments.rounds {
        let sequence = engine.sequence_open()?;
        let tokens = tokens(n_tokens, engine.vocab_size());
        let (prompt, new) = tokens.split_at(n_prompt as usize);
        let rows = engine.memory().max_batch_rows as usize;
        let prefilled = speed(&mut engine, sequence, prompt, rows)?;
        let decoded = speed(&mut engine, sequence, new, 1)?;
        engine.sequence_release(sequence)?;
        if round > 0 {
            prefill.push(prefilled);
            decode.push(decoded);
        }
    }
    let memory = engine.memory();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{}: {} threads, {} rows a step, compute area {}, total {}",
        arguments.engine.model_name(),
        match arguments.engine.threads {
            None | Some(0) => "all".to_string(),
            Some(n) => n.to_string(),
        },
        memory.max_batch_rows,
        size(memory.compute_area_bytes),
        size(memory.total_bytes())
    )?;
    writeln!(out, "prefill {n_prompt:>6} tokens  {}", summary(prefill))?;
    writeln!(out, "decode  {n_new:>6} tokens  {}", summary(decode))?;
    Ok(())
}

/// Tokens per second of appending `tokens` to a sequence, `rows` at a time, with logits of each pass's last row.
fn speed(
    engine: &mut Engine,
    sequence: SequenceHandle,
    tokens: &[TokenId],
    rows: usize,
) -> Result<f64> {
    let begin = Instant::now();
    for chunk in tokens.chunks(rows.max(1)) {
        engine.forward(&ForwardBatch {
            n_rows: chunk.len() as u32,
            tokens: Some(chunk),
            embeddings: None,
            sequences: &vec![sequence; chunk.len()],
            wants: None,
            pooling: Pooling::None,
            normalize: false,
        })?;
    }
    Ok(tokens.len() as f64 / begin.elapsed().as_secs_f64())
}

/// The same tokens in every round and run, all over the vocabulary.
fn tokens(n: u32, vocab_size: u32) -> Vec<TokenId> {
    let spread = |i: u32| (u64::from(i) * 2_654_435_761 + 12_345) % u64::from(vocab_size.max(1));
    (0..n).map(|i| TokenId(spread(i) as u32)).collect()
}

fn summary(mut speeds: Vec<f64>) -> String {
    speeds.sort_by(f64::total_cmp);
    let (Some(slowest), Some(fastest)) = (speeds.first(), speeds.last()) else {
        return String::new();
    };
    let middle = (speeds[(speeds.len() - 1) / 2] + speeds[speeds.len() / 2]) / 2.0;
    format!("{middle:>9.1} tokens/s   ({slowest:.1} to {fastest:.1}, {} rounds)", speeds.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_median() {
        assert!(
            summary(vec![9.0, 1.0, 2.0]).trim_start().starts_with("2.0 tokens/s   (1.0 to 9.0")
        );
        assert!(summary(vec![4.0, 1.0]).trim_start().starts_with("2.5 "));
        assert!(tokens(1000, 7).iter().all(|token| token.0 < 7));
    }
}
