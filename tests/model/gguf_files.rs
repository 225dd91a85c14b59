//! GGUF files whose metadata were changed byte by byte.

use crate::edit::Expect::{self, Bad, Unsupported, Works};
use crate::edit::{assert_outcome, model_at};
use crate::golden::gguf;

/// A tiny model's file, to be changed in place.
struct Patch(Vec<u8>);

impl Patch {
    fn new(name: &str) -> Patch {
        Patch(std::fs::read(gguf(name)).unwrap())
    }

    /// Where `text` ends, which must be there once with its length in front.
    fn end_of(&self, text: &str) -> usize {
        let needle = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let mut places = self.0.windows(needle.len()).enumerate();
        let (at, _) = places.find(|(_, bytes)| *bytes == needle).expect(text);
        assert!(places.all(|(_, bytes)| bytes != needle), "{text} is there twice");
        at + needle.len()
    }

    /// The four bytes of a key's value.
    fn set(mut self, key: &str, value: [u8; 4]) -> Patch {
        let at = self.end_of(key) + 4; // behind the type
        self.0[at..at + 4].copy_from_slice(&value);
        self
    }

    fn set_u32(self, key: &str, value: u32) -> Patch {
        self.set(key, value.to_le_bytes())
    }

    fn set_f32(self, key: &str, value: f32) -> Patch {
        self.set(key, value.to_le_bytes())
    }

    /// Another name of the same length for a key, a tensor or a string.
    fn rename(mut self, from: &str, to: &str) -> Patch {
        assert_eq!(from.len(), to.len());
        let end = self.end_of(from);
        self.0[end - to.len()..end].copy_from_slice(to.as_bytes());
        self
    }

    fn check(self, case: &str, expected: Expect) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, self.0).unwrap();
        assert_outcome(case, expected, model_at(&path));
    }
}

#[test]
fn numbers_that_contradict() {
    let llama = || Patch::new("llama");
    llama().check("unchanged", Works);
    for (key, value, expected) in [
        ("tokenizer.ggml.eos_token_id", 127, Works),
        ("tokenizer.ggml.eos_token_id", 128, Bad("eos_token_id is 128")),
        ("tokenizer.ggml.bos_token_id", u32::MAX, Bad("bos_token_id is 4294967295")),
        ("llama.block_count", u32::MAX, Bad("llama.block_count")),
        ("llama.block_count", 0, Bad("llama.block_count is 0")),
        ("llama.block_count", 2, Bad("blk.2.")),
        ("llama.attention.head_count", 0, Bad("head_count")),
        ("llama.attention.head_count_kv", 0, Bad("head_count_kv is 0")),
        ("llama.attention.head_count_kv", 3, Bad("head_count_kv is 3")),
        ("llama.attention.head_count_kv", 1, Bad("attn_k.weight")),
        ("llama.embedding_length", 65, Bad("")),
        ("llama.rope.dimension_count", 18, Bad("dimension_count is 18")),
        ("llama.rope.dimension_count", 7, Bad("dimension_count is 7")),
        ("llama.rope.dimension_count", 8, Works),
    ] {
        llama().set_u32(key, value).check(&format!("{key} = {value}"), expected);
    }
    let eps = "llama.attention.layer_norm_rms_epsilon";
    llama().set_f32(eps, f32::NAN).check("NaN", Bad(eps));
    llama().set_f32(eps, 0.0).check("0", Bad(eps));
}

#[test]
fn keys_and_tensors_that_are_not_understood() {
    let llama = || Patch::new("llama");
    llama()
        .rename("llama.rope.freq_base", "llama.rope.freq_bass")
        .check("unknown key", Unsupported("llama.rope.freq_bass"));
    llama()
        .rename("llama.embedding_length", "llama.embedding_lengte")
        .check("missing key", Bad("llama.embedding_length is missing"));
    llama()
        .rename("blk.0.ffn_up.weight", "blk.0.ffn_op.weight")
        .check("a tensor", Bad("blk.0.ffn_up"));
    // A file without a head of its own uses the embedding; then this one belongs to nothing.
    llama().rename("output.weight", "outqut.weight").check("head", Bad("outqut.weight"));
    Patch::new("llama-tied-bias")
        .rename("blk.1.attn_q.bias", "blk.1.attn_q.dias")
        .check("bias", Bad("blk.1.attn_q.bias\" is missing"));
    // Without layer 0's bias the file has none, and the others are left over.
    Patch::new("llama-tied-bias")
        .rename("blk.0.attn_q.bias", "blk.0.attn_q.dias")
        .check("bias", Bad("bias"));
}

#[test]
fn rope_scalings() {
    let yarn = || Patch::new("llama-yarn");
    yarn().rename("yarn", "yorn").check("unknown", Unsupported("yorn"));
    yarn().set_f32("llama.rope.scaling.factor", -2.0).check("below 0", Bad("factor is -2"));
    yarn()
        .set_u32("llama.rope.scaling.original_context_length", 0)
        .check("no context", Bad("original_context_length"));
    let llama3 = || Patch::new("llama3-rope");
    llama3()
        .rename("rope_freqs.weight", "rope_fregs.weight")
        .check("misspelt", Bad("rope_fregs.weight"));
    Patch::new("phi3-longrope")
        .rename("rope_factors_long.weight", "rope_factors_lang.weight")
        .check("half of it", Unsupported("rope"));
}
