//! Runs compilers: only for what has changed, a few at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::SystemTime;

/// One run of a program that makes one file.
pub struct Job {
    pub command: Command,
    pub output: PathBuf,
    /// What the output is made from. Headers come from the compiler's list beside the output (`.d`).
    pub inputs: Vec<PathBuf>,
}

impl Job {
    /// What the program printed when it last made the output.
    pub fn log(&self) -> PathBuf {
        beside(&self.output, "log")
    }

    fn description(&self) -> String {
        format!("{:?}", self.command)
    }

    fn is_fresh(&self) -> bool {
        let Some(made) = modified(&self.output) else { return false };
        let same_command = fs::read_to_string(beside(&self.output, "command"))
            .is_ok_and(|it| it == self.description());
        let headers = fs::read_to_string(beside(&self.output, "d")).unwrap_or_default();
        let mut inputs = self.inputs.iter().cloned().chain(dependencies(&headers));
        same_command && inputs.all(|input| modified(&input).is_some_and(|time| time <= made))
    }

    fn run(&mut self) -> Result<(), String> {
        let _ = fs::remove_file(&self.output);
        let done = self.command.stdin(Stdio::null()).output();
        let done = done.map_err(|error| format!("{:?}: {error}", self.command.get_program()))?;
        let mut log = String::from_utf8_lossy(&done.stdout).into_owned();
        log.push_str(&String::from_utf8_lossy(&done.stderr));
        if !done.status.success() {
            return Err(format!("{}\n{log}", self.description()));
        }
        let written = fs::write(self.log(), log)
            .and_then(|()| fs::write(beside(&self.output, "command"), self.description()));
        written.map_err(|error| format!("{}: {error}", self.output.display()))
    }
}

/// Runs the jobs whose output is older than what it is made from, at most `parallel` at a time. Returns how many were
/// run, or what the first one that failed printed.
pub fn run_all(jobs: &mut [Job], parallel: usize) -> Result<usize, String> {
    let mut stale: Vec<&mut Job> = jobs.iter_mut().filter(|job| !job.is_fresh()).collect();
    let count = stale.len();
    let queue = Mutex::new(stale.drain(..));
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..parallel.max(1) {
            scope.spawn(|| {
                while failure.lock().unwrap().is_none() {
                    let Some(job) = queue.lock().unwrap().next() else { break };
                    if let Err(text) = job.run() {
                        failure.lock().unwrap().get_or_insert(text);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap().map_or(Ok(count), Err)
}

/// The number of compilers to run at a time: two, since each nvcc takes a gigabyte; less when cargo says so.
pub fn parallel() -> usize {
    let allowed = std::env::var("NUM_JOBS").ok().and_then(|text| text.parse().ok());
    allowed.unwrap_or(2).clamp(1, 2)
}

/// The files of a folder with that extension, in order.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == extension))
        .collect();
    found.sort();
    found
}

pub fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The file of the same name with another ending.
pub fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|it| it.modified()).ok()
}

/// The files in a rule of make ("output: input input \").
fn dependencies(rule: &str) -> Vec<PathBuf> {
    let inputs = rule.split_once(':').map_or("", |(_, inputs)| inputs);
    inputs.split_whitespace().filter(|word| *word != "\\").map(PathBuf::from).collect()
}
