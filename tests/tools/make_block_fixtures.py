"""Writes tests/data/blocks: blocks of every quantised type with the values that the gguf package reads from them.

Needs the Python packages gguf and numpy. The layout is told in tests/data/blocks/README.md.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

ROWS, COLUMNS = 8, 512
OUT = Path(__file__).resolve().parent.parent / "data" / "blocks"

# Where each type keeps its 16-bit floats (scale, minimum) inside a block. MXFP4 has an exponent byte instead.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}


def set_halves(blocks, name, choose):
    for field, offset in enumerate(HALVES[name]):
        values = np.array([choose(i + 3 * field) for i in range(len(blocks))], dtype=np.float16)
        blocks[:, offset:offset + 2] = values.view(np.uint8).reshape(-1, 2)


def random_blocks(rng, n, name, block_bytes):
    """Any bytes, with scales of either sign and of the size that real weights have."""
    blocks = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    set_halves(blocks, name, lambda _: rng.uniform(-0.02, 0.02))
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(115, 124, n)
    return blocks


def extreme_blocks(rng, n, name, block_bytes):
    """Scales that are 0, -0, negative, subnormal and large; all bits of the rest clear, set, or only the sign's."""
    blocks = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    fills = [0x00, 0xFF, 0x80, 0x7F, 0x88, 0x08]
    for i in range(n):
        if i % 4 != 3:
            blocks[i, :] = fills[(i + i // 4) % len(fills)]
    scales = [1.0, 0.0, -1.0, 6e-8, -0.0, 8.0, -6e-5, 0.5]
    set_halves(blocks, name, lambda i: scales[i % len(scales)])
    if name == "MXFP4":
        exponents = [0, 1, 2, 126, 127, 128, 135, 100]
        blocks[:, 0] = [exponents[i % len(exponents)] for i in range(n)]
    return blocks


def make(name):
    kind = GGMLQuantizationType[name]
    block_len, block_bytes = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(int(kind))
    per_row = COLUMNS // block_len
    rows = random_blocks(rng, ROWS * per_row, name, block_bytes).reshape(ROWS, -1)
    try:
        rows[0:4] = quantize(rng.normal(0, 0.05, (4, COLUMNS)).astype(np.float32), kind)
        first = "quantised from normal data"
    except NotImplementedError:
        first = "random bytes"
    rows[6:8] = extreme_blocks(rng, 2 * per_row, name, block_bytes).reshape(2, -1)
    values = np.stack([dequantize(row, kind) for row in rows]).astype(np.float32)
    assert values.shape == (ROWS, COLUMNS) and np.isfinite(values).all(), name
    (OUT / f"{name}.bin").write_bytes(rows.tobytes())
    (OUT / f"{name}.f32").write_bytes(values.astype("<f4").tobytes())
    largest = [abs(part).max() for part in (values[:6], values[6:])]
    print(f"{name:7} rows 0-3 {first}, largest in 0-5 {largest[0]:.3g}, in 6-7 {largest[1]:.3g}")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for quantised in HALVES:
        make(quantised)
