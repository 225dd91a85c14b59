use super::attention_rig::{Bench, TYPES, fill, heads, op};
use super::{Config, configs, one_layer, same_bits};
use crate::backend::ops::AttendOp;
use crate::dtype::KvType;

/// Rows at the end of a sequence of `n` tokens, and a whole short prompt, against the twin.
fn check(config: Config, op: AttendOp, types: (KvType, KvType), n: usize, run: usize) {
    let mut bench = Bench::new(config, op, types, (&[n, 20.min(n)], run, 7), 40);
    for parts in [vec![(0, n - 1..n)], vec![(0, n.saturating_sub(17)..n), (1, 0..20.min(n))]] {
        let actual = bench.run(&parts);
        let positions = parts.iter().flat_map(|(i, range)| range.clone().map(move |p| (*i, p)));
        for (row, (i, position)) in actual.iter().zip(positions) {
            let expected = bench.sequences[i].expected(&op, position);
            let what = format!("{} {op:?} {types:?} {position} of {n}", config.kernels.name);
            super::close(row, &expected, 2e-5, &what);
        }
    }
}

#[test]
fn every_shape_and_type() {
    for config in configs(false) {
        for (i, head_dim) in [32, 64, 80, 128, 256, 12].into_iter().enumerate() {
            let group = [1, 3, 4][i % 3];
            let op = op(heads(2 * group, 2, head_dim), None, None);
            check(config, op, TYPES[i % 4], 40, 5);
        }
    }
}

#[test]
fn lengths_around_the_borders_of_splits() {
    for config in configs(false) {
        for (i, n) in [1, 2, 255, 256, 257, 511, 513, 770].into_iter().enumerate() {
            check(config, op(heads(3, 1, 32), None, None), TYPES[i % 4], n, [1, 300, 13][i % 3]);
        }
    }
}

#[test]
fn windows_and_caps() {
    for config in configs(false) {
        for (i, window) in [1, 2, 16, 255, 256, 257, 600].into_iter().enumerate() {
            let softcap = [None, Some(2.0)][i % 2];
            check(config, op(heads(4, 2, 32), Some(window), softcap), TYPES[i % 4], 530, 40);
        }
        check(config, op(heads(6, 1, 64), None, Some(5.0)), TYPES[0], 300, 300);
    }
}

/// More query heads a KV head than a tile holds.
#[test]
fn wide_groups() {
    for config in configs(false) {
        check(config, op(heads(40, 1, 32), None, None), TYPES[0], 270, 9);
    }
}

#[test]
fn bits_depend_on_the_row_alone() {
    const N: usize = 530;
    for window in [None, Some(200)] {
        let op = op(heads(6, 2, 64), window, None);
        for config in configs(false).into_iter().filter(|config| config.n_threads == 1) {
            let reference =
                Bench::new(config, op, TYPES[0], (&[N, 90], 1000, 1), N + 90).run(&[(0, 0..N)]);
            for (n_threads, run) in [(1, 11), (2, 1000), (3, 1)] {
                let config = Config { n_threads, ..config };
                let mut bench = Bench::new(config, op, TYPES[0], (&[N, 90], run, 5), N + 90);
                let whole = bench.run(&[(1, 30..90), (0, 0..N)]);
                let what = format!("{} {n_threads} threads", config.kernels.name);
                for (row, expected) in whole[60..].iter().zip(&reference) {
                    same_bits(row, expected, &what);
                }
                for chunk in [1, 7, 48] {
                    for first in (0..N).step_by(if chunk == 1 { 37 } else { chunk }) {
                        let end = N.min(first + chunk);
                        let rows = bench.run(&[(0, first..end)]);
                        for (row, expected) in rows.iter().zip(&reference[first..end]) {
                            same_bits(row, expected, &format!("{what}, chunks of {chunk}"));
                        }
                    }
                }
            }
        }
    }
}

/// More splits than a wave holds.
#[test]
fn waves() {
    for config in configs(false).into_iter().filter(|config| config.kernels.name != "portable") {
        let op = op(heads(2, 1, 16), None, None);
        const N: usize = 256 * 13 + 5;
        let mut bench = Bench::new(config, op, TYPES[0], (&[N], 500, 3), 2);
        for row in bench.run(&[(0, N - 1..N)]) {
            super::close(&row, &bench.sequences[0].expected(&op, N - 1), 2e-5, "long");
        }
    }
}

/// A row's output does not notice what slots behind it hold.
#[test]
fn later_slots_do_not_leak() {
    for config in configs(false) {
        let op = op(heads(2, 1, 32), Some(20), None);
        let mut bench = Bench::new(config, op, TYPES[1], (&[100], 100, 3), 100);
        let clean = bench.run(&[(0, 0..60)]);
        let n = bench.sequences[0].n;
        for position in 60..n {
            bench.sequences[0].k[position * 32..(position + 1) * 32].fill(f32::NAN);
            bench.sequences[0].v[position * 32..(position + 1) * 32].fill(f32::NAN);
        }
        let layout = one_layer(op.heads, TYPES[1].0, TYPES[1].1, 3 * n as u64 + 64);
        fill(&mut bench.rig, &layout, &bench.segments, bench.last[0], &bench.sequences[0]);
        let poisoned = bench.run(&[(0, 0..100)]);
        for (clean, poisoned) in clean.iter().zip(&poisoned) {
            same_bits(clean, poisoned, "before the NaN");
        }
        assert!(poisoned[60].iter().all(|value| value.is_nan()));
    }
}
