//! What a family's files call the weights. Names are without layer number and without `.weight` or `.bias`.
#![forbid(unsafe_code)]

/// Names of one family's tensors in one kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// In front of everything but the head.
    pub root: &'static str,
    pub embedding: &'static str,
    pub final_norm: &'static str,
    pub head: &'static str,
    /// Between root and layer number.
    pub layers: &'static str,
    pub attention_norm: &'static str,
    pub qkv: Qkv,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub output: &'static str,
    pub attention_norm_after: &'static str,
    pub mlp_norm: &'static str,
    pub gate_up: GateUp,
    pub down: &'static str,
    pub mlp_norm_after: &'static str,
}

/// The three attention projections: each its own tensor, or rows of one, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qkv {
    Apart { q: &'static str, k: &'static str, v: &'static str },
    Fused(&'static str),
}

/// Gate and up: each its own tensor, or rows of one, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateUp {
    Apart { gate: &'static str, up: &'static str },
    Fused(&'static str),
}

/// llama's in Hugging Face files, which most families follow.
pub const HUGGING_FACE: Names = Names {
    root: "model.",
    embedding: "embed_tokens",
    final_norm: "norm",
    head: "lm_head",
    layers: "layers.",
    attention_norm: "input_layernorm",
    qkv: Qkv::Apart { q: "self_attn.q_proj", k: "self_attn.k_proj", v: "self_attn.v_proj" },
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    output: "self_attn.o_proj",
    attention_norm_after: "post_attention_layernorm",
    mlp_norm: "post_attention_layernorm",
    gate_up: GateUp::Apart { gate: "mlp.gate_proj", up: "mlp.up_proj" },
    down: "mlp.down_proj",
    mlp_norm_after: "post_feedforward_layernorm",
};

/// gemma's in Hugging Face files: norms before and after.
pub const HUGGING_FACE_GEMMA: Names =
    Names { mlp_norm: "pre_feedforward_layernorm", ..HUGGING_FACE };

/// Those of every family in GGUF files.
pub const GGUF: Names = Names {
    root: "",
    embedding: "token_embd",
    final_norm: "output_norm",
    head: "output",
    layers: "blk.",
    attention_norm: "attn_norm",
    qkv: Qkv::Apart { q: "attn_q", k: "attn_k", v: "attn_v" },
    q_norm: "attn_q_norm",
    k_norm: "attn_k_norm",
    output: "attn_output",
    attention_norm_after: "post_attention_norm",
    mlp_norm: "ffn_norm",
    gate_up: GateUp::Apart { gate: "ffn_gate", up: "ffn_up" },
    down: "ffn_down",
    mlp_norm_after: "post_ffw_norm",
};
