//! Every type of weights on the stand-in for a CUDA device, against the CPU on the same file: a model of one layer
//! whose matrices are the blocks of the fixtures, in rows long enough for all of them.
#![cfg(feature = "cuda-standin")]

mod cuda_common;
mod format_support;

use std::path::{Path, PathBuf};

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

/// Of the CPU's logits, where activations keep the precision of f32.
const EXACT_TOLERANCE: f64 = 5e-4;
/// With activations in bf16, or f16, where there are many rows.
const TOLERANCE: f64 = 1.5e-2;

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

/// `n` blocks of a type: plain numbers, or blocks of the fixtures' modest rows in random order, with their values.
fn blocks(dtype: DType, n: usize, numbers: &mut Numbers) -> (Vec<u8>, Vec<f32>) {
    if !dtype.is_quantised() {
        let values: Vec<f32> = (0..n).map(|_| 0.1 * numbers.next()).collect();
        let bytes = |value: &f32| match dtype {
            DType::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
            DType::BF16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        };
        return (values.iter().flat_map(bytes).collect(), values);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/blocks");
    let read = |extension| std::fs::read(folder.join(format!("{dtype:?}.{extension}"))).unwrap();
    let (known, values) = (read("bin"), read("f32"));
    let (n_bytes, n_values) = (dtype.block_bytes(), 4 * dtype.block_len());
    let n_modest = known.len() / n_bytes * 6 / 8;
    let (mut all, mut all_values) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let block = numbers.next_bits() as usize % n_modest;
        all.extend(&known[block * n_bytes..][..n_bytes]);
        let values = values[block * n_values..][..n_values].chunks_exact(4);
        all_values.extend(values.map(|value| f32::from_le_bytes(value.try_into().unwrap())));
    }
    (all, all_values)
}

/// Values in Q8_0: each block's largest becomes 127.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let block = |values: &[f32]| {
        let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let scale = f16::from_f32(largest / 127.0);
        let quant = |value: &f32| match scale.to_f32() {
            0.0 => 0,
            scale => (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8 as u8,
        };
        let mut bytes = scale.to_le_bytes().to_vec();
        bytes.extend(values.iter().map(quant));
        bytes
    };
    values.chunks_exact(32).flat_map(block).collect()
}

/// How a model's matrices come into its file.
#[derive(Clone, Copy, PartialEq)]
enum Stored {
    AsTheyAre,
    /// The same values, rounded to Q8_0.
    AsQ8,
}

/// A model of one layer with `n_wide` columns between; `dtype_of` says how each matrix is stored.
fn model(
    folder: &Folder,
    n_wide: usize,
    stored: Stored,
    dtype_of: impl Fn(&str) -> DType,
) -> PathBuf {
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
    let (mut data, mut size) = (Vec::new(), 0f32);
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
        let (bytes, values) = blocks(dtype, n_out * n_in / dtype.block_len(), &mut numbers);
        let squares = values.iter().map(|value| value * value).sum::<f32>();
        size = size.max((squares / values.len() as f32).sqrt());
        let (dtype, bytes) = match stored {
            Stored::AsTheyAre => (dtype, bytes),
            Stored::AsQ8 => (DType::Q8_0, q8_0(&values)),
        };
        gguf = gguf.tensor(&format!("{name}.weight"), &dimensions, number(dtype), offset);
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        let offset = data.len() as u64;
        gguf = gguf.tensor(&format!("{name}.weight"), &[HIDDEN as u64], 0, offset);
        // Rows on which weights of this size give numbers of about 1: nothing hangs on their last bits.
        let factor = 1.0 / (size * (HIDDEN as f32).sqrt());
        data.extend(
            (0..HIDDEN).flat_map(|_| (factor * (1.0 + 0.2 * numbers.next())).to_le_bytes()),
        );
    }
    let name = if stored == Stored::AsQ8 { "q8.gguf" } else { "model.gguf" };
    folder.write(name, &gguf.data(data).bytes())
}

/// Logits of a prompt in four cuts, so that every kind of product computes some.
fn logits(path: &Path, device: Device, exact_activations: bool) -> Vec<Vec<f32>> {
    let options = Options {
        device,
        exact_activations,
        max_sequence_tokens: 100,
        max_sequences: 1,
        ..options(KvType::F32)
    };
    let mut engine = Engine::create(path, &options).unwrap();
    let sequence = engine.sequence_open().unwrap();
    let token = |i: u32| (7 * i + 3) % VOCABULARY as u32;
    let (mut rows, mut first) = (Vec::new(), 0);
    for n in [1, 3, 9, 66] {
        let tokens: Vec<u32> = (first..first + n).map(token).collect();
        rows.extend(append(&mut engine, sequence, &tokens));
        first += n;
    }
    rows
}

/// The device on one file against the CPU on another (or the same): row by row where activations are exact; all rows
/// together where bf16 makes some worse than others.
fn check(what: &str, path: &Path, reference: &Path, exact_tolerance: f64) {
    let cpu = logits(reference, Device::Cpu, true);
    let _world = World::new();
    let exact = logits(path, Device::Cuda { index: 0 }, true);
    assert_eq!(cpu.len(), exact.len());
    for (row, (ours, theirs)) in exact.iter().zip(&cpu).enumerate() {
        let error = relative_error(ours, theirs);
        assert!(error <= exact_tolerance, "{what}: row {row} is {error} off");
    }
    let rounded = logits(path, Device::Cuda { index: 0 }, false);
    let error = relative_error(&rounded.concat(), &cpu.concat());
    assert!(error <= TOLERANCE, "{what} with rounded activations: {error}");
}

fn relative_error(ours: &[f32], theirs: &[f32]) -> f64 {
    let length = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
    };
    let difference = length(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
    difference / length(&mut theirs.iter().copied())
}

/// A type on which the device computes as it is, or that Q8_0 holds exactly.
fn check_type(dtype: DType) {
    let folder = Folder::empty();
    let path = model(&folder, 512, Stored::AsTheyAre, |_| dtype);
    check(&format!("{dtype:?}"), &path, &path, EXACT_TOLERANCE);
}

/// A type that is rounded to Q8_0. Blocks that it can hold exactly are not rounded here, but in the reference.
fn check_rounded(dtype: DType) {
    let folder = Folder::empty();
    let [path, rounded] =
        [Stored::AsTheyAre, Stored::AsQ8].map(|stored| model(&folder, 512, stored, |_| dtype));
    check(&format!("{dtype:?}"), &path, &rounded, 2e-2);
}

macro_rules! types {
    ($($test:ident: $check:ident $dtype:ident,)*) => {
        $(#[test]
        fn $test() {
            $check(DType::$dtype);
        })*

        #[test]
        fn no_type_is_forgotten() {
            assert_eq!([$(DType::$dtype),*].len(), DType::ALL.len());
        }
    };
}

types! {
    f32_weights: check_type F32,
    f16_weights: check_type F16,
    bf16_weights: check_type BF16,
    q4_0: check_type Q4_0,
    q4_1: check_rounded Q4_1,
    q5_0: check_type Q5_0,
    q5_1: check_rounded Q5_1,
    q8_0_weights: check_type Q8_0,
    q2_k: check_rounded Q2_K,
    q3_k: check_rounded Q3_K,
    q4_k: check_type Q4_K,
    q5_k: check_rounded Q5_K,
    q6_k: check_type Q6_K,
    iq4_nl: check_type IQ4_NL,
    iq4_xs: check_rounded IQ4_XS,
    mxfp4: check_type MXFP4,
}

/// As quantisers mix them: K apart from q and V, gate apart from up, and down in another type than both.
#[test]
fn mixed_types_in_one_layer() {
    let folder = Folder::empty();
    let path = model(&folder, 512, Stored::AsTheyAre, |name| match name {
        "blk.0.attn_q" => DType::BF16,
        "blk.0.attn_k" => DType::Q4_K,
        "blk.0.attn_v" => DType::F16,
        "blk.0.ffn_gate" => DType::Q6_K,
        "blk.0.ffn_up" => DType::Q8_0,
        "blk.0.ffn_down" => DType::F16,
        "output" => DType::F32,
        _ => DType::Q4_0,
    });
    check("mixed", &path, &path, EXACT_TOLERANCE);
}

/// Two tiles of columns when there are many rows.
#[test]
fn an_mlp_wider_than_a_tile() {
    for dtype in [DType::BF16, DType::Q4_K] {
        let folder = Folder::empty();
        let path = model(&folder, 4096 + 256, Stored::AsTheyAre, |_| dtype);
        check("wide", &path, &path, EXACT_TOLERANCE);
    }
}
