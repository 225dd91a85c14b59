"""Measures larder beside llama.cpp and OpenVINO GenAI and writes bench/RESULTS.md and bench/results.svg: `make bench`.
With `--device cuda` on a GPU, beside PyTorch (cuda.py): `make bench-cuda`.

    build/bench/venv/bin/python bench/run.py [--quick] [--models 1b-q8_0 ...] [--only decode] [--rounds 5] [--threads 2]
    build/bench/venv-cuda/bin/python bench/run.py --device cuda [--models 8b-bf16 ...] [--only generate] [--rounds 3]

On the processor, first what the machine can do is measured. Then for each model all engines load it, and take turns: a case,
an engine after the other, round after round, the first engine another one every time. Who is not at work is stopped (SIGSTOP).
"""
import argparse
import contextlib
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import cuda
import models
import results
from engines import COMMANDS, ROOT, Engine, Failed, progress

CASES = (
    *(f"prefill {n}" for n in (128, 512, 2048)),
    *(f"decode {depth} 64 1" for depth in (0, 512, 4096)),
    *(f"decode 0 32 {n}" for n in (4, 16, 32)),
    "first 2064 2048",
    "first 2064 0",
)
QUICK_CASES = ("prefill 128", "decode 0 16 1", "decode 256 8 1", "decode 0 8 4", "first 272 256", "first 272 0")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small cases, one model and one round: only whether all runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--smoke", metavar="FOLDER", help="the run of a GPU, tiny, on the stand-in for the driver in FOLDER")
    names = [*models.MODELS, *models.DEVICE_MODELS, *models.TINY_MODELS]
    parser.add_argument("--models", nargs="+", choices=names, metavar="MODEL", help=", ".join(dict.fromkeys(names)))
    parser.add_argument("--engines", nargs="+", choices=[*COMMANDS, "PyTorch"])
    parser.add_argument("--only", nargs="+", default=[""], metavar="BEGIN", help="cases: prefill, 'decode 0', first, generate")
    parser.add_argument("--rounds", type=int, help="5 after one to warm up; on a GPU 3; with --quick 1")
    parser.add_argument("--threads", type=int, default=physical_cores(), help="one per physical core")
    parser.add_argument("--output", type=Path, help="RESULTS.md's folder: bench/, with --quick or --smoke build/bench/")
    args = parser.parse_args()
    args.on_device = args.device == "cuda" or args.smoke is not None
    small = args.quick or args.smoke is not None
    if args.on_device:
        known_models, known_engines, rounds = models.DEVICE_MODELS, cuda.ENGINES, 3
        args.cases = cuda.cases_of(cuda.grid_of(args), tuple(args.only))
    else:
        known_models, known_engines, rounds = models.MODELS, tuple(COMMANDS), 5
        args.cases = [case for case in (QUICK_CASES if args.quick else CASES) if case.startswith(tuple(args.only))]
    if args.smoke:
        known_models, rounds = models.TINY_MODELS, 2
    args.rounds = args.rounds or (1 if args.quick else rounds)
    args.models = args.models or list(known_models[:1] if args.quick else known_models)
    args.engines = args.engines or list(known_engines)
    args.output = args.output or (models.FOLDER if small else ROOT / "bench")
    if strange := {*args.models} - {*known_models} | {*args.engines} - {*known_engines}:
        parser.error(f"not for this device: {', '.join(sorted(strange))}")
    if args.rounds < 1 or args.threads < 1 or not args.cases:
        parser.error("there is nothing to measure")
    return args


def cpu_fields():
    """/proc/cpuinfo, a dict per processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    blocks = [block for block in text.strip().split("\n\n") if block]
    return [dict(map(str.strip, line.split(":", 1)) for line in block.splitlines() if ":" in line) for block in blocks]


def physical_cores():
    """Cores that this process may use, hyperthreads counted once."""
    allowed = os.sched_getaffinity(0)
    cores = set()
    for fields in cpu_fields():
        number = int(fields.get("processor", -1))
        if number in allowed:
            cores.add((fields.get("physical id"), fields.get("core id", number)))
    return len(cores) or len(allowed)


def machine():
    """A line about the processor and memory."""
    fields = (cpu_fields() or [{}])[0]
    flags = fields.get("flags", fields.get("Features", "")).split()
    wanted = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")
    known = ", ".join(flag for flag in wanted if flag in flags) or "none of the flags that matter"
    name = fields.get("model name", platform.machine())
    family = f"family {fields['cpu family']}, model {fields['model']}" if "cpu family" in fields else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name} ({family}; {known}), {len(os.sched_getaffinity(0))} processors, {memory:.0f} GiB of memory"


def measure_limits(threads):
    """Bytes and operations per second, by bench/limits.c."""
    program = models.FOLDER / "limits"
    source = ROOT / "bench/limits.c"
    flags = ["-std=gnu11", "-O3", "-march=native", "-pthread"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, source, "-o", program], check=True)
    output = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True).stdout
    return json.loads(output)


def measure_model(name, args):
    """All cells of a model, what its file takes, and the engines as they loaded it."""
    path = models.path_of(name)
    engines = []
    with contextlib.ExitStack() as stack:
        for engine in args.engines:
            progress(f"{name}: {engine} loads")
            command = COMMANDS[engine](path, args.threads)
            engines.append(Engine(engine, command, models.FOLDER / f"{engine}.log"))
            stack.callback(engines[-1].end)
        cells = {case: measure_case(case, engines, args.rounds, name) for case in args.cases}
    return cells, models.sizes_of(path), engines


def measure_case(case, engines, rounds, name):
    cells = {engine.name: results.Cell([], 0) for engine in engines}
    for round in range(rounds + 1):
        turn = round % len(engines)
        for engine in engines[turn:] + engines[:turn]:
            if cells[engine.name].failure:
                continue
            progress(f"{name}: {case}, round {round} of {rounds}, {engine.name}")
            try:
                answer = engine.ask(case)
            except Failed as error:
                cells[engine.name] = results.Cell([], 0, failure=str(error))
                continue
            seconds = cells[engine.name].seconds + (answer["seconds"] if round else [])
            cells[engine.name] = results.Cell(seconds, answer["tokens"], n_cached=answer.get("cached"))
    return cells


def loading_table(engines):
    rows = [
        [engine.name, f"{engine.heading['load_seconds']:.1f} s", f"{(engine.peak_bytes or 0) / 2**20:,.0f} MiB"]
        for engine in engines
        if not engine.failure
    ]
    return results.markdown(["", "load time", "most memory resident while loading"], rows)


def version_lines(engines):
    return [f"{engine.name}: {engine.heading['version']}" for engine in engines if "version" in engine.heading]


def limits_text(limits):
    int8 = f", 8-bit {limits['int8_operations'] / 1e9:,.0f} GOP/s ({limits['int8_kind']})" if "int8_kind" in limits else ""
    return f"reads {limits['read_bytes'] / 1e9:.1f} GB/s, f32 {limits['f32_operations'] / 1e9:,.0f} GFLOP/s{int8}"


def introduction(args, limits, versions):
    return "\n".join(
        [
            "# Results",
            "",
            f"Written by `make bench`, {datetime.date.today().isoformat()}.",
            "",
            *([f"* A part of the cases, with the options `{shlex.join(sys.argv[1:])}`."] if sys.argv[1:] else []),
            f"* Machine: {machine()}. With {args.threads} threads it {limits_text(limits)}, measured in this run.",
            *(f"* {version}" for version in versions),
            f"* Medians of {args.rounds} alternating rounds, with the least and the most. Each engine has its defaults:"
            " larder keeps keys and values in bf16, llama.cpp in f16, OpenVINO in 8 bits.",
            "* A ratio above 1 says that larder is faster. Share of the limit: of the read bandwidth in decode, where the"
            " file's weights and 16-bit keys and values are read once per step; of the 8-bit (plain weights: f32) peak in"
            " prefill, where only the layers' products count.",
            "* OpenVINO samples every token, as its pipeline always does; larder and llama.cpp stop at the logits but for"
            " the first token's time.",
            "* Models but SmolLM2 have random weights (`bench/make_shape.py`).",
            "",
            "![How many times faster larder is](results.svg)",
            "",
        ]
    )


def write(args, limits, measured):
    """Everything measured so far, so that an interrupted run leaves its part."""
    versions, parts = [], []
    for name, (cells, sizes, engines) in measured.items():
        versions += [line for line in version_lines(engines) if line not in versions]
        notes = results.failures(args.engines, args.cases, cells) + results.cache_misses(args.cases, cells)
        gibibytes = f"{sizes.weight_bytes / 2**20:,.0f} MiB of weights a step."
        table = results.model_table(args.engines, args.cases, cells, {"larder": sizes}, limits)
        parts.append("\n".join([f"## {models.title(name)}", "", gibibytes, "", table, loading_table(engines)]))
        parts += ["".join(f"* {note}\n" for note in notes)] if notes else []
    text = introduction(args, limits, versions) + "\n" + "\n".join(parts)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "RESULTS.md"
    path.write_text(results.merged(path.read_text() if path.exists() else "", text, "# "))


def draw(args, measured):
    import plot

    ratios = {}
    for name, (cells, _, _) in measured.items():
        ours = {case: cells[case]["larder"].median(case) for case in args.cases}
        ratios[name] = {
            case: {engine: results.ratio(case, ours[case], cell.median(case)) for engine, cell in cells[case].items()}
            for case in args.cases
        }
    plot.draw(args.output / "results.svg", args.engines, list(measured), ratios)


def main():
    args = parse_arguments()
    if args.on_device:
        return cuda.run(args)
    models.FOLDER.mkdir(parents=True, exist_ok=True)
    if not models.room_is_enough(args.models):
        sys.exit(f"The models that are missing need up to 12 GB in {models.FOLDER}.")
    limits = measure_limits(args.threads)
    print(f"{machine()}: {limits_text(limits)}", flush=True)
    measured = {}
    for name in args.models:
        measured[name] = measure_model(name, args)
        write(args, limits, measured)
        progress("")
        print(f"{name} is measured", flush=True)
    if "larder" in args.engines and len(args.engines) > 1:
        draw(args, measured)
    print(f"{args.output / 'RESULTS.md'} is written")


if __name__ == "__main__":
    main()
