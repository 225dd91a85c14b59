//! How fast the kernels are on this GPU, as tables in Markdown: each one's share of the copy bandwidth that is
//! measured in the same run, and its multiplications per second.
//!
//! `bench_gpu [--smoke]`; with `--smoke` everything is tiny, to see that it runs (with the feature `standin`: on the
//! emulator, where the times mean nothing).

mod attention;
mod bench;
mod products;

use std::process::ExitCode;

use bench::{Bench, Failure};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_smoke = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--smoke"] => true,
        _ => {
            eprintln!("usage: bench_gpu [--smoke]");
            return ExitCode::FAILURE;
        }
    };
    #[cfg(feature = "standin")]
    if is_smoke {
        larder_kernels::standin::install();
    }
    match run(is_smoke) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench_gpu: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(is_smoke: bool) -> Result<(), Failure> {
    let bench = Bench::open(is_smoke)?;
    let info = bench.kernels.info();
    let (major, minor) = info.compute_capability;
    println!("## {}, compute capability {major}.{minor}\n", info.name);
    println!(
        "{} multiprocessors; copies within the device read and write {:.0} GB/s together.\n",
        info.n_multiprocessors, bench.copy_gb_per_s
    );
    products::run(&bench)?;
    attention::run(&bench)
}
