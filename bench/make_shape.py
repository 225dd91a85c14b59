"""Writes a GGUF file of a real model's shape with random weights, for speed and memory plans only.

    python3 bench/make_shape.py 1b q4_0 build/1b-q4_0.gguf

Shapes: 0.5b (as Qwen2.5-0.5B), 1b (as Llama-3.2-1B), 8b (as Llama-3.1-8B) and tiny; heads are tied to the embedding, but
that of 8b. Types: bf16, q8_0, q4_0, q4_k (all matrices; rows of a multiple of 256); q4_k_m, the usual mix of K-quants, is made
of the bf16 file by llama.cpp's own quantiser and needs llama-cpp-python. The vocabulary knows single bytes and is filled up
with unused tokens.
"""
import ctypes
import random
import struct
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple


class Shape(NamedTuple):
    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int
    rope_base: float
    epsilon: float
    is_tied: bool
    pre_tokenizer: str


SHAPES = {
    "tiny": Shape("llama", 256, 2, 4, 2, 64, 512, 512, 131072, 5e5, 1e-5, True, "llama-bpe"),
    "0.5b": Shape("qwen2", 896, 24, 14, 2, 64, 4864, 151936, 32768, 1e6, 1e-6, True, "qwen2"),
    "1b": Shape("llama", 2048, 16, 32, 8, 64, 8192, 128256, 131072, 5e5, 1e-5, True, "llama-bpe"),
    "8b": Shape("llama", 4096, 32, 32, 8, 128, 14336, 128256, 131072, 5e5, 1e-5, False, "llama-bpe"),
}
# GGUF's number, elements and bytes of a block, and the number for the whole file
TYPES = {"q4_0": (2, 32, 18, 2), "q8_0": (8, 32, 34, 7), "q4_k": (12, 256, 144, 14), "bf16": (30, 1, 2, 32)}
# What a block begins with: its scale; of q4_k also that of the minima, so that values are about zero in the mean.
BLOCK_HEADS = {
    "q4_0": struct.pack("<e", 0.004),
    "q8_0": struct.pack("<e", 0.0003),
    "q4_k": struct.pack("<ee", 0.0001, 0.00075),
}
F32 = 0
ALIGNMENT = 32
NORMAL, CONTROL, UNUSED = 1, 3, 5


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key, kind, value):
    scalars = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?")}
    if kind == "str":
        return text(key) + struct.pack("<I", 8) + text(value)
    if kind == "strings":
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if kind == "i32s":
        return text(key) + struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
    code, layout = scalars[kind]
    return text(key) + struct.pack("<I", code) + struct.pack(layout, value)


def byte_tokens():
    """The 256 characters that stand for bytes in byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [names[byte] for byte in range(256)]


def tokenizer_pairs(shape):
    tokens = [*byte_tokens(), "th", "he", "<|end|>"]
    types = [NORMAL] * (len(tokens) - 1) + [CONTROL]
    end = len(tokens) - 1
    n_unused = shape.vocab - len(tokens)
    return [
        pair("tokenizer.ggml.model", "str", "gpt2"),
        pair("tokenizer.ggml.pre", "str", shape.pre_tokenizer),
        pair("tokenizer.ggml.tokens", "strings", tokens + [f"<|unused_{i}|>" for i in range(n_unused)]),
        pair("tokenizer.ggml.token_type", "i32s", types + [UNUSED] * n_unused),
        pair("tokenizer.ggml.merges", "strings", ["t h", "h e"]),
        pair("tokenizer.ggml.bos_token_id", "u32", end),
        pair("tokenizer.ggml.eos_token_id", "u32", end),
        pair("tokenizer.ggml.padding_token_id", "u32", end),
        pair("tokenizer.ggml.add_bos_token", "bool", False),
    ]


def pairs(shape, kind):
    family = shape.family
    return [
        pair("general.architecture", "str", family),
        pair("general.name", "str", "random weights"),
        pair("general.file_type", "u32", TYPES[kind][3]),
        pair("general.quantization_version", "u32", 2),
        pair(f"{family}.context_length", "u32", shape.context),
        pair(f"{family}.embedding_length", "u32", shape.hidden),
        pair(f"{family}.block_count", "u32", shape.layers),
        pair(f"{family}.feed_forward_length", "u32", shape.intermediate),
        pair(f"{family}.attention.head_count", "u32", shape.heads),
        pair(f"{family}.attention.head_count_kv", "u32", shape.kv_heads),
        pair(f"{family}.attention.layer_norm_rms_epsilon", "f32", shape.epsilon),
        pair(f"{family}.rope.freq_base", "f32", shape.rope_base),
        pair(f"{family}.rope.dimension_count", "u32", shape.head_dim),
        pair(f"{family}.vocab_size", "u32", shape.vocab),
        *tokenizer_pairs(shape),
    ]


def tensors(shape, kind):
    """Name, size and type of each tensor."""
    q_rows, kv_rows = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "token_embd.weight", (shape.vocab, shape.hidden), kind
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        for name, size in (
            ("attn_q", (q_rows, shape.hidden)),
            ("attn_k", (kv_rows, shape.hidden)),
            ("attn_v", (kv_rows, shape.hidden)),
            ("attn_output", (shape.hidden, q_rows)),
            ("ffn_gate", (shape.intermediate, shape.hidden)),
            ("ffn_up", (shape.intermediate, shape.hidden)),
            ("ffn_down", (shape.hidden, shape.intermediate)),
        ):
            yield f"{block}.{name}.weight", size, kind
        for name in ("attn_norm", "ffn_norm"):
            yield f"{block}.{name}.weight", (shape.hidden,), "f32"
        if shape.family == "qwen2":
            for name, rows in (("attn_q", q_rows), ("attn_k", kv_rows), ("attn_v", kv_rows)):
                yield f"{block}.{name}.bias", (rows,), "f32"
    yield "output_norm.weight", (shape.hidden,), "f32"
    if not shape.is_tied:
        yield "output.weight", (shape.vocab, shape.hidden), kind


def n_bytes(size, kind):
    count = 1
    for n in size:
        count *= n
    if kind == "f32":
        return 4 * count
    _, block, block_bytes, _ = TYPES[kind]
    if size[-1] % block:
        raise ValueError(f"rows of {size[-1]} are no whole blocks of {kind}")
    return count // block * block_bytes


def pattern(kind):
    """Many blocks: random weights with small scales. Their number is odd, so rows do not repeat soon."""
    source = random.Random(7)
    if kind == "bf16":
        return b"".join(
            struct.pack("<H", source.choice((0x3C00, 0xBC00)) + source.randrange(256)) for _ in range((1 << 18) + 1)
        )
    head = BLOCK_HEADS[kind]
    n_random = TYPES[kind][2] - len(head)
    return b"".join(head + source.randbytes(n_random) for _ in range((1 << 16) + 1))


def write_data(file, size, kind, blocks):
    left = n_bytes(size, kind)
    if kind == "f32":
        blocks = struct.pack("<f", 1.0) * (left // 4)
    while left:
        part = blocks[:left]
        file.write(part)
        left -= len(part)
    file.write(b"\0" * (-file.tell() % ALIGNMENT))


def write(shape, kind, path):
    """A file with all matrices of one type."""
    keys = pairs(shape, kind)
    infos, offset = [], 0
    for tensor, size, of_kind in tensors(shape, kind):
        number = F32 if of_kind == "f32" else TYPES[of_kind][0]
        dims = struct.pack(f"<I{len(size)}Q", len(size), *reversed(size))
        infos.append(text(tensor) + dims + struct.pack("<IQ", number, offset))
        offset += n_bytes(size, of_kind)
        offset += -offset % ALIGNMENT
    blocks = pattern(kind)
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys)) + b"".join(keys) + b"".join(infos))
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
        for _, size, of_kind in tensors(shape, kind):
            write_data(file, size, of_kind, blocks)


def quantise(source, path):
    """Q4_K_M as llama.cpp's own tool makes it."""
    import llama_cpp as lib

    @lib.llama_log_callback
    def silent(level, text, user):
        pass

    lib.llama_log_set(silent, ctypes.c_void_p(0))
    params = lib.llama_model_quantize_default_params()
    params.ftype = lib.LLAMA_FTYPE_MOSTLY_Q4_K_M
    if lib.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params)) != 0:
        sys.exit(f"llama.cpp could not quantise {source}")


def make(name, kind, path):
    """Writes the file under another name first, so that a file that is there is whole."""
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        if kind == "q4_k_m":
            source = Path(folder) / "source.gguf"
            write(SHAPES[name], "bf16", source)
            quantise(source, unfinished)
        else:
            write(SHAPES[name], kind, unfinished)
        unfinished.rename(path)


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES or sys.argv[2] not in (*TYPES, "q4_k_m"):
        sys.exit(__doc__)
    make(*sys.argv[1:])


if __name__ == "__main__":
    main()
