"""Tests of the arithmetic behind the tables and of talking to engines: python3 -m unittest discover -s bench"""
import sys
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace

import engines
import results
from peer import tokens
from results import Cell

LIMITS = {"read_bytes": 1e9, "f32_operations": 1e9, "int8_operations": 4e9}
SIZES = SimpleNamespace(weight_bytes=90_000_000, layer_weights=1_000_000, kv_values=100_000, is_quantised=True)


class Results(unittest.TestCase):
    def test_rates_and_times(self):
        cell = Cell([0.5, 2.0, 1.0], 100)
        self.assertEqual(cell.values("prefill 100"), [200.0, 50.0, 100.0])
        self.assertEqual(cell.median("prefill 100"), 100.0)
        self.assertEqual(cell.median("first 100 0"), 1000.0)
        self.assertEqual(Cell([0.5, 1.0], 100).median("prefill 100"), 150.0)
        self.assertIsNone(Cell([], 0, failure="broken").median("prefill 100"))

    def test_a_ratio_above_one_is_faster(self):
        self.assertEqual(results.ratio("decode 0 64 1", 30.0, 20.0), 1.5)
        self.assertEqual(results.ratio("first 10 5", 20.0, 30.0), 1.5)
        self.assertIsNone(results.ratio("prefill 1", None, 3.0))
        self.assertIsNone(results.ratio("prefill 1", 3.0, None))

    def test_shares_of_the_limits(self):
        # 64 tokens in 8 s: 8 a second, each 90 MB and, in the middle, 100 tokens of 200 kB
        share = results.limit_share("decode 68 64 1", Cell([8.0], 64), SIZES, LIMITS)
        self.assertEqual(share, "88 %")
        self.assertEqual(results.limit_share("prefill 1000", Cell([1.0], 1000), SIZES, LIMITS), "50 %")
        plain = SimpleNamespace(**{**vars(SIZES), "is_quantised": False})
        self.assertEqual(results.limit_share("prefill 1000", Cell([4.0], 1000), plain, LIMITS), "50 %")
        without = {"read_bytes": 1e9, "f32_operations": 1e9}
        self.assertEqual(results.limit_share("prefill 1000", Cell([1.0], 1000), SIZES, without), "")
        self.assertEqual(results.limit_share("first 9 0", Cell([1.0], 9), SIZES, LIMITS), "")
        self.assertEqual(results.limit_share("decode 0 8 4", Cell([1.0], 32), SIZES, LIMITS), "")

    def test_numbers_are_short(self):
        texts = [results.number(value) for value in (0.1234, 1.234, 12.34, 123.4, 1234.5)]
        self.assertEqual(texts, ["0.12", "1.23", "12.3", "123", "1,234"])
        self.assertEqual(results.spread("prefill 8", Cell([1.0, 2.0, 4.0], 8)), "4 (2–8)")

    def test_a_table_has_a_row_for_a_peer_that_failed(self):
        cells = {
            "prefill 512": {
                "larder": Cell([1.0, 2.0, 4.0], 512),
                "llama.cpp": Cell([4.0, 4.0, 4.0], 512),
                "OpenVINO": Cell([], 0, failure="Unsupported type"),
            },
            "first 64 32": {
                "larder": Cell([0.01], 64, n_cached=0),
                "llama.cpp": Cell([0.02], 64),
                "OpenVINO": Cell([], 0, failure="Unsupported type"),
            },
        }
        names = ["larder", "llama.cpp", "OpenVINO"]
        table = results.model_table(names, list(cells), cells, {"larder": SIZES}, LIMITS).splitlines()
        self.assertEqual(len({line.count("|") for line in table}), 1)
        self.assertEqual(
            table[2],
            "| prefill 512, tokens/s | 256 (128–512) | 128 (128–128) | – | **2.00** | – | 13 % |",
        )
        self.assertIn("| **2.00** | – |", table[3])
        failures = results.failures(names, list(cells), cells)
        self.assertEqual(failures, ["OpenVINO, every case: Unsupported type"])
        self.assertEqual(len(results.cache_misses(list(cells), cells)), 1)

    def test_titles(self):
        self.assertEqual(results.case_title("decode 0 64 16"), "decode at depth 0, 16 together, tokens/s")
        self.assertEqual(results.case_title("decode 512 64 1"), "decode at depth 512, tokens/s")
        self.assertEqual(results.case_title("first 2064 2048"), "first token, 2048 of 2064 cached, ms")
        self.assertEqual(results.case_title("prefill 512"), "prefill 512, tokens/s")
        self.assertEqual(results.case_title("prefill 512 8"), "prefill 8 × 512, tokens/s")
        self.assertEqual(results.case_title("generate 512 32 8"), "decode at depth 512, 8 together, tokens/s")

    def test_sections_are_replaced_and_others_kept(self):
        old = "before\n# A\nold\n## A1\nx\n\n# B\nb\n"
        self.assertEqual(results.merged(old, "# A\nnew\n", "# "), "before\n\n# A\nnew\n\n# B\nb\n")
        self.assertEqual(results.merged("", "# C\n## C1\n", "# "), "# C\n## C1\n")
        both = results.merged("# A\na\n", "# C\nc\n", "# ")
        self.assertEqual(both, "# A\na\n\n# C\nc\n")
        self.assertEqual(results.merged(both, "# C\nc\n", "# "), both)
        chapter = results.merged("# C\nold words\n## x\n1\n## y\n2\n", "# C\nnew words\n## y\n3\n", "## ")
        self.assertEqual(chapter, "# C\nnew words\n\n## x\n1\n\n## y\n3\n")


class Engines(unittest.TestCase):
    def test_an_engine_that_cannot_start_says_why(self):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            for command, expected in (
                (["/no/such/program"], "cannot be started"),
                ([sys.executable, "-c", "raise ValueError('no such type\\n\\n')"], "ValueError: no such type"),
                ([sys.executable, "-c", "import os; os.abort()"], "SIGABRT"),
                ([sys.executable, "-c", "pass"], "status 0"),
            ):
                engine = engines.Engine("larder", command, log)
                engine.end()
                self.assertIn(expected, engine.failure)
                with self.assertRaises(engines.Failed):
                    engine.ask("prefill 1")

    def test_questions_and_answers(self):
        program = "import peer; peer.answer(peer.private_stdout(), {'version': 1}, {'first': lambda a, b: (a / b, a)})"
        command = [sys.executable, "-c", f"import sys; sys.path[0] = {str(Path(__file__).parent)!r}; {program}"]
        with tempfile.TemporaryDirectory() as folder:
            engine = engines.Engine("larder", command, Path(folder) / "log")
            self.assertEqual(engine.heading, {"version": 1})
            for _ in range(3):
                self.assertEqual(engine.ask("first 6 4")["seconds"], [1.5])
            for wrong in ("first 1 0", "first 1", "second 1"):
                with self.assertRaises(engines.Failed):
                    engine.ask(wrong)
            self.assertEqual(engine.ask("first 6 4")["tokens"], 6)
            engine.end()


class Tokens(unittest.TestCase):
    def test_salts_give_other_tokens(self):
        firsts = {tokens([0], salt, 32768)[0] for salt in range(100)}
        self.assertEqual(len(firsts), 100)


if __name__ == "__main__":
    unittest.main()
