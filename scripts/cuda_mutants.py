#!/usr/bin/env python3
"""Plants one-line faults in the CUDA kernels and says which tests notice, under which policy of the emulator.

    scripts/cuda_mutants.py [--only TEXT] [--tests a,b] [--asan]

Each fault is applied to a copy of kernels/cuda, the kernel files that it touches are compiled for the emulator, and the
tests of the operation are run on the stand-in with these. Prints a table in Markdown; bench/NOTES.md has the last one.
With --asan the stand-in is built with AddressSanitizer, which sees reads out of bounds.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cuda_mutants_list import MUTANTS

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
# As Policy::ALL in kernels/src/standin.rs: name, and what LARDER_STANDIN_POLICY says.
POLICIES = [
    ("lazy/fwd", "0 0 0"),
    ("lazy/rand 1", "0 2 1"),
    ("lazy/rand 2", "0 2 2"),
    ("eager/rand", "1 2 3"),
    ("eager/rev", "1 1 0"),
]
TIME_LIMIT = 300  # of one test under one policy, in seconds


def cargo(arguments, environment):
    """Runs cargo and returns what it prints."""
    command = ["cargo", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed")
    return done.stdout


def executables(arguments, environment):
    """The tests' programs by name."""
    found = {}
    for line in cargo(["test", "--no-run", "--message-format=json", *arguments], environment).splitlines():
        message = json.loads(line)
        if message.get("executable") and "test" in message["target"]["kind"]:
            found[message["target"]["name"]] = message["executable"]
    return found


class Emulator:
    """The stand-in as the build script made it, and copies of it with other kernels."""

    def __init__(self, folder):
        self.folder = Path(folder)
        # Kernel file -> the headers and source it is made from.
        self.inputs = {}
        for source in [*KERNELS.glob("cuda/*.cu"), *KERNELS.glob("tests/cuda/*.cu")]:
            rule = (self.folder / f"{source.stem}.o.d").read_text().replace("\\\n", " ")
            self.inputs[source] = {Path(word) for word in rule.split(":", 1)[1].split()}

    def command(self, name):
        """The recorded command that makes a file: words in quotation marks."""
        return shlex.split((self.folder / f"{name}.command").read_text())

    def mutated(self, scratch, mutant):
        """A folder with the stand-in of the mutated kernels, or None if they do not compile."""
        sources = scratch / "cuda"
        shutil.copytree(KERNELS / "cuda", sources)
        apply(sources / mutant.file, mutant)
        folder = scratch / "standin"
        folder.mkdir()
        for part in self.folder.iterdir():
            if part.is_symlink():
                os.symlink(os.readlink(part), folder / part.name)
            elif ".so" in part.suffixes and not part.name.endswith((".command", ".log")):
                os.link(part, folder / part.name)
        for source, inputs in self.inputs.items():
            is_wanted = not mutant.sources or source.stem in mutant.sources
            if is_wanted and KERNELS / "cuda" / mutant.file in inputs:
                if not self.compile(source, sources, scratch, folder):
                    return None
        return folder

    def compile(self, source, sources, scratch, folder):
        """Compiles one kernel file against the mutated headers and links its library."""
        changed = sources / source.name if source.parent.name == "cuda" and source.parent.parent == KERNELS else source
        object_file = scratch / f"{source.stem}.o"
        library = f"liblarder_kernels_{source.stem}.so"
        replaced = {
            str(KERNELS / "cuda"): str(sources),
            str(source): str(changed),
            str(self.folder / f"{source.stem}.o"): str(object_file),
            str(self.folder / f"{source.stem}.o.d"): str(scratch / "dependencies"),
            str(self.folder / library): str(folder / library),
        }
        (folder / library).unlink()
        for name in (f"{source.stem}.o", library):
            command = [replaced.get(word, word) for word in self.command(name)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                print(done.stderr, file=sys.stderr)
                return False
        return True


def apply(path, mutant):
    """Replaces the text of a mutant, which must be there."""
    text = path.read_text()
    parts = text.split(mutant.old)
    if len(parts) <= mutant.occurrence:
        sys.exit(f"{mutant.file} has no {mutant.old!r} number {mutant.occurrence}")
    before = mutant.old.join(parts[: mutant.occurrence])
    path.write_text(before + mutant.new + mutant.old.join(parts[mutant.occurrence :]))


def notices(program, folder, policy, environment):
    """Whether a test fails; and the first line that says why."""
    environment = {
        **environment,
        "LARDER_STANDIN_FOLDER": str(folder),
        "LARDER_TEST_POLICY": str(policy),
        "LARDER_STANDIN_POLICY": POLICIES[policy][1],
    }
    try:
        done = subprocess.run(
            [program, "-q"], cwd=KERNELS, env=environment, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        return "ran for ever"
    if done.returncode == 0:
        return ""
    output = done.stdout + done.stderr
    for pattern in (r"AddressSanitizer: \S+", r"CUDA_ERROR\w+.*", r"panicked at [^\n]*\n([^\n]*)"):
        if found := re.search(pattern, output):
            return found.group(found.lastindex or 0)[:160]
    return f"status {done.returncode}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="mutants with this in file or description")
    parser.add_argument("--tests", default="", help="only these tests, separated by commas")
    parser.add_argument("--asan", action="store_true")
    arguments = parser.parse_args()

    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    run_environment = dict(environment)
    if arguments.asan:
        environment["LARDER_STANDIN_ASAN"] = "1"
        library = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
        run_environment["LD_PRELOAD"] = library
        run_environment["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0"

    mutants = [it for it in MUTANTS if arguments.only in it.file + " " + it.what]
    wanted = {test for it in mutants for test in it.tests}
    if arguments.tests:
        wanted &= set(arguments.tests.split(","))
    programs = executables(["-p", "larder-kernels", "--features", "standin"], environment)
    if any(test.startswith("cuda_") for test in wanted):
        names = [word for test in sorted(wanted) if test.startswith("cuda_") for word in ("--test", test)]
        programs |= executables(["--features", "cuda-standin", *names], environment)
    path = cargo(
        ["run", "-q", "-p", "larder-kernels", "--features", "standin", "--example", "standin_path"], environment
    ).strip()
    emulator = Emulator(path)

    policies = range(1 if arguments.asan else len(POLICIES))
    print("| file | fault | test |", " | ".join(POLICIES[it][0] for it in policies), "| what is said |")
    print("|-|-|-|" + "-|" * (len(policies) + 1), flush=True)
    missed = 0
    for mutant in mutants:
        with tempfile.TemporaryDirectory(dir=Path(path).parent) as scratch:
            folder = emulator.mutated(Path(scratch), mutant)
            if folder is None:
                print(f"| {mutant.file} | {mutant.what} | | does not compile |", flush=True)
                continue
            said = {}
            used = [test for test in mutant.tests if test in wanted and test in programs]
            for test in used:
                for policy in policies:
                    if policy not in said:
                        why = notices(programs[test], folder, policy, run_environment)
                        if why:
                            said[policy] = why
        missed += not said
        marks = " | ".join("x" if it in said else "" for it in policies)
        why = next(iter(said.values()), mutant.remark).replace("|", "/")
        print(f"| {mutant.file} | {mutant.what} | {', '.join(used)} | {marks} | {why} |", flush=True)
    print(f"\n{len(mutants) - missed} of {len(mutants)} noticed.")


if __name__ == "__main__":
    main()
