//! Compiles the kernels to fatbins, and writes the table of them that src/modules.rs includes.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::jobs::{Job, beside, stem};
use super::toolchain::Toolchain;

/// The architectures of a release, each with machine code; newer ones run through the PTX.
pub const ALL: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];
/// The PTX for all others.
pub const PTX: &str = "80";

/// `all`, or architectures separated by commas.
pub fn architectures(text: &str) -> Vec<String> {
    match text {
        "all" => ALL.map(String::from).to_vec(),
        list => list.split(',').map(|it| it.trim().to_owned()).collect(),
    }
}

pub struct Options<'a> {
    pub architectures: &'a [String],
    /// Smaller files, which the driver unpacks.
    pub compressed: bool,
}

/// The job that compiles one file into `folder`.
pub fn job(toolchain: &Toolchain, source: &Path, folder: &Path, options: &Options) -> Job {
    let output = folder.join(format!("{}.fatbin", stem(source)));
    let headers =
        source.ancestors().find(|it| it.join("build.rs").is_file()).map(|it| it.join("cuda"));
    let mut command = Command::new(&toolchain.nvcc);
    command.args(["-std=c++17", "-O3", "-fatbin", "-Xptxas", "-v", "-Wno-deprecated-gpu-targets"]);
    command.arg(if options.compressed { "--compress-mode=size" } else { "--no-compress" });
    for architecture in options.architectures {
        command.arg(format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"));
    }
    command.arg(format!("-gencode=arch=compute_{PTX},code=compute_{PTX}"));
    command.arg("-I").arg(headers.unwrap_or_default());
    command.arg("-MD").arg("-MF").arg(beside(&output, "d"));
    command.arg("-o").arg(&output).arg(source);
    Job { command, output, inputs: vec![source.to_owned()] }
}

/// The kernels' names in what `ptxas -v` prints, in order.
pub fn kernel_names(log: &str) -> Vec<String> {
    let mut names: Vec<String> = log
        .lines()
        .filter_map(|line| line.split_once("Compiling entry function '"))
        .filter_map(|(_, rest)| rest.split_once('\'').map(|(name, _)| name.to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// A Rust expression: an array of `Image`s for src/modules.rs.
pub fn table(jobs: &[Job]) -> std::io::Result<String> {
    let mut text = String::from("[\n");
    for job in jobs {
        let path: &PathBuf = &job.output;
        let names = kernel_names(&fs::read_to_string(job.log())?);
        writeln!(
            text,
            "    Image {{ name: {:?}, fatbin: include_bytes!({path:?}), kernels: &{names:?} }},",
            stem(path)
        )
        .expect("writing to a string");
    }
    text.push_str("]\n");
    Ok(text)
}
