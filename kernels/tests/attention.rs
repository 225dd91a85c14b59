//! Attention over the KV repo against f64 arithmetic: ragged batches of decode and prefill rows, forks, scattered
//! slots, windows, every kind of K and V, shared prefixes together and apart.
#![cfg(feature = "standin")]

mod attention_cases;
mod common;

use attention_cases::{Case, Repo, Rows};
use common::{Device, Random, assert_close, for_policies};
use larder_kernels::attention::{Attend, Limits, Planner, Shape, Sharing, attend, partial_bytes};
use larder_kernels::kv::KvKind;

const TOTAL_TOKENS: u32 = 700;
/// Prefixes are taken together whenever they are shared, or never.
const TOGETHER: Sharing = Sharing { min_tokens: 1, min_saved_tokens: 1 };
const APART: Sharing = Sharing { min_tokens: u32::MAX, min_saved_tokens: u64::MAX };

/// Runs the case and compares every row; rows without a sequence must be zero.
fn check(device: &Device, case: &Case, rows: &Rows, sharing: Sharing) {
    let limits = Limits {
        n_multiprocessors: device.kernels.info().n_multiprocessors,
        max_rows: 200,
        max_sequences: 16,
        total_tokens: TOTAL_TOKENS,
        max_sequence_tokens: 400,
    };
    let shape = case.shape;
    let repo = Repo::random(case, TOTAL_TOKENS as usize + 1, 11);
    let width = (shape.n_heads * shape.head_dim) as usize;
    let mut q = Random::new(12).values(rows.n_rows as usize * width);
    q.iter_mut().for_each(|q| *q *= case.q_size);
    // A shape in front, so that the index counts.
    let other = Shape { n_heads: 1, n_kv_heads: 1, head_dim: 8, window: None };
    let mut planner = Planner::new(&[other, shape], &limits);
    planner.set_sharing(sharing);
    let mut image = vec![0xff; Planner::table_bytes(&[other, shape], &limits) as usize];
    let planned = planner.plan(rows, &mut image).unwrap();
    let tables = device.upload(&image[..planned.bytes as usize]);
    let (in_place, kv) = (device.upload(&q), device.upload(&repo.bytes));
    let partials = device.output::<u8>(partial_bytes(&shape, &limits) as usize);
    let mut kv_rows = repo.layout;
    kv_rows.base = kv.address();
    let run = Attend {
        q: in_place.address(),
        kv: kv_rows,
        tables: tables.address(),
        shape_index: 1,
        shape,
        partials: partials.address(),
        scale: case.scale(),
        softcap: case.softcap,
    };
    // SAFETY: all buffers have the sizes that the planner tells, and live until the download.
    unsafe { attend(&device.kernels, &device.stream, &run, &limits) }.unwrap();
    let actual = device.download(&in_place);
    device.download(&partials);
    let expected = case.expected(rows, &repo, &q);
    assert_close(&actual, &expected, case.tolerance());
}

fn shape(n_heads: u32, n_kv_heads: u32, head_dim: u32, window: Option<u32>) -> Shape {
    Shape { n_heads, n_kv_heads, head_dim, window }
}

fn case(shape: Shape, k: KvKind, v: KvKind) -> Case {
    Case { shape, k, v, softcap: None, q_size: 1.0 }
}

/// One token, and around the edges of a tile of 64.
const LENGTHS: [u32; 6] = [1, 63, 64, 65, 128, 200];

#[test]
fn decode_rows_of_every_kind() {
    use KvKind::{BF16, F16, F32, Fp8, Int8};
    let cases = [
        case(shape(4, 1, 64, None), BF16, BF16),
        case(shape(6, 6, 16, None), F16, F16),
        case(shape(6, 1, 80, None), F16, BF16),
        case(shape(8, 2, 128, None), BF16, F16),
        case(shape(2, 1, 256, None), F16, F16),
        case(shape(4, 2, 32, None), F32, F32),
        case(shape(3, 1, 72, None), F32, BF16),
        case(shape(4, 1, 64, None), Int8, Int8),
        case(shape(4, 2, 128, None), Fp8, Fp8),
        case(shape(2, 2, 48, None), Int8, F16),
    ];
    for_policies(|device| {
        for (i, case) in cases.iter().enumerate() {
            let mut rows = Rows::scattered(TOTAL_TOKENS, i as u64);
            for n_tokens in LENGTHS {
                rows.add(n_tokens, 1);
            }
            check(device, case, &rows.with_padding(2), APART);
        }
    });
}

#[test]
fn prefill_rows_of_every_kind() {
    use KvKind::{BF16, F16, F32, Fp8, Int8};
    let cases = [
        case(shape(4, 1, 64, None), BF16, BF16),
        case(shape(2, 2, 16, None), F16, F16),
        case(shape(6, 1, 80, None), F16, BF16),
        case(shape(2, 1, 128, None), Fp8, Int8),
        case(shape(2, 1, 256, None), BF16, F16),
        case(shape(4, 2, 32, None), F32, F32),
    ];
    for_policies(|device| {
        for (i, case) in cases.iter().enumerate() {
            let mut rows = Rows::scattered(TOTAL_TOKENS, i as u64);
            // The whole prompt; the end of one; a decode row beside them; a chunk behind much.
            for (n_tokens, n) in [(65, 65), (130, 17), (100, 1), (150, 40)] {
                rows.add(n_tokens, n);
            }
            check(device, case, &rows.with_padding(1), APART);
        }
    });
}

#[test]
fn windows_and_caps() {
    let device = common::device();
    for window in [1, 5, 63, 64, 65, 400] {
        for kind in [KvKind::F16, KvKind::F32] {
            let shape = shape(4, 2, 32, Some(window));
            let case = Case { softcap: Some(0.8), q_size: 4.0, ..case(shape, kind, kind) };
            let mut rows = Rows::scattered(TOTAL_TOKENS, u64::from(window));
            for (n_tokens, n) in [(1, 1), (64, 1), (200, 1), (70, 70), (150, 20)] {
                rows.add(n_tokens, n);
            }
            check(&device, &case, &rows.with_padding(0), APART);
        }
    }
}

/// Scores so large that one token takes all, of either sign.
#[test]
fn large_scores() {
    let device = common::device();
    for kind in [KvKind::F32, KvKind::F16] {
        for q_size in [1e3, 3e4] {
            // The best token may be another one where scores are rounded: one token is nothing to mistake.
            let case = Case { q_size, ..case(shape(2, 1, 64, Some(1)), kind, kind) };
            let mut rows = Rows::scattered(TOTAL_TOKENS, 5);
            rows.add(100, 1);
            rows.add(90, 80);
            check(&device, &case, &rows.with_padding(0), APART);
        }
    }
    let case = Case { q_size: 1e3, ..case(shape(2, 1, 64, None), KvKind::F32, KvKind::F32) };
    let mut rows = Rows::scattered(TOTAL_TOKENS, 6);
    rows.add(150, 3);
    check(&device, &case, &rows.with_padding(0), APART);
}

/// Forks of forks, prefixes taken together and apart.
#[test]
fn shared_prefixes() {
    let shapes = [shape(4, 1, 64, None), shape(8, 2, 32, None), shape(2, 2, 64, Some(70))];
    for_policies(|device| {
        for (shape, kind) in shapes.into_iter().zip([KvKind::BF16, KvKind::F16, KvKind::F16]) {
            for sharing in [TOGETHER, APART] {
                let mut rows = Rows::scattered(TOTAL_TOKENS, 9);
                let trunk = rows.chain(130);
                let branch = rows.fork(trunk, 67);
                for (parent, more, n) in [
                    (trunk, 1, 1),
                    (branch, 2, 1),
                    (branch, 66, 3),
                    (trunk, 40, 40),
                    (branch, 1, 1),
                ] {
                    rows.add_behind(parent, more, n);
                }
                rows.add(33, 1);
                check(device, &case(shape, kind, kind), &rows.with_padding(1), sharing);
            }
        }
    });
}

/// Decode rows behind a prefix around the edges of a tile of 64, of every kind; caps and windows that end in it.
#[test]
fn shared_prefixes_of_every_length_and_kind() {
    use KvKind::{BF16, F16, F32, Fp8, Int8};
    let cases = [
        (1, case(shape(4, 1, 64, None), BF16, BF16)),
        (63, case(shape(6, 6, 16, None), F16, F16)),
        (64, Case { softcap: Some(0.8), ..case(shape(6, 1, 80, None), F16, BF16) }),
        (65, case(shape(4, 2, 32, Some(66)), F32, F32)),
        (127, case(shape(4, 1, 64, None), Int8, Int8)),
        (128, case(shape(4, 2, 128, None), Fp8, F16)),
        (129, case(shape(2, 1, 256, Some(131)), BF16, BF16)),
        (200, case(shape(40, 2, 16, None), F16, F16)),
    ];
    for_policies(|device| {
        for (i, (n_shared, case)) in cases.iter().enumerate() {
            let mut rows = Rows::scattered(TOTAL_TOKENS, i as u64);
            let prefix = rows.chain(*n_shared);
            for more in [1, 1, 2, 64, 3] {
                rows.add_behind(prefix, more, 1);
            }
            check(device, case, &rows.with_padding(1), TOGETHER);
        }
    });
}

/// More rows behind a prefix than a tile has, prompts and decode rows mixed, and a sequence that ends where others
/// go on.
#[test]
fn many_rows_share_a_prefix() {
    for_policies(|device| {
        for (shape, kind) in
            [(shape(8, 1, 64, None), KvKind::BF16), (shape(3, 1, 32, None), KvKind::F32)]
        {
            let mut rows = Rows::scattered(TOTAL_TOKENS, 21);
            let trunk = rows.chain(140);
            let end = rows.add_behind(trunk, 3, 1);
            for (more, n) in [(1, 1), (30, 30), (5, 5), (1, 1), (20, 2), (1, 1), (9, 9), (2, 1)] {
                rows.add_behind(trunk, more, n);
            }
            rows.add_behind(end, 4, 2);
            rows.add_behind(end, 1, 1);
            check(device, &case(shape, kind, kind), &rows.with_padding(1), TOGETHER);
        }
    });
}

/// No rows but padding.
#[test]
fn only_padding() {
    let device = common::device();
    let case = case(shape(4, 2, 64, None), KvKind::BF16, KvKind::BF16);
    let rows = Rows::scattered(TOTAL_TOKENS, 1).with_padding(4);
    check(&device, &case, &rows, APART);
}
