"""Converts tiny Hugging Face models of tests/data/models to GGUF, with llama.cpp's names and conventions.

Needs the Python packages gguf, numpy, safetensors, torch and transformers. What is written is told in
tests/data/gguf/README.md. Matrices stay bf16 (or become Q8_0), vectors are f32.
"""

import json
import math
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file, save_file

DATA = Path(__file__).resolve().parent.parent / "data"
MODELS, OUT = DATA / "models", DATA / "gguf"
PLAIN = [
    "llama", "llama-linear-rope", "llama-tied-bias", "llama-yarn", "llama3-rope", "qwen2", "qwen3", "gemma2",
    "gemma3", "phi3", "phi3-longrope",
]
ARCHITECTURES = {"gemma3_text": "gemma3"}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
}
# Gemma 2 and 3 have norms before and after both halves of a layer.
GEMMA_NAMES = NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def tensor_name(name, names):
    stem, suffix = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{names[rest]}.{suffix}"
    return f"{names[stem]}.{suffix}"


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def interleave(tensor, n_heads):
    """Rows of one head from halves (x0..xn, y0..yn), as transformers rotates them, to pairs (x0, y0, x1, y1, ..)."""
    rows = tensor.shape[0] // n_heads
    halves = tensor.reshape(n_heads, 2, rows // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def convert(arch, config, name, tensor):
    """The tensor as llama.cpp wants it."""
    if arch == "llama" and ".q_proj." in name:
        return interleave(tensor, config["num_attention_heads"])
    if arch == "llama" and ".k_proj." in name:
        return interleave(tensor, config["num_key_value_heads"])
    if arch.startswith("gemma") and name.endswith("norm.weight"):
        return tensor.float() + 1
    if arch == "gemma2" and ".q_proj." in name:
        # GGUF has no query_pre_attn_scalar for gemma2: it is 1 / sqrt(head_dim). The rest goes into the weight.
        factor = math.sqrt(head_dim(config) / config["query_pre_attn_scalar"])
        return tensor if factor == 1 else tensor.float() * factor
    return tensor


def llama3_factors(config, rope):
    """What each frequency is divided by."""
    dim, context = head_dim(config), rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    factors = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        smooth = min(1.0, max(0.0, (context / wavelength - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(factors, dtype=torch.float32)


def write_metadata(writer, arch, config):
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if arch in ("llama", "phi3"):
        writer.add_rope_dimension_count(head_dim(config))
    if arch.startswith("gemma"):
        writer.add_sliding_window(config["sliding_window"])
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if arch == "gemma3":
        writer.add_sliding_window_pattern(config["layer_types"].index("full_attention") + 1)
    if arch == "phi3":
        writer.add_sliding_window(config["sliding_window"] or 0)
    # No vocabulary: only the ids.
    writer.add_tokenizer_model("none")
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])


def write_rope(writer, arch, config):
    """The keys and the extra tensors of RoPE."""
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    if arch != "gemma2":
        writer.add_rope_freq_base(rope["rope_theta"])
    if arch == "phi3":
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
    match rope["rope_type"]:
        case "default":
            pass
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope["factor"])
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        case "llama3":
            write_tensor(writer, "rope_freqs.weight", llama3_factors(config, rope))
        case "longrope":
            context = config["original_max_position_embeddings"]
            scale = config["max_position_embeddings"] / context
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(context)))
            for which in ("long", "short"):
                factors = torch.tensor(rope[f"{which}_factor"], dtype=torch.float32)
                write_tensor(writer, f"rope_factors_{which}.weight", factors)
        case other:
            raise NotImplementedError(other)


def write_tensor(writer, name, tensor, quantised=None):
    if tensor.ndim == 1 or tensor.dtype == torch.float32:
        writer.add_tensor(name, tensor.float().contiguous().numpy())
        return
    kind = quantised or Kind.BF16
    data = gguf.quants.quantize(np.ascontiguousarray(tensor.float().numpy()), kind)
    writer.add_tensor(name, data, raw_dtype=kind)


def write_model(model, path, quantised=None):
    config = json.loads((MODELS / model / "config.json").read_text())
    arch = ARCHITECTURES.get(config["model_type"], config["model_type"])
    names = GEMMA_NAMES if arch.startswith("gemma") else NAMES
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(f"tiny {model}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.MOSTLY_BF16)
    write_metadata(writer, arch, config)
    write_rope(writer, arch, config)
    for name, tensor in sorted(load_file(MODELS / model / "model.safetensors").items()):
        write_tensor(writer, tensor_name(name, names), convert(arch, config, name, tensor), quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(path.name, path.stat().st_size)


def write_quantised_golden(model, path, kind):
    """Logits of the model with its matrices rounded to `kind`, computed by transformers in f32."""
    from transformers import AutoModelForCausalLM

    tokens = load_file(MODELS / model / "golden.safetensors")["tokens"]
    reference = AutoModelForCausalLM.from_pretrained(MODELS / model, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.ndim == 2:
                blocks = gguf.quants.quantize(parameter.numpy(), kind)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, kind)))
        logits = reference(tokens).logits
        longer = tokens
        for _ in range(16):
            best = reference(longer).logits[:, -1].argmax(-1, keepdim=True)
            longer = torch.cat([longer, best], dim=1)
    greedy = longer[:, tokens.shape[1]:].contiguous()
    save_file({"tokens": tokens, "logits": logits, "greedy": greedy}, path)


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for model in sys.argv[1:] or PLAIN:
        write_model(model, OUT / f"{model}.gguf")
    write_model("llama", OUT / "llama-q8_0.gguf", Kind.Q8_0)
    write_quantised_golden("llama", OUT / "llama-q8_0.golden.safetensors", Kind.Q8_0)
