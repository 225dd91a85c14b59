//! The table of RoPE, and q that came raw out of a product, against f64 arithmetic.
#![cfg(feature = "standin")]

mod common;
mod twins;

use common::{Random, assert_close, for_policies};
use larder_kernels::kv::{KvKind, KvRows};
use larder_kernels::norm::{Norm, NormKind};
use larder_kernels::product::{QkvFinish, RopePairs};
use larder_kernels::rope;
use twins::{NormTwin, rotate};

#[test]
fn table() {
    for_policies(|device| {
        for (positions, n_pairs) in
            [(vec![0u32, 1, 2, 100_000, 131_071, 16_777_216], 3), (vec![5], 1), (vec![7; 40], 32)]
        {
            let frequency = |i: usize| 10_000f32.powf(-(i as f32) / n_pairs as f32);
            let frequencies: Vec<f32> = (0..n_pairs).map(frequency).collect();
            let magnitude = 1.25f32;
            let (positions_device, frequencies_device) =
                (device.upload(&positions), device.upload(&frequencies));
            let out = device.output::<f32>(positions.len() * n_pairs * 2);
            // SAFETY: the buffers have these sizes and live until the download.
            unsafe {
                rope::rope_table(
                    &device.kernels,
                    &device.stream,
                    positions_device.address(),
                    frequencies_device.address(),
                    magnitude,
                    out.address(),
                    positions.len() as u32,
                    n_pairs as u32,
                )
            }
            .unwrap();
            let angles = positions.iter().flat_map(|&position| {
                frequencies.iter().map(move |frequency| f64::from(position as f32 * frequency))
            });
            let expected: Vec<f64> = angles
                .flat_map(|angle| [angle.cos(), angle.sin()])
                .map(|value| value * f64::from(magnitude))
                .collect();
            assert_close(&device.download(&out), &expected, 3e-7);
        }
    });
}

#[test]
fn q_in_place() {
    for_policies(|device| {
        for (head_dim, rope_dim, pairs, kind, with_bias) in [
            (8, 8, RopePairs::Adjacent, NormKind::None, true),
            (16, 0, RopePairs::Halves, NormKind::Rms, false),
            (40, 40, RopePairs::Halves, NormKind::None, false),
            (64, 32, RopePairs::Halves, NormKind::Layer, true),
            (64, 32, RopePairs::Adjacent, NormKind::Rms, true),
            (128, 128, RopePairs::Halves, NormKind::Rms, false),
            (256, 64, RopePairs::Halves, NormKind::Layer, true),
        ] {
            let (n_rows, n_heads) = (2, 5);
            let mut random = Random::new(head_dim as u64);
            let values = random.values(n_rows * n_heads * head_dim);
            let bias = random.values(n_heads * head_dim);
            let twin = NormTwin {
                kind,
                weight: random.values(head_dim),
                bias: if with_bias { random.values(head_dim) } else { Vec::new() },
                eps: 1e-6,
            };
            let turns = random.values(n_rows * rope_dim);
            let (q, bias_device) = (device.upload(&values), device.upload(&bias));
            let (weight, norm_bias) = (device.upload(&twin.weight), device.upload(&twin.bias));
            let table = device.upload(&turns);
            let finish = QkvFinish {
                q: q.address(),
                rope_table: if rope_dim > 0 { table.address() } else { 0 },
                bias: [if with_bias { bias_device.address() } else { 0 }, 0, 0],
                q_norm: Norm {
                    weight: weight.address(),
                    bias: if with_bias { norm_bias.address() } else { 0 },
                    kind,
                    eps: twin.eps,
                },
                kv: KvRows::new(0, KvKind::F32, KvKind::F32, 1, head_dim as u32),
                n_heads: n_heads as u32,
                rope_dim: rope_dim as u32,
                rope_pairs: pairs,
                ..QkvFinish::default()
            };
            // SAFETY: the buffers have these sizes and live until the download.
            unsafe { rope::finish_q(&device.kernels, &device.stream, &finish, n_rows as u32) }
                .unwrap();
            let mut expected = Vec::new();
            for (i, head) in values.chunks(head_dim).enumerate() {
                let (row, own) = (i / n_heads, i % n_heads);
                let bias = |j: usize| if with_bias { bias[own * head_dim + j] } else { 0.0 };
                let biased: Vec<f64> = head
                    .iter()
                    .enumerate()
                    .map(|(j, &v)| f64::from(v) + f64::from(bias(j)))
                    .collect();
                let mut head = twin.of_f64(&biased);
                let turns: Vec<(f64, f64)> = turns[row * rope_dim..][..rope_dim]
                    .chunks(2)
                    .map(|turn| (turn[0].into(), turn[1].into()))
                    .collect();
                rotate(pairs, &turns, &mut head);
                expected.extend(head);
            }
            assert_close(&device.download(&q), &expected, 2e-6);
        }
    });
}
