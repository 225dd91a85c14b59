//! The command-line tool: what an engine would take (`plan`), a text from a prompt (`run`), its speed (`bench`).
#![forbid(unsafe_code)]

#[path = "larder/arguments.rs"]
mod arguments;
#[path = "larder/bench.rs"]
mod bench;
#[path = "larder/bench_cases.rs"]
mod bench_cases;
#[path = "larder/bench_run.rs"]
mod bench_run;
#[path = "larder/load.rs"]
mod load;
#[path = "larder/plan.rs"]
mod plan;
#[path = "larder/run.rs"]
mod run;
#[path = "larder/units.rs"]
mod units;

use arguments::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Plan(arguments) => plan::plan(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("larder: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether who reads our output has enough of it, as `head` does.
fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What can go wrong in the tool: larder's own errors, and the files that the tool itself reads and writes.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
