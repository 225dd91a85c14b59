"""The models under measurement, and what reading one of them takes."""
import shutil
import subprocess
import sys
from pathlib import Path

from engines import ROOT, VENV_PYTHON

FOLDER = ROOT / "build/bench"
SMOLLM2 = "SmolLM2-135M-q4_1"
SHAPES = ("0.5b", "1b")
TYPES = ("q8_0", "q4_0", "q4_k_m", "bf16")
MODELS = (SMOLLM2, *(f"{shape}-{kind}" for shape in SHAPES for kind in TYPES))
TITLES = {"0.5b": "Qwen2.5-0.5B's shape", "1b": "Llama-3.2-1B's shape"}


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
        python = VENV_PYTHON if kind == "q4_k_m" else sys.executable
        subprocess.run([python, ROOT / "bench/make_shape.py", shape, kind, path], check=True)
    return path


class Sizes:
    """Bytes and operations of a model, from the file's headers."""

    def __init__(self, weight_bytes, layer_weights, kv_values, is_quantised):
        # Read by a step: all matrices, of an embedding that is no head only a row.
        self.weight_bytes = weight_bytes
        # Weights that every row of a prompt is multiplied with: those of the layers.
        self.layer_weights = layer_weights
        # Of one token, in all layers.
        self.kv_values = kv_values
        self.is_quantised = is_quantised


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


def room_is_enough(names):
    """Whether the files that are missing fit on the disk, with what making them takes."""
    n_missing = sum(not (FOLDER / f"{name}.gguf").exists() for name in names if name != SMOLLM2)
    return n_missing == 0 or shutil.disk_usage(FOLDER).free > 4e9 * min(n_missing, 3)
