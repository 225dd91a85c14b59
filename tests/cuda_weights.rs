//! Every type of weights on the stand-in for a CUDA device, against the CPU on the same file: a model of one layer whose
//! matrices are the blocks of the fixtures, in rows long enough for all of them.
#![cfg(feature = "cuda-standin")]

mod cuda_common;
mod format_support;

use std::path::Path;

use cuda_common::{append, options};
use format_support::{Folder, Gguf, text, u32_value, value};
use half::{bf16, f16};
use larder::dtype::{DType, KvType};
use larder::engine::Engine;
use larder::options::{Device, Options};
use larder_kernels::standin::World;

const HIDDEN: usize = 256;
const VOCABULARY: usize = 96;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;

/// Of the CPU's logits, with activations in bf16; Q8_0 in place of types without kernels of their own costs more.
const TOLERANCE: f64 = 1e-2;

/// The number of a type in GGUF.
fn number(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 30,
        DType::Q4_0 => 2,
        DType::Q4_1 => 3,
        DType::Q5_0 => 6,
        DType::Q5_1 => 7,
        DType::Q8_0 => 8,
        DType::Q2_K => 10,
        DType::Q3_K => 11,
        DType::Q4_K => 12,
        DType::Q5_K => 13,
        DType::Q6_K => 14,
        DType::IQ4_NL => 20,
        DType::IQ4_XS => 23,
        DType::MXFP4 => 39,
    }
}

/// A simple generator of numbers between -1 and 1 (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next_bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn next(&mut self) -> f32 {
        (self.next_bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// `n` blocks of a type: plain numbers, or blocks of the fixtures' modest rows in random order.
fn blocks(dtype: DType, n: usize, numbers: &mut Numbers) -> Vec<u8> {
    let plain = |numbers: &mut Numbers| 0.1 * numbers.next();
    match dtype {
        DType::F32 => (0..n).flat_map(|_| plain(numbers).to_le_bytes()).collect(),
        DType::F16 => (0..n).flat_map(|_| f16::from_f32(plain(numbers)).to_le_bytes()).collect(),
        DType::BF16 => (0..n).flat_map(|_| bf16::from_f32(plain(numbers)).to_le_bytes()).collect(),
        _ => {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/blocks");
            let fixture = std::fs::read(folder.join(format!("{dtype:?}.bin"))).unwrap();
            let modest = &fixture[..fixture.len() * 6 / 8];
            let known: Vec<&[u8]> = modest.chunks_exact(dtype.block_bytes()).collect();
            let any = |_| known[numbers.next_bits() as usize % known.len()];
            (0..n).flat_map(any).copied().collect()
        }
    }
}

/// A model of one layer with `n_wide` columns between; `dtype_of` says how each matrix is stored.
fn model(folder: &Folder, n_wide: usize, dtype_of: impl Fn(&str) -> DType) -> std::path::PathBuf {
    let mut numbers = Numbers(88172645463325252);
    let f32_value = |number: f32| value(6, &number.to_le_bytes());
    let key = |name: &str| format!("llama.{name}");
    let mut gguf = Gguf::empty()
        .pair("general.architecture", &text("llama"))
        .pair("tokenizer.ggml.model", &text("none"))
        .pair(&key("context_length"), &u32_value(256))
        .pair(&key("embedding_length"), &u32_value(HIDDEN as u32))
        .pair(&key("block_count"), &u32_value(1))
        .pair(&key("feed_forward_length"), &u32_value(n_wide as u32))
        .pair(&key("attention.head_count"), &u32_value(HEADS as u32))
        .pair(&key("attention.head_count_kv"), &u32_value(KV_HEADS as u32))
        .pair(&key("attention.layer_norm_rms_epsilon"), &f32_value(1e-6))
        .pair(&key("vocab_size"), &u32_value(VOCABULARY as u32))
        .pair(&key("rope.dimension_count"), &u32_value(HEAD_DIM as u32))
        .pair(&key("rope.freq_base"), &f32_value(10000.0));
    let mut data = Vec::new();
    for (name, n_out, n_in) in [
        ("token_embd", VOCABULARY, HIDDEN),
        ("output", VOCABULARY, HIDDEN),
        ("blk.0.attn_q", HEADS * HEAD_DIM, HIDDEN),
        ("blk.0.attn_k", KV_HEADS * HEAD_DIM, HIDDEN),
        ("blk.0.attn_v", KV_HEADS * HEAD_DIM, HIDDEN),
        ("blk.0.attn_output", HIDDEN, HEADS * HEAD_DIM),
        ("blk.0.ffn_gate", n_wide, HIDDEN),
        ("blk.0.ffn_up", n_wide, HIDDEN),
        ("blk.0.ffn_down", HIDDEN, n_wide),
    ] {
        let dtype = dtype_of(name);
        let dimensions = [n_in as u64, n_out as u64];
        let offset = data.len() as u64;
        gguf = gguf.tensor(&format!("{name}.weight"), &dimensions, number(dtype), offset);
        data.extend(blocks(dtype, n_out * n_in / dtype.block_len(), &mut numbers));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        let offset = data.len() as u64;
        gguf = gguf.tensor(&format!("{name}.weight"), &[HIDDEN as u64], 0, offset);
        data.extend((0..HIDDEN).flat_map(|_| (1.0 + 0.2 * numbers.next()).to_le_bytes()));
    }
    folder.write("model.gguf", &gguf.data(data).bytes())
}

/// Logits of a prompt in three cuts, for each kind of product: one row, some, and more than 64.
fn logits(path: &Path, device: Device, many: u32) -> Vec<Vec<f32>> {
    let options = Options {
        device,
        exact_activations: true,
        max_sequence_tokens: 100,
        max_sequences: 1,
        ..options(KvType::F32)
    };
    let mut engine = Engine::create(path, &options).unwrap();
    let sequence = engine.sequence_open().unwrap();
    let token = |i: u32| (7 * i + 3) % VOCABULARY as u32;
    let mut rows = Vec::new();
    let mut first = 0;
    for n in [1, 3, 9, many] {
        let tokens: Vec<u32> = (first..first + n).map(token).collect();
        rows.extend(append(&mut engine, sequence, &tokens));
        first += n;
    }
    rows
}

fn check(what: &str, path: &Path, many: u32, tolerance: f64) {
    let cpu = logits(path, Device::Cpu, many);
    let _world = World::new();
    let cuda = logits(path, Device::Cuda { index: 0 }, many);
    assert_eq!(cpu.len(), cuda.len());
    for (row, (ours, theirs)) in cuda.iter().zip(&cpu).enumerate() {
        let square = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
        };
        let difference = square(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
        let error = difference / square(&mut theirs.iter().copied());
        assert!(error <= tolerance, "{what}: row {row} has relative error {error}");
    }
}

fn check_type(dtype: DType, tolerance: f64) {
    let folder = Folder::empty();
    // Embedding and head are wide enough to be compared with less noise than weights of few bits have.
    check(&format!("{dtype:?}"), &model(&folder, 512, |_| dtype), 66, tolerance);
}

macro_rules! types {
    ($($test:ident: $dtype:ident $tolerance:expr,)*) => {
        $(#[test]
        fn $test() {
            check_type(DType::$dtype, $tolerance);
        })*

        #[test]
        fn no_type_is_forgotten() {
            assert_eq!([$(DType::$dtype),*].len(), DType::ALL.len());
        }
    };
}

types! {
    f32_weights: F32 1e-5,
    f16_weights: F16 TOLERANCE,
    bf16_weights: BF16 TOLERANCE,
    q4_0: Q4_0 TOLERANCE,
    q4_1: Q4_1 2e-2,
    q5_0: Q5_0 TOLERANCE,
    q5_1: Q5_1 2e-2,
    q8_0: Q8_0 TOLERANCE,
    q2_k: Q2_K 2e-2,
    q3_k: Q3_K 2e-2,
    q4_k: Q4_K TOLERANCE,
    q5_k: Q5_K 2e-2,
    q6_k: Q6_K TOLERANCE,
    iq4_nl: IQ4_NL TOLERANCE,
    iq4_xs: IQ4_XS 2e-2,
    mxfp4: MXFP4 TOLERANCE,
}

/// As quantisers mix them: K apart from q and V, gate apart from up, and down in another type than both.
#[test]
fn mixed_types_in_one_layer() {
    let folder = Folder::empty();
    let path = model(&folder, 512, |name| match name {
        "blk.0.attn_q" => DType::BF16,
        "blk.0.attn_k" => DType::Q4_K,
        "blk.0.attn_v" => DType::F16,
        "blk.0.ffn_gate" => DType::Q6_K,
        "blk.0.ffn_up" => DType::Q8_0,
        "blk.0.ffn_down" => DType::F16,
        "output" => DType::F32,
        _ => DType::Q4_0,
    });
    check("mixed", &path, 66, TOLERANCE);
}

/// Two tiles of columns when there are many rows.
#[test]
fn an_mlp_wider_than_a_tile() {
    for dtype in [DType::BF16, DType::Q4_K] {
        let folder = Folder::empty();
        check("wide", &model(&folder, 4096 + 256, |_| dtype), 66, TOLERANCE);
    }
}
