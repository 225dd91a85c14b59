//! Sequences that share their beginnings: the same bits as each of them alone.

use super::attention_rig::{Bench, Branch, TYPES, heads, op};
use super::{Config, close, configs, same_bits};
use crate::backend::cpu::dispatch::Kernels;
use crate::backend::ops::AttendOp;
use crate::dtype::KvType;
use std::io::Write;
use std::ops::Range;

fn fork(parent: usize, at: usize, n: usize) -> Branch {
    Branch { parent, at, n }
}

/// The given rows all at once, against the same rows sequence by sequence, and against the twin.
fn check(
    config: Config,
    op: AttendOp,
    types: (KvType, KvType),
    forest: &[Branch],
    parts: &[(usize, Range<usize>)],
) {
    for (run, seed) in [(5000, 2), (5000, 3), (37, 4)] {
        let mut bench = Bench::forest(config, op, types, (forest, run, seed), 120);
        let together = bench.run(parts);
        let mut next = together.iter();
        for (i, range) in parts {
            let alone = bench.run(&[(*i, range.clone())]);
            for (position, alone) in range.clone().zip(&alone) {
                let what = format!(
                    "{} {} threads, {op:?}, {position} of sequence {i}, runs of {run}",
                    config.kernels.name, config.n_threads
                );
                same_bits(next.next().unwrap(), alone, &what);
                if position + 1 == range.end && run == 5000 {
                    close(alone, &bench.sequences[*i].expected(&op, position), 2e-5, &what);
                }
            }
        }
    }
}

/// The last rows of all sequences, in an order that keeps relatives apart.
fn last_rows(forest: &[Branch], n_rows: &[usize]) -> Vec<(usize, Range<usize>)> {
    let n_rows = n_rows.iter().cycle();
    let mut parts: Vec<_> = forest
        .iter()
        .zip(n_rows)
        .enumerate()
        .map(|(i, (branch, &n))| (i, branch.n - n.min(branch.n - branch.at)..branch.n))
        .collect();
    let odd: Vec<_> = parts.iter().skip(1).step_by(2).cloned().collect();
    parts = parts.into_iter().step_by(2).collect();
    parts.extend(odd);
    parts
}

#[test]
fn shared_lengths_around_the_borders_of_splits() {
    for config in configs(false) {
        for (i, at) in [1, 255, 256, 257, 511, 512, 513].into_iter().enumerate() {
            let forest =
                [Branch::root(600), fork(0, at, at + 1), fork(0, at, at + 5), fork(0, at, 780)];
            let op = op(heads(3, 1, 16), None, None);
            check(config, op, TYPES[i % 4], &forest, &last_rows(&forest, &[1]));
        }
    }
}

/// Forks of forks, and a stranger.
const FOREST: [Branch; 9] = [
    Branch { parent: 0, at: 0, n: 600 },
    Branch { parent: 0, at: 520, n: 900 },
    Branch { parent: 1, at: 800, n: 801 },
    Branch { parent: 1, at: 768, n: 772 },
    Branch { parent: 0, at: 0, n: 300 },
    Branch { parent: 0, at: 256, n: 290 },
    Branch { parent: 0, at: 255, n: 520 },
    Branch { parent: 3, at: 770, n: 1030 },
    Branch { parent: 0, at: 520, n: 521 },
];

#[test]
fn trees_of_forks_with_windows_and_caps() {
    for (n, config) in configs(false).into_iter().enumerate() {
        let windows = [None, Some(1), Some(200), Some(256), Some(300), Some(700)];
        // Every variant of the kernels has all windows, each with one number of threads.
        for (i, window) in windows.into_iter().enumerate().skip(n % 3).step_by(3) {
            let softcap = [None, Some(2.0)][i % 2];
            let heads = [heads(2, 2, 16), heads(4, 1, 12), heads(6, 2, 16)][i % 3];
            let op = op(heads, window, softcap);
            check(config, op, TYPES[i % 4], &FOREST, &last_rows(&FOREST, &[1]));
            check(config, op, TYPES[i % 4], &FOREST, &last_rows(&FOREST, &[1, 20, 3]));
        }
    }
}

/// More query heads a KV head than a tile holds.
#[test]
fn shared_by_wide_groups() {
    for config in configs(false) {
        let op = op(heads(40, 1, 8), None, None);
        check(config, op, TYPES[0], &FOREST, &last_rows(&FOREST, &[1, 4]));
    }
}

/// So few rows that the splits are shared by the threads, and tiles of several rows all the same.
#[test]
fn shared_in_waves() {
    let kernels = *Kernels::supported().last().unwrap();
    let mut forest = vec![Branch::root(1500)];
    forest.extend(
        [(1300, 1301), (1030, 1700), (1300, 1302), (1300, 1400)].map(|(at, n)| fork(0, at, n)),
    );
    for (n_threads, n_kv_heads) in [(8, 2), (5, 1), (4, 1), (3, 1)] {
        let config = Config { kernels, n_threads, exact: false };
        for window in [None, Some(900)] {
            let op = op(heads(2 * n_kv_heads, n_kv_heads, 16), window, None);
            check(config, op, TYPES[0], &forest, &last_rows(&forest, &[1]));
            check(config, op, TYPES[1], &forest[..2], &last_rows(&forest[..2], &[1, 3]));
        }
    }
}

/// Decode rows behind a shared prompt of 2,048 tokens. Prints median times of a layer's attention on one thread, with
/// the prompt's segments shared, and in turn with segments for each sequence that name the same slots:
/// `cargo test --release --lib shared_prompt -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn shared_prompt() {
    let kernels = *Kernels::supported().last().unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "heads | rows | together, ms | apart, ms | ratio").unwrap();
    for (n_heads, n_kv_heads, head_dim) in [(32, 8, 64), (32, 8, 128), (16, 16, 64), (9, 3, 64)] {
        for n_rows in [2, 4, 16, 32] {
            let config = Config { kernels, n_threads: 1, exact: false };
            let op = op(heads(n_heads, n_kv_heads, head_dim), None, None);
            let mut forest = vec![Branch::root(2048)];
            forest.resize(n_rows + 1, fork(0, 2048, 2048 + 16));
            let types = (KvType::BF16, KvType::BF16);
            let mut bench = Bench::forest(config, op, types, (&forest, 4096, 2), n_rows);
            let parts: Vec<_> = (1..=n_rows).map(|i| (i, 2063..2064)).collect();
            let shared = bench.last.clone();
            let apart: Vec<u32> = shared.iter().map(|&last| bench.copy_chain(last)).collect();
            let mut elsewhere = vec![1_u64; 8 << 20];
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..31 {
                for (last, times) in [&shared, &apart].into_iter().zip(&mut times) {
                    bench.last.clone_from(last);
                    // As in a model of many layers, K and V of this one are in no cache.
                    elsewhere.iter_mut().for_each(|value| *value += 1);
                    let begin = thread_seconds();
                    bench.run(&parts);
                    times.push(thread_seconds() - begin);
                }
            }
            let [together, apart] = times.map(|mut times| {
                times.sort_by(f64::total_cmp);
                1e3 * times[times.len() / 2]
            });
            let ratio = apart / together;
            let what = format!("{n_heads}/{n_kv_heads} of {head_dim}");
            writeln!(out, "{what} | {n_rows} | {together:.2} | {apart:.2} | {ratio:.2}").unwrap();
        }
    }
}

/// Seconds that this thread has run: others may have the processor meanwhile.
fn thread_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the address is that of a timespec.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
