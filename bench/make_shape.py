"""Writes a GGUF file of a real model's shape with random weights, for speed and memory plans only.

    python3 bench/make_shape.py 1b q4_0 build/1b-q4_0.gguf

Shapes: 0.5b (as Qwen2.5-0.5B, but of the family llama), 1b (as Llama-3.2-1B) and 8b (as Llama-3.1-8B). Types: q4_0, q8_0, bf16.
"""
import random
import struct
import sys

# hidden, layers, heads, KV heads, head size, intermediate, vocabulary
SHAPES = {
    "0.5b": (896, 24, 14, 2, 64, 4864, 151936),
    "1b": (2048, 16, 32, 8, 64, 8192, 128256),
    "8b": (4096, 32, 32, 8, 128, 14336, 128256),
}
# GGUF's number, elements and bytes of a block
TYPES = {"q4_0": (2, 32, 18), "q8_0": (8, 32, 34), "bf16": (30, 1, 2)}
F32 = 0
ALIGNMENT = 32


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key, kind, value):
    codes = {"u32": (4, "<I"), "f32": (6, "<f")}
    if kind == "str":
        return text(key) + struct.pack("<I", 8) + text(value)
    code, layout = codes[kind]
    return text(key) + struct.pack("<I", code) + struct.pack(layout, value)


def tensors(shape, kind):
    hidden, layers, heads, kv_heads, head_dim, intermediate, vocab = shape
    yield "token_embd.weight", (vocab, hidden), kind
    for layer in range(layers):
        for name, size in (
            ("attn_q", (heads * head_dim, hidden)),
            ("attn_k", (kv_heads * head_dim, hidden)),
            ("attn_v", (kv_heads * head_dim, hidden)),
            ("attn_output", (hidden, heads * head_dim)),
            ("ffn_gate", (intermediate, hidden)),
            ("ffn_up", (intermediate, hidden)),
            ("ffn_down", (hidden, intermediate)),
        ):
            yield f"blk.{layer}.{name}.weight", size, kind
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", (hidden,), "f32"
    yield "output_norm.weight", (hidden,), "f32"


def n_bytes(size, kind):
    count = 1
    for n in size:
        count *= n
    if kind == "f32":
        return 4 * count
    _, block, block_bytes = TYPES[kind]
    return count // block * block_bytes


def pattern(kind):
    """Some thousand blocks: random weights with small scales."""
    source = random.Random(7)
    if kind == "bf16":
        return b"".join(
            struct.pack("<H", source.choice((0x3C00, 0xBC00)) + source.randrange(256)) for _ in range(1 << 16)
        )
    block_bytes = TYPES[kind][2]
    scale = struct.pack("<e", 0.01 if kind == "q4_0" else 0.0003)
    return b"".join(scale + source.randbytes(block_bytes - 2) for _ in range(1 << 14))


def write_data(file, size, kind, blocks):
    left = n_bytes(size, kind)
    if kind == "f32":
        blocks = struct.pack("<f", 1.0) * (left // 4)
    while left:
        part = blocks[:left]
        file.write(part)
        left -= len(part)
    file.write(b"\0" * (-file.tell() % ALIGNMENT))


def main():
    name, kind, path = sys.argv[1:]
    hidden, layers, heads, kv_heads, head_dim, intermediate, vocab = shape = SHAPES[name]
    pairs = [
        pair("general.architecture", "str", "llama"),
        pair("llama.context_length", "u32", 131072),
        pair("llama.embedding_length", "u32", hidden),
        pair("llama.block_count", "u32", layers),
        pair("llama.feed_forward_length", "u32", intermediate),
        pair("llama.attention.head_count", "u32", heads),
        pair("llama.attention.head_count_kv", "u32", kv_heads),
        pair("llama.attention.key_length", "u32", head_dim),
        pair("llama.attention.value_length", "u32", head_dim),
        pair("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5),
        pair("llama.rope.freq_base", "f32", 500000.0),
        pair("llama.rope.dimension_count", "u32", head_dim),
        pair("llama.vocab_size", "u32", vocab),
    ]
    infos, offset = [], 0
    for tensor, size, of_kind in tensors(shape, kind):
        number = F32 if of_kind == "f32" else TYPES[of_kind][0]
        dims = struct.pack(f"<I{len(size)}Q", len(size), *reversed(size))
        infos.append(text(tensor) + dims + struct.pack("<IQ", number, offset))
        offset += n_bytes(size, of_kind)
        offset += -offset % ALIGNMENT
    blocks = pattern(kind)
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs)) + b"".join(pairs) + b"".join(infos))
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
        for _, size, of_kind in tensors(shape, kind):
            write_data(file, size, of_kind, blocks)


if __name__ == "__main__":
    main()
