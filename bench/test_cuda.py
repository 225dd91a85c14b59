"""Tests of the GPU's cases, tables and turns, without one: python3 -m unittest discover -s bench"""
import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cuda
import make_shape
import models
import results
from engines import Engine
from results import Cell

LIMITS = {"card": "Card 1", "memory_bytes": 80 << 30, "read_bytes": 1e12, "tensor_operations": 1e14}


class Cases(unittest.TestCase):
    def test_the_grid(self):
        cases = cuda.cases_of(cuda.GRID)
        self.assertEqual(len(cases), 24)
        self.assertEqual(cases[0], "generate 512 32 1")
        self.assertIn("prefill 32768 128", cases)
        self.assertEqual(len(cuda.cases_of(cuda.GRID, "prefill")), 12)

    def test_room(self):
        self.assertEqual(cuda.room_of("prefill 512 8"), (4096, 512, 8))
        self.assertEqual(cuda.room_of("generate 512 32 8"), (8 * (512 + 66), 545, 8))
        command = cuda.larder_command("m.gguf", ["prefill 9 2", "generate 4 2 5"], cuda.SMOKE, "larder")
        flags = dict(zip(command[4::2], command[5::2]))
        self.assertEqual(command[:4], ["larder", "bench", "m.gguf", "--stdin"])
        self.assertEqual(flags["--device"], "cuda")
        self.assertEqual((flags["--total-tokens"], flags["--max-sequence-tokens"]), ("50", "9"))
        self.assertEqual((flags["--max-sequences"], flags["--max-batch-rows"]), ("5", "64"))

    def test_what_does_not_fit_is_left_out_with_the_reason(self):
        # 8B in bf16: 15.0 GiB of weights, 128 KiB a token, and 3 GiB of reserve; 128 × (512 + 66) tokens take 9 GiB.
        case = "generate 512 32 128"
        needed = models.file_bytes("8b-bf16") + (128 << 10) * 128 * (512 + 66) + (3 << 30)
        self.assertAlmostEqual(needed / 2**30, 27.0, 1)
        self.assertIsNone(cuda.left_out(case, "8b-bf16", cuda.GRID, needed))
        reason = cuda.left_out(case, "8b-bf16", cuda.GRID, needed - 1)
        self.assertEqual(reason, "needs 27.0 GiB of device memory, 27.0 are free")
        self.assertIsNone(cuda.left_out(case, "8b-q4_k", cuda.GRID, needed - 1))

    def test_long_prefills_are_left_out(self):
        self.assertIsNone(cuda.left_out("prefill 8192 8", "1b-bf16", cuda.GRID, 80 << 30))
        self.assertIn("65,536", cuda.left_out("prefill 8192 32", "1b-bf16", cuda.GRID, 80 << 30))


class Sizes(unittest.TestCase):
    def test_shapes(self):
        sizes = models.sizes_of_shape("8b-bf16")
        self.assertAlmostEqual(sizes.weight_bytes / 1e9, 15.01, 2)  # 8.03e9 weights but for the embedding
        self.assertAlmostEqual(models.file_bytes("8b-bf16") / 1e9, 16.06, 2)
        self.assertEqual((sizes.kv_values, sizes.head_values), (65536, 131072))
        tied = models.sizes_of_shape("1b-q8_0")
        self.assertEqual(tied.weight_bytes, models.file_bytes("1b-q8_0"))
        self.assertTrue(tied.is_quantised)

    def test_a_file_is_as_large_as_its_shape_says(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in models.TINY_MODELS:
                path = Path(folder) / f"{name}.gguf"
                make_shape.make(*name.split("-"), path)
                rest = path.stat().st_size - models.file_bytes(name)
                self.assertTrue(0 < rest < 40_000, f"{name}: {rest} bytes besides the tensors")

    def test_rows_must_be_whole_blocks(self):
        with self.assertRaisesRegex(ValueError, "896"):
            models.file_bytes("0.5b-q4_k")

    def test_shares_on_a_card(self):
        sizes = models.Sizes(10**9, 10**9, kv_values=10**5, is_quantised=True, head_values=10**4)
        # 10 steps a second, of 1 GB and of 4 times 1000 tokens of 0.2 MB each
        share = results.limit_share("generate 996 8 4", Cell([0.8], 32), sizes, LIMITS)
        self.assertEqual(share, "2 %")
        share = results.limit_share("generate 996 8 4", Cell([0.008], 32), sizes, LIMITS)
        self.assertEqual(share, "180 %")
        # 1e4 tokens a second of 2e9 and, in the mean over the prompt, of 4 × 1e4 × 50,000 operations
        share = results.limit_share("prefill 99999 1", Cell([1.0], 10_000), sizes, LIMITS)
        self.assertEqual(share, "40 %")


class Sections(unittest.TestCase):
    def section(self, name="1b-q8_0"):
        cases = ["generate 512 32 1", "generate 8192 32 128", "prefill 512 1"]
        cells = {
            cases[0]: {"larder": Cell([0.032, 0.016, 0.064], 32), "PyTorch": Cell([0.064], 32)},
            cases[2]: {"larder": Cell([0.01], 512), "PyTorch": Cell([], 0, failure="no memory")},
        }
        args = SimpleNamespace(engines=["larder", "PyTorch"], cases=cases, rounds=3)
        headings = {"larder": {"version": "1.0"}, "PyTorch": {"version": "2.0"}}
        return cuda.section(name, args, cells, {cases[1]: "needs more"}, headings, LIMITS)

    def test_a_section_has_all_rows(self):
        text = self.section()
        self.assertTrue(text.startswith("## Card 1: Llama-3.2-1B's shape, Q8_0\n"))
        for part in ("larder 1.0; PyTorch 2.0", "1,000 GB/s", "100 TFLOP/s", "80.0 GiB", "Medians of 3 × 2 runs"):
            self.assertIn(part, text)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        self.assertEqual({row.count("|") for row in rows}, {7})
        # 1000 steps a second of 1.3 GB are more than the card reads; PyTorch reads 2.5 GB 500 times.
        self.assertIn("| decode at depth 512, tokens/s | 1,000 (500–2,000) | 500 | **2.00** | 133 % | 124 % |", rows)
        self.assertIn("together, tokens/s | left out: needs more | – | – | – | – |", rows[3])
        self.assertIn("| – |", rows[4])
        self.assertIn("* PyTorch, prefill 512 1: no memory", text)

    def test_other_parts_of_the_file_stay(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "RESULTS.md"
            on_cpu = "# Results\n\nwords\n\n## A model\n\n| a |\n"
            path.write_text(on_cpu)
            for name in ("1b-q8_0", "8b-bf16", "1b-q8_0"):
                cuda.write(Path(folder), cuda.introduction(cuda.GRID), [self.section(name)])
                text = path.read_text()
                self.assertTrue(text.startswith(on_cpu + "\n" + cuda.CHAPTER))
                self.assertEqual(text.count("Q8_0\n"), 1)
            self.assertEqual(text.count("## Card 1"), 2)
            # And the other way round.
            chapter = results.sections(text, "# ")[cuda.CHAPTER]
            text = results.merged(text, "# Results\n\nnew\n", "# ")
            self.assertEqual(text, "# Results\n\nnew\n\n" + chapter)


class Turns(unittest.TestCase):
    def engine(self, name, folder, body):
        """Starts a process whose cases are functions of `body`."""
        imports = f"import os, sys; sys.path[0] = {str(Path(__file__).parent)!r}; import peer"
        command = [sys.executable, "-c", f"{imports}\nanswers = peer.private_stdout()\n{body}"]

        def start():
            self.starts.append(name)
            return Engine(name, command, Path(folder) / name)

        return start

    def measure(self, bodies, cases, n_rounds):
        self.starts = []
        with tempfile.TemporaryDirectory() as folder, mock.patch("cuda.progress"):
            starts = {name: self.engine(name, folder, body) for name, body in bodies.items()}
            return cuda.measure(starts, cases, n_rounds, 2, "model")

    GOOD = """
n = 0
def prefill(a, b):
    global n
    n += 1
    return n, a * b
peer.answer(answers, {'version': 7}, {'prefill': prefill})
"""
    FRAGILE = """
def prefill(a, b):
    if a == 2:
        os.abort()
    return 1, a
peer.answer(answers, {}, {'prefill': prefill})
"""

    def test_engines_begin_in_turn_and_warm_up(self):
        cells, headings = self.measure({"larder": self.GOOD, "PyTorch": self.GOOD}, ["prefill 3 2", "prefill 1 1"], 3)
        self.assertEqual(self.starts, ["larder", "PyTorch", "PyTorch", "larder", "larder", "PyTorch"])
        self.assertEqual(headings["larder"], {"version": 7})
        for name in ("larder", "PyTorch"):
            # The first run of each case in a turn does not count; a turn has a process of its own.
            self.assertEqual(cells["prefill 3 2"][name], Cell([2, 3] * 3, 6))
            self.assertEqual(cells["prefill 1 1"][name], Cell([5, 6] * 3, 1))

    def test_who_breaks_down_is_started_again(self):
        cases = ["prefill 1 1", "prefill 2 1", "prefill 3 1", "prefill x", "prefill 4 1"]
        cells, _ = self.measure({"larder": self.FRAGILE}, cases, 2)
        self.assertEqual(len(self.starts), 3)
        self.assertIn("SIGABRT", cells["prefill 2 1"]["larder"].failure)
        self.assertIn("ValueError", cells["prefill x"]["larder"].failure)
        for n in (1, 3, 4):
            self.assertEqual(cells[f"prefill {n} 1"]["larder"], Cell([1] * 4, n))

    def test_who_cannot_start_fails_in_every_case(self):
        bodies = {"larder": "sys.exit('no driver')", "PyTorch": self.GOOD}
        cells, _ = self.measure(bodies, ["prefill 1 1", "prefill 2 1"], 2)
        self.assertEqual(self.starts.count("larder"), 2)
        self.assertTrue(all("no driver" in row["larder"].failure for row in cells.values()))
        self.assertEqual(len(cells["prefill 2 1"]["PyTorch"].seconds), 4)


class Smoke(unittest.TestCase):
    def test_faults_are_seen(self):
        args = SimpleNamespace(rounds=1)
        out = {"prefill 1 1": "why"}
        n_faults = lambda cell, out: len(list(cuda.faults_of({"generate 9 2 3": {"larder": cell}}, out, args)))
        good = Cell([1.0, 2.0], 6)
        self.assertEqual((n_faults(good, out), n_faults(good, {})), (0, 1))
        few, none, no_number, short = ([1.0], 6), ([1.0, 0.0], 6), ([1.0, float("nan")], 6), ([1.0, 1.0], 5)
        for cell in (Cell([], 0, failure="x"), *(Cell(*bad) for bad in (few, none, no_number, short))):
            self.assertEqual(n_faults(cell, out), 1, cell)


if __name__ == "__main__":
    unittest.main()
