//! Known troubles of attention and of what it reads: windows that are one token off, and K with an outlier.

use std::collections::BTreeMap;
use std::path::Path;

use larder::dtype::KvType;
use larder::engine::{Engine, ForwardBatch, Pooling, WANT_LOGITS};
use larder::error::Error;
use larder::ids::TokenId;
use larder::options::Options;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Data type, shape, and bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);

fn write_model(config: &Value, tensors: &BTreeMap<String, Tensor>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

fn options(k_type: KvType, v_type: KvType) -> Options {
    Options {
        n_threads: 1,
        total_tokens: 600,
        max_sequences: 4,
        max_batch_rows: 128,
        max_logits_rows: 128,
        k_type,
        v_type,
        ..Options::default()
    }
}

/// The logits of every token, appended in chunks of `chunk`.
fn logits(engine: &mut Engine, tokens: &[TokenId], chunk: usize) -> Vec<Vec<f32>> {
    let sequence = engine.sequence_open().unwrap();
    let n = engine.vocab_size() as usize;
    let mut rows = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let output = engine.forward(&ForwardBatch {
            n_rows: tokens.len() as u32,
            tokens: Some(tokens),
            embeddings: None,
            sequences: &vec![sequence; tokens.len()],
            wants: Some(&vec![WANT_LOGITS; tokens.len()]),
            pooling: Pooling::None,
            normalize: false,
        });
        rows.extend(output.unwrap().logits.chunks_exact(n).map(<[f32]>::to_vec));
    }
    engine.sequence_release(sequence).unwrap();
    rows
}

fn tokens(n: usize, seed: u64) -> Vec<TokenId> {
    let mut random = Random(seed);
    (0..n).map(|_| TokenId((random.unit() * 128.0) as u32)).collect()
}

/// splitmix64.
struct Random(u64);

impl Random {
    /// `0.0 .. 1.0`
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((value ^ (value >> 31)) >> 40) as f32 / (1 << 24) as f32
    }
}

/// One layer of the sliding-window model, so that a logit depends on nothing but what its own token sees.
fn one_layer(window: usize) -> TempDir {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/mistral-swa");
    let config = std::fs::read(source.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["num_hidden_layers"] = json!(1);
    config["sliding_window"] = json!(window);
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let is_kept = |name: &str| !name.contains("layers.") || name.contains("layers.0.");
    let tensors = file.tensors().into_iter().filter(|(name, _)| is_kept(name));
    let tensors = tensors
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())));
    write_model(&config, &tensors.collect())
}

/// Case K13: the token at p sees exactly those at p - 7 ..= p, however it was computed.
#[test]
fn k13_a_window_has_exactly_its_tokens() {
    let folder = one_layer(8);
    for k_type in [KvType::F32, KvType::BF16, KvType::F16] {
        let mut engine = Engine::create(folder.path(), &options(k_type, k_type)).unwrap();
        for n in [6, 7, 8, 9, 12, 20] {
            let tokens = tokens(n, 1);
            let whole = logits(&mut engine, &tokens, n);
            for chunk in [1, 2, 3, 6, 7, 8, 9] {
                assert_eq!(logits(&mut engine, &tokens, chunk), whole, "{n} in chunks of {chunk}");
            }
            for changed in 0..n {
                let mut others = tokens.clone();
                others[changed].0 = (others[changed].0 + 64) % 128;
                for chunk in [1, 3, n] {
                    let rows = logits(&mut engine, &others, chunk);
                    for p in 0..n {
                        let sees = (p.saturating_sub(7)..=p).contains(&changed);
                        assert_eq!(rows[p] != whole[p], sees, "{k_type:?}: {p} and {changed}");
                    }
                }
            }
        }
    }
}

const HIDDEN: usize = 128;
const HEAD: usize = 64;

/// A model of random weights with heads of 64 channels, two of them to one of K and V. One rotary pair of channels
/// of K is `outlier` times as large as the others, and that of Q as much smaller: in exact arithmetic nothing changes.
fn with_outlier(outlier: f32) -> TempDir {
    let mut random = Random(77);
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, shape: &[usize], scale: &dyn Fn(usize) -> f32| {
        let n_in = *shape.last().unwrap();
        let n: usize = shape.iter().product();
        let spread = if shape.len() == 1 { 0.0 } else { (12.0 / n_in as f32).sqrt() };
        let value = |i: usize| match shape.len() {
            1 => 1.0,
            _ => (random.unit() - 0.5) * spread * scale(i / n_in),
        };
        let bytes = (0..n).map(value).flat_map(f32::to_le_bytes).collect();
        tensors.insert(name, (Dtype::F32, shape.to_vec(), bytes));
    };
    let plain = |_: usize| 1.0;
    let is_outlier = |row: usize| matches!(row % HEAD, 5 | 37);
    let k_scale = |row: usize| if is_outlier(row) { 1.5 * outlier } else { 1.5 };
    let q_scale = |row: usize| if is_outlier(row) { 1.5 / outlier } else { 1.5 };
    add("model.embed_tokens.weight".into(), &[128, HIDDEN], &|_| 10.0);
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        add(name("input_layernorm"), &[HIDDEN], &plain);
        add(name("post_attention_layernorm"), &[HIDDEN], &plain);
        add(name("self_attn.q_proj"), &[2 * HEAD, HIDDEN], &q_scale);
        add(name("self_attn.k_proj"), &[HEAD, HIDDEN], &k_scale);
        add(name("self_attn.v_proj"), &[HEAD, HIDDEN], &plain);
        add(name("self_attn.o_proj"), &[HIDDEN, 2 * HEAD], &|_| 2.0);
        add(name("mlp.gate_proj"), &[HIDDEN, HIDDEN], &plain);
        add(name("mlp.up_proj"), &[HIDDEN, HIDDEN], &plain);
        add(name("mlp.down_proj"), &[HIDDEN, HIDDEN], &plain);
    }
    add("model.norm.weight".into(), &[HIDDEN], &plain);
    add("lm_head.weight".into(), &[128, HIDDEN], &|_| 3.0);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": HEAD,
        "num_hidden_layers": 2, "vocab_size": 128, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "torch_dtype": "float32",
    });
    write_model(&config, &tensors)
}

fn softmax(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = row.iter().map(|&logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// How far distributions are from a reference: the mean Kullback–Leibler divergence in nats, and the share of rows
/// with another most probable token.
fn distance(rows: &[Vec<f32>], reference: &[Vec<f32>]) -> (f64, f64) {
    let (mut divergence, mut n_other) = (0.0, 0);
    for (row, reference) in rows.iter().zip(reference) {
        let (p, q) = (softmax(reference), softmax(row));
        divergence += p.iter().zip(&q).map(|(p, q)| p * (p / q.max(1e-30)).ln()).sum::<f64>();
        n_other += usize::from(argmax(row) != argmax(reference));
    }
    (divergence / rows.len() as f64, n_other as f64 / rows.len() as f64)
}

/// 4 sequences of 128 tokens.
fn all_logits(folder: &Path, k_type: KvType, v_type: KvType) -> Result<Vec<Vec<f32>>, Error> {
    let mut engine = Engine::create(folder, &options(k_type, v_type))?;
    Ok((0..4).flat_map(|seed| logits(&mut engine, &tokens(128, seed), 128)).collect())
}

/// Case K17: an accuracy gate for each type of K and V that the CPU has; the others are refused by name.
#[test]
fn k17_every_type_on_k_with_an_outlier() {
    let plain = with_outlier(1.0);
    let plain = all_logits(plain.path(), KvType::F32, KvType::F32).unwrap();
    let folder = with_outlier(200.0);
    let reference = all_logits(folder.path(), KvType::F32, KvType::F32).unwrap();
    let (same, _) = distance(&reference, &plain);
    let (other, _) = distance(&reference[128..256], &reference[..128]);
    assert!(same < 1e-6 && other > 1.0, "{same} between equal models, {other} between prompts");
    for (kind, most, most_other) in [(KvType::F16, 1e-5, 0.005), (KvType::BF16, 2e-4, 0.02)] {
        for (k_type, v_type) in [(kind, kind), (kind, KvType::F32), (KvType::F32, kind)] {
            let rows = all_logits(folder.path(), k_type, v_type).unwrap();
            let (divergence, n_other) = distance(&rows, &reference);
            assert!(
                divergence < most && n_other < most_other,
                "K {k_type:?}, V {v_type:?}: {divergence} nats, {n_other} have another argmax"
            );
        }
    }
    for kind in [KvType::Int8, KvType::Fp8] {
        for (k_type, v_type) in [(kind, KvType::F32), (KvType::F32, kind)] {
            let error = all_logits(folder.path(), k_type, v_type).unwrap_err();
            let field = if k_type == kind { "k_type" } else { "v_type" };
            assert!(matches!(&error, Error::Unsupported(text) if text.contains(field)), "{error}");
        }
    }
}
