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
    let n_sequences = arguments.sequences;
    let mut options = arguments.engine.options();
    options.max_sequences = options.max_sequences.max(n_sequences);
    options.max_logits_rows = options.max_logits_rows.max(n_sequences);
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
        let (prefilled, decoded) = run(&mut engine, (n_prompt, n_new), n_sequences)?;
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
    let together = if n_sequences > 1 { format!(" of {n_sequences} each") } else { String::new() };
    writeln!(out, "decode  {n_new:>6} tokens{together}  {}", summary(decode))?;
    Ok(())
}

/// One round: tokens per second of the prompts, and of all sequences together behind them.
fn run(engine: &mut Engine, (n_prompt, n_new): (u32, u32), n_sequences: u32) -> Result<(f64, f64)> {
    let tokens = tokens(n_prompt + n_new, engine.vocab_size());
    let (prompt, new) = tokens.split_at(n_prompt as usize);
    let mut sequences = Vec::new();
    let begin = Instant::now();
    for _ in 0..n_sequences {
        let sequence = engine.sequence_open()?;
        sequences.push(sequence);
        let rows = engine.memory().max_batch_rows.max(1) as usize;
        for chunk in prompt.chunks(rows) {
            append(engine, &vec![sequence; chunk.len()], chunk)?;
        }
    }
    let prefilled = prompt.len() * sequences.len();
    let prefill = prefilled as f64 / begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    for &token in new {
        append(engine, &sequences, &vec![token; sequences.len()])?;
    }
    let decode = (new.len() * sequences.len()) as f64 / begin.elapsed().as_secs_f64();
    for sequence in sequences {
        engine.sequence_release(sequence)?;
    }
    Ok((prefill, decode))
}

/// One pass over these rows, with logits of each sequence's last one.
fn append(engine: &mut Engine, sequences: &[SequenceHandle], tokens: &[TokenId]) -> Result<()> {
    engine.forward(&ForwardBatch {
        n_rows: tokens.len() as u32,
        tokens: Some(tokens),
        embeddings: None,
        sequences,
        wants: None,
        pooling: Pooling::None,
        normalize: false,
    })?;
    Ok(())
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
