//! Descriptions that contradict themselves, their tensors, or that say what larder does not understand.

use crate::edit::Expect::{self, Bad, Unsupported, Works};
use crate::edit::{Edit, assert_outcome};
use crate::golden::{Runner, folder, golden, relative_error};
use crate::naive_backend::NaiveBackend;
use half::{bf16, f16};
use larder::backend::ops::Heads;
use larder::error::Error;
use larder::format::Checkpoint;
use larder::model::{Model, describe};
use safetensors::tensor::Dtype;

fn check(name: &str, cases: &[(&str, Expect)]) {
    for (patch, expected) in cases {
        let edit = Edit::new(&folder(name)).config(patch);
        assert_outcome(&format!("{name} {patch}"), *expected, edit.model());
    }
}

#[test]
fn token_ids_beyond_the_vocabulary() {
    check(
        "llama",
        &[
            (r#"{"eos_token_id": 127}"#, Works),
            (r#"{"eos_token_id": [2, 127]}"#, Works),
            (r#"{"eos_token_id": null}"#, Works),
            (r#"{"eos_token_id": "-"}"#, Works),
            (r#"{"eos_token_id": 128}"#, Bad("eos_token_id is 128")),
            (r#"{"eos_token_id": [2, 128]}"#, Bad("eos_token_id is 128")),
            (r#"{"eos_token_id": 4294967295}"#, Bad("eos_token_id")),
            (r#"{"eos_token_id": 4294967296}"#, Bad("eos_token_id")),
            (r#"{"bos_token_id": -1}"#, Bad("bos_token_id")),
            (r#"{"bos_token_id": 500}"#, Bad("bos_token_id is 500")),
        ],
    );
}

#[test]
fn keys_that_are_not_understood() {
    check(
        "llama",
        &[
            (r#"{"attention_temperature": 2.0}"#, Unsupported("attention_temperature")),
            (r#"{"attention_temperature": null}"#, Works),
            (r#"{"rope_interleaved": false}"#, Works),
            (r#"{"rope_interleaved": true}"#, Unsupported("rope_interleaved")),
            (r#"{"sliding_window": 8}"#, Unsupported("sliding_window")),
            (r#"{"sliding_window": null}"#, Works),
            (r#"{"hidden_act": "relu"}"#, Unsupported("relu")),
            (r#"{"hidden_act": "-"}"#, Bad("hidden_act is missing")),
            (r#"{"hidden_act": 3}"#, Bad("hidden_act")),
            (r#"{"rms_norm_eps": "-"}"#, Bad("rms_norm_eps is missing")),
            (r#"{"rms_norm_eps": -1}"#, Bad("rms_norm_eps")),
            (r#"{"quantization_config": {"quant_method": "awq"}}"#, Unsupported("awq")),
            (r#"{"model_type": "bloom"}"#, Unsupported("gemma3_text")),
            (r#"{"architectures": ["LlamaForSequenceClassification"]}"#, Unsupported("Sequence")),
            (r#"{"architectures": ["MistralForCausalLM"]}"#, Works),
            (r#"{"architectures": ["Qwen2ForCausalLM"]}"#, Unsupported("Qwen2")),
            (r#"{"model_type": "-"}"#, Works),
            (r#"{"model_type": "-", "architectures": "-"}"#, Bad("model_type")),
            (r#"{"num_hidden_layers": 4294967295}"#, Bad("num_hidden_layers")),
            (r#"{"num_hidden_layers": 0}"#, Bad("num_hidden_layers is 0")),
            (r#"{"num_hidden_layers": 4}"#, Bad("model.layers.3.")),
            (r#"{"num_hidden_layers": 2}"#, Bad("model.layers.2.")),
            (r#"{"hidden_size": 4294967295}"#, Bad("")),
            (r#"{"vocab_size": 4294967295}"#, Bad("model.embed_tokens.weight")),
            (r#"{"max_position_embeddings": 2147483648}"#, Works),
            (r#"{"max_position_embeddings": 0}"#, Bad("max_position_embeddings")),
        ],
    );
    check(
        "phi3",
        &[
            (r#"{"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": false}"#, Works),
            (r#"{"full_attn_mod": 2}"#, Unsupported("full_attn_mod")),
            (r#"{"lm_head_bias": true}"#, Unsupported("lm_head_bias")),
        ],
    );
    check(
        "gemma2",
        &[
            (r#"{"use_bidirectional_attention": true}"#, Unsupported("bidirectional")),
            (r#"{"attn_logit_softcapping": null}"#, Works),
            (r#"{"attn_logit_softcapping": "-"}"#, Bad("attn_logit_softcapping is missing")),
            (r#"{"query_pre_attn_scalar": "-"}"#, Bad("query_pre_attn_scalar is missing")),
            (r#"{"attention_bias": true}"#, Unsupported("attention_bias")),
        ],
    );
}

#[test]
fn head_sizes() {
    let heads = |patch: &str| {
        let spec = Edit::new(&folder("llama")).config(patch).describe().unwrap().spec;
        spec.layers[0].attention.heads
    };
    let expected = |n_kv_heads, head_dim| Heads { n_heads: 4, n_kv_heads, head_dim };
    assert_eq!(heads(r#"{"head_dim": "-"}"#), expected(2, 16));
    assert_eq!(heads(r#"{"head_dim": null}"#), expected(2, 16));
    assert_eq!(heads(r#"{"head_dim": 32}"#), expected(2, 32));
    assert_eq!(heads(r#"{"num_key_value_heads": "-"}"#), expected(4, 16));
    assert_eq!(heads(r#"{"num_key_value_heads": null}"#), expected(4, 16));
    assert_eq!(heads(r#"{"num_key_value_heads": 1}"#), expected(1, 16));
    check(
        "llama",
        &[
            (r#"{"head_dim": 32}"#, Bad("q_proj.weight\" has shape [64, 64], expected [128, 64]")),
            (r#"{"head_dim": 0}"#, Bad("head_dim is 0")),
            (r#"{"head_dim": 15}"#, Bad("head_dim")),
            (r#"{"num_key_value_heads": null}"#, Bad("k_proj.weight")),
            (r#"{"num_key_value_heads": 1}"#, Bad("k_proj.weight")),
            (r#"{"num_key_value_heads": 3}"#, Bad("num_key_value_heads is 3")),
            (r#"{"num_key_value_heads": 0}"#, Bad("num_key_value_heads is 0")),
            (r#"{"num_key_value_heads": 8}"#, Bad("num_key_value_heads is 8")),
            (r#"{"num_attention_heads": 0}"#, Bad("num_attention_heads is 0")),
            (r#"{"num_attention_heads": 6, "head_dim": "-"}"#, Bad("head_dim")),
        ],
    );
}

/// The values of the two differ, so the choice shows in the logits.
#[test]
fn tied_heads() {
    let untied = Edit::new(&folder("llama"));
    let with_head = golden("llama");
    let tokens = &with_head.tokens[0];
    for flag in ["true", "false", r#""-""#] {
        let patch = format!(r#"{{"tie_word_embeddings": {flag}}}"#);
        let own = Edit::new(&folder("llama")).config(&patch);
        let files = own.write();
        let logits = Runner::open(files.path(), 64).unwrap().append(tokens).unwrap();
        assert!(relative_error(&logits, &with_head.logits[..48]) < 1e-3, "{flag}");
        let without = own.remove("lm_head.weight");
        if flag != "true" {
            assert_outcome(flag, Bad("\"lm_head.weight\" is missing"), without.model());
            continue;
        }
        let decoder = without.model().unwrap().decoder;
        assert_eq!(decoder.head.weight, decoder.embedding.table);
    }
    // gemma's default is tied.
    check("gemma2", &[(r#"{"tie_word_embeddings": "-"}"#, Works)]);
    let patch = r#"{"tie_word_embeddings": false}"#;
    check("gemma2", &[(patch, Bad("lm_head.weight"))]);
    assert_ne!(
        untied.tensors["lm_head.weight"].bytes,
        untied.tensors["model.embed_tokens.weight"].bytes
    );
}

#[test]
fn every_tensor_is_needed_and_every_needed_one_is_there() {
    let layer = "model.layers.1.";
    let llama = || Edit::new(&folder("llama"));
    let biased = || Edit::new(&folder("llama-tied-bias"));
    let name = |part: &str| format!("{layer}{part}");
    let bias = name("self_attn.o_proj.bias");
    let cases = [
        ("bias without its flag", biased().config(r#"{"attention_bias": false}"#), Bad("bias")),
        ("flag without its bias", llama().config(r#"{"attention_bias": true}"#), Bad("proj.bias")),
        ("one bias gone", biased().remove(&bias), Bad("o_proj.bias\" is missing")),
        ("mlp bias gone", llama().config(r#"{"mlp_bias": true}"#), Bad("gate_proj.bias")),
        ("mlp bias left", llama().add(&name("mlp.down_proj.bias"), Dtype::F32, &[64]), Bad("bias")),
        (
            "q norm gone",
            Edit::new(&folder("qwen3")).remove(&name("self_attn.q_norm.weight")),
            Bad("q_norm"),
        ),
        (
            "q norm left",
            llama().add(&name("self_attn.q_norm.weight"), Dtype::F32, &[16]),
            Bad("q_norm"),
        ),
        (
            "qwen2 with an output bias",
            Edit::new(&folder("qwen2")).add(&bias, Dtype::F32, &[64]),
            Bad("o_proj.bias"),
        ),
        (
            "qwen2 as llama",
            Edit::new(&folder("qwen2")).remove(&name("self_attn.v_proj.bias")),
            Bad("v_proj.bias"),
        ),
        ("norm gone", llama().remove("model.norm.weight"), Bad("model.norm.weight")),
        (
            "misspelt",
            llama().rename(&name("mlp.up_proj.weight"), &name("mlp.up.weight")),
            Bad("mlp.up_proj.weight\" is missing"),
        ),
        (
            "known to be computed",
            llama().add(&name("self_attn.rotary_emb.inv_freq"), Dtype::F32, &[8]),
            Works,
        ),
    ];
    for (case, edit, expected) in cases {
        assert_outcome(case, expected, edit.model());
    }
}

#[test]
fn tensors_of_another_type_or_shape() {
    let llama = || Edit::new(&folder("llama"));
    let name = |part: &str| format!("model.layers.1.{part}");
    let cases = [
        (
            "scales of fp8",
            llama().add(&name("self_attn.q_proj.weight_scale_inv"), Dtype::F32, &[1, 1]),
            Bad("weight_scale_inv"),
        ),
        (
            "fp8",
            llama().add(&name("self_attn.q_proj.weight"), Dtype::F8_E4M3, &[64, 64]),
            Unsupported("q_proj.weight"),
        ),
        (
            "a norm of another length",
            llama().add("model.norm.weight", Dtype::F32, &[63]),
            Bad("has shape [63], expected [64]"),
        ),
        (
            "a matrix on its side",
            llama().add(&name("mlp.down_proj.weight"), Dtype::BF16, &[96, 64]),
            Bad("has shape [96, 64], expected [64, 96]"),
        ),
        (
            "fused too short",
            Edit::new(&folder("phi3")).add(
                &name("mlp.gate_up_proj.weight"),
                Dtype::BF16,
                &[191, 64],
            ),
            Bad("gate_up_proj"),
        ),
    ];
    for (case, edit, expected) in cases {
        assert_outcome(case, expected, edit.model());
    }
}

#[test]
fn windows_by_layer() {
    let windows = |name: &str, patch: &str| -> Result<Vec<u32>, Error> {
        let spec = Edit::new(&folder(name)).config(patch).describe()?.spec;
        Ok(spec.layers.iter().map(|layer| layer.attention.window.unwrap_or(0)).collect())
    };
    let off = r#""layer_types": "-", "use_sliding_window""#;
    for (name, patch, expected) in [
        ("qwen2-window", "{}".into(), [0, 16, 16]),
        ("qwen2-window", format!(r#"{{{off}: false}}"#), [0, 0, 0]),
        ("qwen2-window", format!(r#"{{{off}: "-"}}"#), [0, 0, 0]),
        ("qwen2-window", format!(r#"{{{off}: true}}"#), [0, 16, 16]),
        ("qwen2-window", format!(r#"{{{off}: true, "max_window_layers": 2}}"#), [0, 0, 16]),
        ("qwen2-window", format!(r#"{{{off}: true, "max_window_layers": 0}}"#), [16, 16, 16]),
        ("qwen2-window", format!(r#"{{{off}: true, "max_window_layers": 28}}"#), [0, 0, 0]),
        ("qwen2-window", format!(r#"{{{off}: true, "sliding_window": null}}"#), [0, 0, 0]),
        ("mistral-swa", r#"{"sliding_window": 8}"#.into(), [8, 8, 8]),
        ("mistral-swa", r#"{"sliding_window": null}"#.into(), [0, 0, 0]),
        ("phi3", "{}".into(), [0, 0, 0]),
        ("phi3", r#"{"sliding_window": 8}"#.into(), [8, 8, 8]),
        ("gemma2", r#"{"layer_types": "-"}"#.into(), [16, 0, 16]),
        ("gemma3", r#"{"layer_types": "-"}"#.into(), [16, 16, 16]),
        (
            "gemma3",
            r#"{"layer_types": "-", "_sliding_window_pattern": "-", "sliding_window_pattern": 2}"#
                .into(),
            [16, 0, 16],
        ),
    ] {
        assert_eq!(windows(name, &patch).unwrap(), expected, "{name} {patch}");
    }
    check(
        "qwen2-window",
        &[
            (r#"{"layer_types": ["full_attention"]}"#, Bad("layer_types has 1 entries")),
            (r#"{"layer_types": ["full_attention", "chunked", "x"]}"#, Unsupported("chunked")),
            (r#"{"use_sliding_window": false}"#, Bad("layer_types")),
            (r#"{"layer_types": "-", "max_window_layers": "-"}"#, Bad("max_window_layers")),
            (r#"{"sliding_window": 0}"#, Bad("sliding_window is 0")),
        ],
    );
    check(
        "mistral-swa",
        &[
            (r#"{"sliding_window": "-"}"#, Bad("sliding_window is missing")),
            (r#"{"sliding_window": -1}"#, Bad("sliding_window")),
        ],
    );
    check("gemma2", &[(r#"{"sliding_window": null}"#, Bad("sliding_window is missing"))]);
}

/// One file, three types: each tensor as it is, nothing narrowed.
#[test]
fn mixed_types() {
    let mut edit = Edit::new(&folder("llama"));
    for (index, tensor) in edit.tensors.values_mut().enumerate() {
        let values: Vec<f32> = tensor
            .bytes
            .chunks_exact(2)
            .map(|bytes| bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32())
            .collect();
        let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
        let is_exact = values.iter().zip(&halves).all(|(value, half)| half.to_f32() == *value);
        if index % 3 == 0 {
            tensor.dtype = Dtype::F32;
            tensor.bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        } else if index % 3 == 1 && is_exact {
            tensor.dtype = Dtype::F16;
            tensor.bytes = halves.iter().flat_map(|value| value.to_le_bytes()).collect();
        }
    }
    let files = edit.write();
    let tokens = &golden("llama").tokens[0];
    let mixed = Runner::open(files.path(), 64).unwrap().append(tokens).unwrap();
    let plain = Runner::open(&folder("llama"), 64).unwrap().append(tokens).unwrap();
    assert_eq!(mixed, plain);
}

/// A checkpoint of the model's class without the head around it.
#[test]
fn names_without_their_root() {
    let mut edit = Edit::new(&folder("llama-tied-bias"));
    edit.tensors = std::mem::take(&mut edit.tensors)
        .into_iter()
        .map(|(name, tensor)| (name.trim_start_matches("model.").to_owned(), tensor))
        .collect();
    let edit = edit.config(r#"{"architectures": ["LlamaModel"]}"#);
    assert_outcome("no root", Works, edit.model());
}

#[test]
fn weights_lie_apart_and_aligned() {
    let checkpoint = Checkpoint::open(&folder("gemma3")).unwrap();
    let backend = NaiveBackend::default();
    let model = Model::new(describe(&checkpoint).unwrap(), &checkpoint, &backend, 64).unwrap();
    let stored: u64 = checkpoint.tensors().map(|tensor| tensor.bytes).sum();
    assert!(model.weights_bytes >= stored);
    assert_eq!(model.weights_bytes % 64, 0);
    let qkv = &model.decoder.layers[0].qkv;
    for offset in [qkv.q.offset, qkv.k.offset, qkv.v.offset] {
        assert_eq!(offset % 64, 0);
    }
    assert!(qkv.k.offset >= qkv.q.offset + 128 * 64 * 2);
}

#[test]
fn loads_report_progress_and_can_be_stopped() {
    let checkpoint = Checkpoint::open(&folder("phi3")).unwrap();
    let mut backend = NaiveBackend::default();
    let model = Model::new(describe(&checkpoint).unwrap(), &checkpoint, &backend, 64).unwrap();
    let mut calls = Vec::new();
    let mut note = |done, total| {
        calls.push((done, total));
        true
    };
    model.load(&checkpoint, &mut backend, 1, &mut note).unwrap();
    let stored: u64 = checkpoint.tensors().map(|tensor| tensor.bytes).sum();
    assert_eq!(calls.first(), Some(&(0, stored)));
    assert_eq!(calls.last(), Some(&(stored, stored)));
    assert!(calls.is_sorted());
    for stop in [0, 1, stored / 2, stored] {
        let mut backend = NaiveBackend::default();
        let result = model.load(&checkpoint, &mut backend, 1, &mut |done, _| done < stop);
        assert!(matches!(result, Err(Error::Cancelled(_))), "stopped at {stop}: {result:?}");
    }
}
