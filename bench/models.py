"""The models under measurement, and what reading one of them takes."""
import shutil
import subprocess
import sys
from pathlib import Path

import make_shape
from engines import ROOT

FOLDER = ROOT / "build/bench"
# To be left free on the disk.
SPARE_BYTES = 1 << 30
SMOLLM2 = "SmolLM2-135M-q4_1"
SHAPES = ("0.5b", "1b")
TYPES = ("q8_0", "q4_0", "q4_k_m", "bf16")
MODELS = (SMOLLM2, *(f"{shape}-{kind}" for shape in SHAPES for kind in TYPES))
# On a GPU.
DEVICE_MODELS = tuple(f"{shape}-{kind}" for shape in ("1b", "8b") for kind in ("bf16", "q8_0", "q4_0", "q4_k"))
# Where a stand-in takes the GPU's place.
TINY_MODELS = tuple(f"tiny-{kind}" for kind in ("bf16", "q8_0", "q4_0", "q4_k"))
TITLES = {
    "0.5b": "Qwen2.5-0.5B's shape",
    "1b": "Llama-3.2-1B's shape",
    "8b": "Llama-3.1-8B's shape",
    "tiny": "A tiny shape",
}


def title(name):
    shape, _, kind = name.partition("-")
    return f"{TITLES[shape]}, {kind.upper()}" if shape in TITLES else "SmolLM2-135M-Instruct, Q4_1"


def path_of(name):
    """The model's file, which is fetched or made if it is not there."""
    if name == SMOLLM2:
        subprocess.run([ROOT / "scripts/fetch_model.sh"], check=True)
        return ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
    path = FOLDER / f"{name}.gguf"
    if not path.exists():
        shape, kind = name.split("-")
        print(f"making {path.name}", flush=True)
        subprocess.run([sys.executable, ROOT / "bench/make_shape.py", shape, kind, path], check=True)
    return path


class Sizes:
    """Bytes and operations of a model, from the file's headers."""

    def __init__(self, weight_bytes, layer_weights, kv_values, is_quantised, head_values=0):
        # Read by a step: all matrices, of an embedding that is no head only a row.
        self.weight_bytes = weight_bytes
        # Weights that every row of a prompt is multiplied with: those of the layers.
        self.layer_weights = layer_weights
        # Of one token, in all layers.
        self.kv_values = kv_values
        self.is_quantised = is_quantised
        # Values of one token's query heads, in all layers.
        self.head_values = head_values


def sizes_of_shape(name):
    """As `sizes_of`, of a model that `make_shape` makes, without its file."""
    shape_name, kind = name.split("-")
    shape = make_shape.SHAPES[shape_name]
    weight_bytes = layer_weights = 0
    for tensor, size, of_kind in make_shape.tensors(shape, kind):
        if tensor != "token_embd.weight" or shape.is_tied:
            weight_bytes += make_shape.n_bytes(size, of_kind)
        if tensor.startswith("blk.") and len(size) == 2:
            layer_weights += size[0] * size[1]
    kv_values = 2 * shape.kv_heads * shape.head_dim * shape.layers
    head_values = shape.heads * shape.head_dim * shape.layers
    return Sizes(weight_bytes, layer_weights, kv_values, kind != "bf16", head_values)


def file_bytes(name):
    """About what a model's file takes."""
    shape_name, kind = name.split("-")
    tensors = make_shape.tensors(make_shape.SHAPES[shape_name], kind)
    return sum(make_shape.n_bytes(size, of_kind) for _, size, of_kind in tensors)


def sizes_of(path):
    import gguf  # here, so that nothing else needs it

    reader = gguf.GGUFReader(path)
    names = {tensor.name for tensor in reader.tensors}
    weight_bytes = layer_weights = 0
    for tensor in reader.tensors:
        if tensor.name != "token_embd.weight" or "output.weight" not in names:
            weight_bytes += int(tensor.n_bytes)
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            layer_weights += int(tensor.n_elements)
    family = reader.get_field("general.architecture").contents()
    number = lambda key: int(reader.get_field(f"{family}.{key}").contents())
    heads, kv_heads = number("attention.head_count"), number("attention.head_count_kv")
    head_dim = number("embedding_length") // heads
    kv_values = 2 * kv_heads * head_dim * number("block_count")
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    return Sizes(weight_bytes, layer_weights, kv_values, not kinds <= {"F32", "F16", "BF16"})


def room_is_missing(names):
    """Why the files of shapes that are missing do not fit on the disk, if they do not."""
    needed = sum(file_bytes(name) for name in names if not (FOLDER / f"{name}.gguf").exists())
    free = shutil.disk_usage(FOLDER).free
    if needed + SPARE_BYTES < free:
        return None
    return f"The models need {needed / 1e9:.0f} GB in {FOLDER}, where {free / 1e9:.0f} are free: choose fewer (--models)."


def room_is_enough(names):
    """Whether the files that are missing fit on the disk, with what making them takes."""
    n_missing = sum(not (FOLDER / f"{name}.gguf").exists() for name in names if name != SMOLLM2)
    return n_missing == 0 or shutil.disk_usage(FOLDER).free > 4e9 * min(n_missing, 3)
