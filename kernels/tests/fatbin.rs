//! The kernels as the release has them: compiled by nvcc for every architecture, without register spills, and the same
//! kernels as on the emulator. Only what has changed since the last run is compiled.
#![cfg(feature = "standin")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[allow(dead_code, reason = "the build script uses the rest")]
#[path = "../build/jobs.rs"]
mod jobs;
#[allow(dead_code, reason = "the build script uses the rest")]
#[path = "../build/nvcc.rs"]
mod nvcc;
#[allow(dead_code, reason = "the build script uses the rest")]
#[path = "../build/toolchain.rs"]
mod toolchain;

struct Compiled {
    file: String,
    image: Vec<u8>,
    log: String,
}

/// All kernel files for all architectures.
fn compile_all() -> Vec<Compiled> {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR"));
    let toolchain =
        toolchain::find(kernels.parent().unwrap()).unwrap_or_else(|why| panic!("{why}"));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fatbins");
    fs::create_dir_all(&folder).unwrap();
    let architectures = nvcc::architectures("all");
    let options = nvcc::Options { architectures: &architectures, compressed: true };
    let sources = toolchain::sources(kernels, false);
    assert!(!sources.is_empty());
    let mut jobs: Vec<jobs::Job> =
        sources.iter().map(|it| nvcc::job(&toolchain, it, &folder, &options)).collect();
    jobs::run_all(&mut jobs, jobs::parallel()).unwrap_or_else(|why| panic!("{why}"));
    let compiled = jobs.iter().map(|job| Compiled {
        file: jobs::stem(&job.output),
        image: fs::read(&job.output).unwrap(),
        log: fs::read_to_string(job.log()).unwrap(),
    });
    compiled.collect()
}

#[test]
fn every_architecture_is_there_and_nothing_spills() {
    let mut problems = Vec::new();
    for Compiled { file, image, log } in compile_all() {
        let found: BTreeSet<Entry> = entries(&image).into_iter().collect();
        let mut expected: BTreeSet<Entry> = nvcc::ALL
            .iter()
            .map(|it| Entry { kind: Kind::MachineCode, architecture: number(it) })
            .collect();
        expected.insert(Entry { kind: Kind::Ptx, architecture: number(nvcc::PTX) });
        if found != expected {
            problems.push(format!("{file} has {found:?}, not {expected:?}"));
        }
        problems.extend(spills(&log).into_iter().map(|it| format!("{file}: {it}")));
        for name in nvcc::kernel_names(&log) {
            let times = log.matches(&format!("Compiling entry function '{name}' for")).count();
            if times != nvcc::ALL.len() {
                problems.push(format!("{file}: {name} was compiled {times} times"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// A kernel that only one of the compilers knows would be tested and not shipped, or shipped and not tested.
#[test]
fn the_emulator_has_the_same_kernels() {
    larder_kernels::standin::install();
    let emulated = larder_kernels::standin::kernel_names();
    let mut embedded: Vec<String> = larder_kernels::modules::IMAGES
        .iter()
        .flat_map(|image| image.kernels.iter().map(|&name| name.to_owned()))
        .collect();
    embedded.sort();
    assert_eq!(emulated, embedded);
    let mut unique = embedded.clone();
    unique.dedup();
    assert_eq!(unique, embedded, "a name appears twice");
}

/// The lines of `ptxas -v` that tell of a spill, with the kernel's.
fn spills(log: &str) -> Vec<String> {
    let mut kernel = "";
    let mut found = Vec::new();
    for line in log.lines() {
        if line.contains("Compiling entry function") {
            kernel = line;
        } else if line.contains("spill stores")
            && !line.contains(", 0 bytes spill stores, 0 bytes spill loads")
        {
            found.push(format!("{kernel}: {}", line.trim()));
        }
    }
    found
}

#[test]
fn spills_are_seen() {
    let log = "ptxas info    : Compiling entry function 'k' for 'sm_80'\n\
               ptxas info    : Function properties for k\n\
               \x20   8 bytes stack frame, 40 bytes spill stores, 8 bytes spill loads\n";
    assert_eq!(spills(log).len(), 1);
    let clean = log.replace("40 bytes spill stores, 8 bytes", "0 bytes spill stores, 0 bytes");
    assert!(spills(&clean).is_empty());
}

/// "90a" is 90.
fn number(architecture: &str) -> u32 {
    architecture.trim_end_matches('a').parse().unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Ptx,
    MachineCode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    kind: Kind,
    architecture: u32,
}

/// What a fatbin holds: a header of 16 bytes, then entries that each tell their kind (u16), the size of their own header
/// (u32 at 4) and of their content (u64 at 8), and the architecture (u32 at 28).
fn entries(image: &[u8]) -> Vec<Entry> {
    let u16_at = |at: usize| u16::from_le_bytes(image[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize;
    assert_eq!(u32_at(0), 0xba55_ed50, "not a fatbin");
    let end = usize::from(u16_at(6)) + u64_at(8);
    assert_eq!(end, image.len());
    let mut at = usize::from(u16_at(6));
    let mut found = Vec::new();
    while at < end {
        let kind = match u16_at(at) {
            1 => Kind::Ptx,
            2 => Kind::MachineCode,
            other => panic!("an entry of kind {other}"),
        };
        found.push(Entry { kind, architecture: u32_at(at + 28) });
        at += u32_at(at + 4) as usize + u64_at(at + 8);
    }
    found
}
