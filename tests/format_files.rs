//! Valid files that other programs wrote: the tiny models, as safetensors and as GGUF.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use larder::dtype::DType;
use larder::format::{Checkpoint, Metadata, TensorInfo};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn open(path: &str) -> Checkpoint {
    Checkpoint::open(&data().join(path)).unwrap()
}

fn bytes(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Vec<u8> {
    let mut bytes = vec![0; tensor.bytes as usize];
    checkpoint.read(tensor, 0, &mut bytes).unwrap();
    bytes
}

fn tensor<'a>(checkpoint: &'a Checkpoint, name: &str) -> &'a TensorInfo {
    checkpoint.tensor(name).unwrap_or_else(|| panic!("{name} is there"))
}

/// The folders of the tiny models.
fn models() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data().join("models")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.join("model.safetensors").exists()).collect()
}

#[test]
fn safetensors_agree_with_the_safetensors_crate() {
    let models = models();
    assert!(models.len() > 7, "{models:?}");
    for folder in models {
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let file = std::fs::read(folder.join("model.safetensors")).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(checkpoint.tensors().count(), reference.len());
        for info in checkpoint.tensors() {
            let view = reference.tensor(&info.name).unwrap();
            let shape: Vec<u64> = view.shape().iter().map(|n| *n as u64).collect();
            assert_eq!((&info.shape, info.dtype), (&shape, DType::BF16), "{}", info.name);
            assert_eq!(bytes(&checkpoint, info), view.data(), "{}", info.name);
        }
        let Metadata::HuggingFace(files) = checkpoint.metadata() else { panic!("a folder") };
        assert_eq!(files.config.get_u32("hidden_size"), Ok(Some(64)));
        assert!(files.config.get_str("model_type").unwrap().is_some());
    }
}

/// The same matrices are in both files, byte for byte, where no convention changes them.
#[test]
fn gguf_agrees_with_safetensors() {
    for model in ["llama", "llama3-rope", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"] {
        let (gguf, folder) =
            (open(&format!("gguf/{model}.gguf")), open(&format!("models/{model}")));
        let pairs = BTreeMap::from([
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("blk.2.attn_output.weight", "model.layers.2.self_attn.o_proj.weight"),
            ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
        ]);
        for (ours, theirs) in pairs {
            let (a, b) = (tensor(&gguf, ours), tensor(&folder, theirs));
            assert_eq!((a.dtype, &a.shape), (b.dtype, &b.shape), "{model} {ours}");
            assert_eq!(bytes(&gguf, a), bytes(&folder, b), "{model} {ours}");
        }
        let Metadata::Gguf(metadata) = gguf.metadata() else { panic!("a GGUF file") };
        let arch = metadata.architecture().unwrap();
        assert!(model.starts_with(arch), "{model} {arch}");
        assert_eq!(metadata.get_u32(&format!("{arch}.block_count")), Ok(Some(3)));
        let eps = metadata.get_f32(&format!("{arch}.attention.layer_norm_rms_epsilon"));
        assert_eq!(eps, Ok(Some(1e-6)));
    }
}

#[test]
fn conventions_of_the_gguf_fixtures() {
    let gemma = open("gguf/gemma3.gguf");
    let norm = tensor(&gemma, "blk.0.attn_q_norm.weight");
    assert_eq!((norm.dtype, norm.shape.as_slice()), (DType::F32, &[32][..]));
    let Metadata::Gguf(metadata) = gemma.metadata() else { panic!("a GGUF file") };
    assert_eq!(metadata.get_u32("gemma3.attention.sliding_window"), Ok(Some(16)));
    assert_eq!(tensor(&open("gguf/llama3-rope.gguf"), "rope_freqs.weight").shape, [8]);
    assert_eq!(tensor(&open("gguf/phi3.gguf"), "blk.0.ffn_up.weight").shape, [192, 64]);
    let quantised = open("gguf/llama-q8_0.gguf");
    let down = tensor(&quantised, "blk.0.ffn_down.weight");
    assert_eq!((down.dtype, down.shape.as_slice(), down.bytes), (DType::Q8_0, &[64, 96][..], 6528));
}

#[test]
fn block_fixtures_are_whole() {
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantised()) {
        let blocks = data().join(format!("blocks/{dtype:?}.bin"));
        let row_bytes = dtype.row_bytes(512).unwrap();
        assert_eq!(std::fs::metadata(blocks).unwrap().len(), 8 * row_bytes, "{dtype:?}");
    }
}
