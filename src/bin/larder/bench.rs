//! `larder bench`: how fast a model is on this machine, for people or, as lines of JSON, for programs.

use crate::Result;
use crate::arguments::BenchArguments;
use crate::bench_cases::Case;
use crate::bench_run::{Measured, Runner};
use crate::load::load;
use crate::units::size;
use larder::options::Options;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Instant;

/// Runs the cases and tells what they took.
pub fn bench(arguments: &BenchArguments) -> Result<()> {
    let cases = cases(arguments);
    let mut options = arguments.engine.options();
    make_room(&mut options, &cases);
    let begin = Instant::now();
    let mut runner = Runner::new(load(arguments.engine.path(), options)?);
    let load_seconds = begin.elapsed().as_secs_f64();
    if arguments.json || arguments.stdin {
        print_line(&heading_json(&runner, load_seconds))?;
    } else {
        writeln!(std::io::stdout(), "{}", heading(arguments, &runner, load_seconds))?;
    }
    if arguments.stdin {
        return answer_stdin(&mut runner);
    }
    for case in cases {
        let runs = runs(&mut runner, &case, arguments.rounds)?;
        if arguments.json {
            print_line(&report_json(&case, &runs))?;
        } else {
            writeln!(std::io::stdout(), "{}", report(&case, &runs))?;
        }
    }
    Ok(())
}

/// What is to be measured; none when standard input says it.
fn cases(arguments: &BenchArguments) -> Vec<Case> {
    if arguments.stdin || !arguments.case.is_empty() {
        return arguments.case.clone();
    }
    let (n_tokens, n_steps) = (arguments.prompt_tokens, arguments.new_tokens);
    let depth = arguments.depth.unwrap_or(n_tokens);
    let prefill = (n_tokens > 0).then_some(Case::Prefill { n_tokens, n_sequences: 1 });
    let n_sequences = arguments.sequences;
    let decode = (n_steps > 0).then_some(Case::Decode { depth, n_steps, n_sequences });
    prefill.into_iter().chain(decode).collect()
}

/// Raises what the cases need where nothing was asked for.
fn make_room(options: &mut Options, cases: &[Case]) {
    let most = |of: fn(&Case) -> u64| cases.iter().map(of).max().unwrap_or(1);
    let n_sequences = most(|case| u64::from(case.n_sequences())) as u32;
    options.max_sequences = options.max_sequences.max(n_sequences);
    options.max_requests = options.max_requests.max(n_sequences);
    options.max_logits_rows = options.max_logits_rows.max(n_sequences);
    if options.max_sequence_tokens == 0 && options.total_tokens == 0 {
        options.max_sequence_tokens = most(|case| u64::from(case.n_tokens().0)) as u32;
        options.total_tokens = most(|case| case.n_tokens().1);
    }
}

/// All rounds of a case, after one to warm up.
fn runs(runner: &mut Runner, case: &Case, n_rounds: u32) -> Result<Vec<Measured>> {
    runner.measure(case)?;
    (0..n_rounds).map(|_| runner.measure(case)).collect()
}

/// Reads cases, runs each once as it comes, and answers with a line.
fn answer_stdin(runner: &mut Runner) -> Result<()> {
    for line in std::io::stdin().lines() {
        let line = line?;
        let measured = line.parse::<Case>().map_err(Into::into).and_then(|case| {
            let measured = runner.measure(&case)?;
            Ok(report_json(&case, &[measured]))
        });
        let answer = measured.unwrap_or_else(
            |error: Box<dyn std::error::Error>| json!({ "case": line, "error": error.to_string() }),
        );
        print_line(&answer)?;
    }
    Ok(())
}

fn print_line(value: &Value) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(())
}

fn heading(arguments: &BenchArguments, runner: &Runner, load_seconds: f64) -> String {
    let memory = runner.engine().memory();
    let threads = match arguments.engine.threads {
        None | Some(0) => "all".to_string(),
        Some(n) => n.to_string(),
    };
    format!(
        "{}: {threads} threads, {} rows a step, compute area {}, total {}, loaded in {load_seconds:.1} s",
        arguments.engine.model_name(),
        memory.max_batch_rows,
        size(memory.compute_area_bytes),
        size(memory.total_bytes())
    )
}

fn heading_json(runner: &Runner, load_seconds: f64) -> Value {
    let memory = runner.engine().memory();
    json!({
        "engine": "larder",
        "version": env!("CARGO_PKG_VERSION"),
        "load_seconds": load_seconds,
        "rows_a_step": memory.max_batch_rows,
        "compute_area_bytes": memory.compute_area_bytes,
        "token_slot_bytes": memory.token_slot_bytes,
        "total_bytes": memory.total_bytes(),
    })
}

fn report_json(case: &Case, runs: &[Measured]) -> Value {
    let last = runs.last();
    json!({
        "case": case.to_string(),
        "tokens": last.map_or(0, |run| run.n_tokens),
        "cached": last.map_or(0, |run| run.n_cached),
        "seconds": runs.iter().map(|run| run.seconds).collect::<Vec<_>>(),
    })
}

fn report(case: &Case, runs: &[Measured]) -> String {
    let speeds = || runs.iter().map(|run| f64::from(run.n_tokens) / run.seconds).collect();
    match case {
        Case::Prefill { n_tokens, n_sequences } => {
            let speed = summary(speeds(), "tokens/s");
            format!("prefill {n_tokens:>6} tokens{}  {speed}", each(*n_sequences))
        }
        Case::Decode { depth, n_steps, n_sequences }
        | Case::Generate { depth, n_steps, n_sequences } => {
            let name = if matches!(case, Case::Decode { .. }) { "decode  " } else { "generate" };
            let (each, speed) = (each(*n_sequences), summary(speeds(), "tokens/s"));
            format!("{name}{n_steps:>6} tokens{each}  {speed} at depth {depth}")
        }
        Case::First { n_tokens, .. } => {
            let times = runs.iter().map(|run| 1e3 * run.seconds).collect();
            let n_cached = runs.last().map_or(0, |run| run.n_cached);
            format!("first   {n_tokens:>6} tokens  {} {n_cached} cached", summary(times, "ms"))
        }
    }
}

fn each(n_sequences: u32) -> String {
    if n_sequences > 1 { format!(" of {n_sequences} each") } else { String::new() }
}

fn summary(mut values: Vec<f64>, unit: &str) -> String {
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else {
        return String::new();
    };
    let middle = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    format!("{middle:>9.1} {unit}   ({least:.1} to {most:.1}, {} rounds)", values.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_median() {
        let three = summary(vec![9.0, 1.0, 2.0], "tokens/s");
        assert!(three.trim_start().starts_with("2.0 tokens/s   (1.0 to 9.0, 3 rounds)"), "{three}");
        assert!(summary(vec![4.0, 1.0], "ms").trim_start().starts_with("2.5 ms"));
    }

    #[test]
    fn there_is_room_for_the_largest_case() {
        let cases = ["decode 100 10 1", "decode 0 20 8", "first 150 9"].map(|c| c.parse().unwrap());
        let mut options = Options::default();
        make_room(&mut options, &cases);
        assert_eq!((options.max_sequences, options.max_logits_rows), (8, 8));
        assert_eq!((options.max_sequence_tokens, options.total_tokens), (151, 160));
        options = Options { total_tokens: 7, ..Options::default() };
        make_room(&mut options, &cases);
        assert_eq!((options.max_sequence_tokens, options.total_tokens), (0, 7));
    }
}
