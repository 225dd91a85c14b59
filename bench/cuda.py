"""Whole models on a GPU: larder beside PyTorch, a section of bench/RESULTS.md for each card and model. Run by run.py.

First what the card can do is measured. Then, for each model, the engines take turns: one is started, answers all cases, and
ends, so that it has the device's memory for itself; round after round, the first engine another one every time. A case that
cannot fit into the memory is left out. With `--smoke` all of this happens with tiny models: larder runs on the stand-in for
the driver, and PyTorch on the processor.

    python3 bench/cuda.py        prints an LD_LIBRARY_PATH with the cuBLASLt that came with PyTorch
"""
import datetime
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import models
import results
from engines import ROOT, Engine, Failed, progress

ENGINES = ("larder", "PyTorch")
CHAPTER = "# Results on GPUs"


class Grid(NamedTuple):
    contexts: tuple
    batches: tuple
    n_steps: int
    # Prompts that have more tokens together are left out.
    prefill_tokens: int
    # Rows of a step of larder's.
    rows: int
    # Of the device's memory, for contexts and scratch.
    reserve_bytes: int


GRID = Grid((512, 8192, 32768), (1, 8, 32, 128), 32, 65536, 2048, 3 << 30)
QUICK = Grid((512, 8192), (1, 8), 16, 16384, 2048, 3 << 30)
SMOKE = Grid((8, 40, 1 << 20), (1, 3), 2, 100, 64, 0)
# Of a case in a turn, behind one to warm up.
RUNS = 2


def grid_of(args):
    return SMOKE if args.smoke else QUICK if args.quick else GRID


def cases_of(grid, only=""):
    cells = [(context, batch) for batch in grid.batches for context in grid.contexts]
    decode = [f"generate {context} {grid.n_steps} {batch}" for context, batch in cells]
    prefill = [f"prefill {context} {batch}" for context, batch in cells]
    return [case for case in decode + prefill if case.startswith(only)]


def room_of(case):
    """Token slots that a case needs in all, tokens of one sequence, and sequences."""
    name, *numbers = case.split()
    if name == "prefill":
        n_tokens, n_sequences = map(int, numbers)
        return n_tokens * n_sequences, n_tokens, n_sequences
    depth, n_steps, n_sequences = map(int, numbers)
    # The last answers are still in the prefix cache.
    return (depth + 2 * (n_steps + 1)) * n_sequences, depth + n_steps + 1, n_sequences


def left_out(case, name, grid, memory_bytes):
    """Why a case is not measured, if it is not."""
    n_slots, n_tokens, n_sequences = room_of(case)
    kv_bytes = 2 * models.sizes_of_shape(name).kv_values * n_slots
    needed = models.file_bytes(name) + kv_bytes + grid.reserve_bytes
    if needed > memory_bytes:
        return f"needs {needed / 2**30:,.1f} GiB of device memory, {memory_bytes / 2**30:,.1f} are free"
    if case.startswith("prefill") and n_tokens * n_sequences > grid.prefill_tokens:
        return f"more than {grid.prefill_tokens:,} tokens, which are as fast as fewer"
    return None


def larder_command(path, cases, grid, binary):
    n_slots, n_tokens, n_sequences = (max(numbers) for numbers in zip(*map(room_of, cases)))
    sizes = {
        "--max-sequence-tokens": n_tokens,
        "--total-tokens": n_slots,
        "--max-sequences": n_sequences,
        "--max-logits-rows": n_sequences,
        "--max-batch-rows": max(grid.rows, n_sequences),
    }
    flags = [word for name, value in sizes.items() for word in (name, str(value))]
    return [str(binary), "bench", str(path), "--stdin", "--device", "cuda", *flags]


def starters(name, cases, args, grid):
    """For each engine a function that starts it."""
    profile = "debug" if args.smoke else "release"
    path = models.path_of(name)
    device = "cpu" if args.smoke else "cuda"
    commands = {
        "larder": larder_command(path, cases, grid, ROOT / "target" / profile / "larder"),
        "PyTorch": [sys.executable, str(ROOT / "bench/peer_torch.py"), name.split("-")[0], "--device", device],
    }
    libraries = library_path(args.smoke or cublas_folder())
    environments = {"larder": {**os.environ, "LD_LIBRARY_PATH": libraries}, "PyTorch": None}

    def starter(engine):
        log = models.FOLDER / f"{engine}.log"
        return lambda: Engine(engine, commands[engine], log, environments[engine])

    return {engine: starter(engine) for engine in args.engines}


def library_path(first):
    """An LD_LIBRARY_PATH that begins with a folder, if there is one."""
    return ":".join(filter(None, [str(first), os.environ.get("LD_LIBRARY_PATH", "")]))


def cublas_folder():
    """Where PyTorch's wheels put cuBLASLt; empty where they have not."""
    places = (place for path in sys.path if path for place in Path(path).glob("nvidia/*/lib/libcublasLt.so.*"))
    return next((place.parent for place in places), "")


def measure(starts, cases, n_rounds, n_runs, title):
    """All cells, and what each engine said about itself."""
    names = list(starts)
    cells = {case: {name: results.Cell([], 0) for name in names} for case in cases}
    headings = {}
    for round in range(n_rounds):
        first = round % len(names)
        for name in names[first:] + names[:first]:
            tell = lambda case: progress(f"{title}: {case}, round {round + 1} of {n_rounds}, {name}")
            headings[name] = take_turn(name, starts[name], cells, n_runs, tell) or headings.get(name)
    return cells, headings


def take_turn(name, start, cells, n_runs, tell):
    """An engine answers every case in which it has not failed. One that breaks down is started again for the next case."""
    tell("starts")
    engine = start()
    heading = engine.heading
    for case, row in cells.items():
        if row[name].failure:
            continue
        if engine.has_ended() and not engine.failure:
            engine.end()
            engine = start()
        tell(case)
        try:
            answers = [engine.ask(case) for _ in range(n_runs + 1)][1:]
        except Failed as error:
            row[name] = results.Cell([], 0, failure=str(error))
            continue
        seconds = [seconds for answer in answers for seconds in answer["seconds"]]
        row[name] = results.Cell(row[name].seconds + seconds, answers[-1]["tokens"])
    engine.end()
    return heading


def section(name, args, cells, out, headings, limits):
    """The part of the results about a model on a card."""
    engines, cases = args.engines, args.cases
    sizes = {"larder": models.sizes_of_shape(name), "PyTorch": models.sizes_of_shape(f"{name.split('-')[0]}-bf16")}
    sizes = {engine: sizes[engine] for engine in engines}
    measured = [case for case in cases if case not in out]
    versions = [f"{engine} {heading['version']}" for engine, heading in headings.items() if heading]
    lines = [
        f"## {limits['card']}: {models.title(name)}",
        "",
        f"{datetime.date.today().isoformat()}; {'; '.join(versions)}. {limits_text(limits)} Medians of"
        f" {args.rounds} × {RUNS} runs. {sizes_text(name)}",
        "",
        results.model_table(engines, cases, cells, sizes, limits, out),
        *(f"* {note}" for note in results.failures(engines, measured, cells)),
    ]
    return "\n".join(lines) + "\n"


def sizes_text(name):
    return f"larder reads {models.sizes_of_shape(name).weight_bytes / 2**20:,.0f} MiB of weights a step."


def limits_text(limits):
    return (
        f"In this run the card reads {limits['read_bytes'] / 1e9:,.0f} GB/s, and its peak in bf16 is"
        f" {limits['tensor_operations'] / 1e12:,.3g} TFLOP/s; {limits['memory_bytes'] / 2**30:,.1f} GiB of memory are free."
    )


def introduction(grid):
    return "\n".join(
        [
            CHAPTER,
            "",
            "Written by `make bench-cuda`; each section is of the last run with its model on its card.",
            "",
            "* Engines take turns, round after round. In its turn an engine is started, has the device for itself, and runs"
            f" each case once to warm up and {RUNS} times that count. Medians, with the least and the most; a ratio above 1"
            " says that larder is faster.",
            "* Decode: each step draws a token for every sequence, greedily, on the device, and copies them to the host."
            " larder's steps are whole ones, with scheduling and events.",
            f"* larder has {grid.rows:,} rows a step, its captured graphs and bf16 keys and values. PyTorch is transformers'"
            " Llama in bf16, whatever larder's weights are: scaled_dot_product_attention, prompts taken whole, and a static"
            " cache with one CUDA graph a step in decode; not compiled.",
            "* Share of the limit, as measured in the same run: decode, of the read bandwidth, with weights as they are stored"
            " and the keys and values of all sequences read once per step; prefill, of the tensor cores' peak in bf16, with"
            " the operations of the layers' products and of causal attention.",
            "* Weights are random (`bench/make_shape.py`).",
            "",
        ]
    )


def write(output, introduction, sections):
    """Puts sections into RESULTS.md and leaves all else that is there."""
    path = output / "RESULTS.md"
    old = path.read_text() if path.exists() else ""
    before = results.sections(old, "# ").get(CHAPTER, "")
    chapter = results.merged(before, "\n".join([introduction, *sections]), "## ")
    path.write_text(results.merged(old, chapter, "# "))


def measure_limits(args):
    device = "cpu" if args.smoke else "cuda"
    command = [sys.executable, str(ROOT / "bench/limits_torch.py"), "--device", device]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("What the card can do could not be measured.")
    return json.loads(done.stdout)


def run(args):
    grid = grid_of(args)
    models.FOLDER.mkdir(parents=True, exist_ok=True)
    if missing := models.room_is_missing(args.models):
        sys.exit(missing)
    limits = measure_limits(args)
    print(f"{limits['card']}: {limits_text(limits)}", flush=True)
    if not args.smoke and not cublas_folder():
        print("No cuBLASLt came with PyTorch: larder takes the system's or, where there is none, its own kernels.")
    parts, faults = [], []
    for name in args.models:
        reasons = {case: left_out(case, name, grid, limits["memory_bytes"]) for case in args.cases}
        out = {case: reason for case, reason in reasons.items() if reason}
        measured = [case for case in args.cases if case not in out]
        cells, headings = {}, {}
        if measured:
            cells, headings = measure(starters(name, measured, args, grid), measured, args.rounds, RUNS, name)
        parts.append(section(name, args, cells, out, headings, limits))
        write(args.output, introduction(grid), parts)
        progress("")
        print(f"{name} is measured", flush=True)
        faults += [f"{name}, {fault}" for fault in faults_of(cells, out, args)]
    print(f"{args.output / 'RESULTS.md'} is written")
    if args.smoke and faults:
        sys.exit("\n".join(faults))


def faults_of(cells, out, args):
    """What a run of tiny models must not show: a case without numbers, or none that is left out."""
    for case, row in cells.items():
        for engine, cell in row.items():
            if cell.failure:
                yield f"{engine}, {case}: {cell.failure}"
            elif len(cell.seconds) != args.rounds * RUNS or not all(0 < s < math.inf for s in cell.seconds):
                yield f"{engine}, {case}: {cell.seconds} seconds"
            elif cell.n_tokens != tokens_of(case):
                yield f"{engine}, {case}: {cell.n_tokens} tokens"
    if not cells or not out:
        yield f"{len(cells)} cases measured, {len(out)} left out"


def tokens_of(case):
    """Tokens whose time a case takes."""
    numbers = [int(number) for number in case.split()[1:]]
    return numbers[-2] * numbers[-1]


if __name__ == "__main__":
    print(library_path(cublas_folder()))
