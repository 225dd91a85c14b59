"""Runs become numbers, numbers a table, and tables a part of RESULTS.md."""
import statistics
from typing import NamedTuple


class Cell(NamedTuple):
    """What one engine did in one case: its runs in seconds, or why there are none."""

    seconds: list
    n_tokens: int
    failure: str | None = None
    n_cached: int | None = None

    def values(self, case):
        """Milliseconds to the first token; else tokens per second."""
        if case.startswith("first"):
            return [1e3 * seconds for seconds in self.seconds]
        return [self.n_tokens / seconds for seconds in self.seconds]

    def median(self, case):
        return statistics.median(self.values(case)) if self.seconds else None


def ratio(case, ours, theirs):
    """How many times faster larder is, of medians; `None` when one is missing."""
    if not ours or not theirs:
        return None
    return theirs / ours if case.startswith("first") else ours / theirs


def case_title(case):
    name, *numbers = case.split()
    if name == "prefill":
        return f"prefill {' × '.join(reversed(numbers))}, tokens/s"
    if name in ("decode", "generate"):
        depth, _, sequences = numbers
        together = f", {sequences} together" if sequences != "1" else ""
        return f"decode at depth {depth}{together}, tokens/s"
    tokens, cached = numbers
    return f"first token, {cached} of {tokens} cached, ms"


def limit_share(case, cell, sizes, limits):
    """A text: the share of what the machine can do. Decode: the bytes of the file's weights and of 16-bit keys and values
    against the read bandwidth. Prefill: the layers' products against the 8-bit or, for plain weights, the f32 peak; where
    there are tensor cores, those products and attention's against their peak."""
    value = cell.median(case)
    name, *numbers = case.split()
    if value is None or name == "first":
        return ""
    on_device = "tensor_operations" in limits
    if name in ("decode", "generate"):
        depth, n_steps, n_sequences = map(int, numbers)
        if n_sequences > 1 and not on_device:
            return ""  # bound by operations, in part
        n_bytes = sizes.weight_bytes + n_sequences * 2 * sizes.kv_values * (depth + n_steps / 2)
        return percent(value / n_sequences * n_bytes / limits["read_bytes"])
    if on_device:
        # Scores and weighted values, of half the prompt in the mean.
        attention = 4 * sizes.head_values * (int(numbers[0]) + 1) / 2
        return percent(value * (2 * sizes.layer_weights + attention) / limits["tensor_operations"])
    peak = limits.get("int8_operations") if sizes.is_quantised else limits["f32_operations"]
    return percent(2 * sizes.layer_weights * value / peak) if peak else ""


def percent(share):
    return f"{100 * share:.0f} %"


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value >= 1 else f"{value:.2f}"


def spread(case, cell):
    """The median with the least and the most."""
    if not cell.seconds:
        return "–"
    values = cell.values(case)
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def model_table(engines, cases, cells, sizes, limits, left_out=None):
    """One row a case. `cells[case][engine]` is a `Cell`; `sizes[engine]` is what that engine reads, and its share of the
    limit is told then; `left_out[case]` says why a case has no cells."""
    peers = [engine for engine in engines if engine != "larder"]
    ratio_names = [f"larder / {peer}" for peer in peers]
    header = ["", *engines, *ratio_names, *(f"{engine}'s share of the limit" for engine in sizes)]
    rows = []
    for case in cases:
        if left_out and case in left_out:
            rows.append([case_title(case), f"left out: {left_out[case]}", *["–"] * (len(header) - 2)])
            continue
        row = cells[case]
        ours = row["larder"].median(case) if "larder" in row else None
        ratios = [ratio(case, ours, row[peer].median(case)) for peer in peers]
        texts = [f"**{value:.2f}**" if value else "–" for value in ratios]
        shares = [limit_share(case, row[name], sizes[name], limits) if name in row else "" for name in sizes]
        rows.append([case_title(case), *(spread(case, row[engine]) for engine in engines), *texts, *shares])
    return markdown(header, rows)


def failures(engines, cases, cells):
    """A line for every engine that did not answer a case, once per reason."""
    reasons = {}
    for case in cases:
        for engine in engines:
            failure = cells[case][engine].failure
            if failure:
                reasons.setdefault((engine, failure), []).append(case)
    return [
        f"{engine}, {'every case' if len(failed) == len(cases) else ', '.join(failed)}: {reason}"
        for (engine, reason), failed in reasons.items()
    ]


def cache_misses(cases, cells):
    """Cases whose prefix larder's cache did not have."""
    misses = []
    for case in cases:
        cell = cells[case].get("larder")
        if case.startswith("first") and cell and cell.seconds and cell.n_cached != int(case.split()[2]):
            misses.append(f"larder, {case}: {cell.n_cached} prompt tokens came from the cache")
    return misses



def sections(text, mark):
    """The parts of a text whose first lines begin with `mark`, by that line; what comes before the first, by ""."""
    parts, heading = {}, ""
    for line in text.splitlines(keepends=True):
        if line.startswith(mark):
            heading = line.strip()
            parts[heading] = ""
        parts[heading] = parts.get(heading, "") + line
    return parts


def merged(old, new, mark):
    """The old text with the new one's sections in the place of those with the same headings; others of the new follow."""
    parts = {**sections(old, mark), **sections(new, mark)}
    return "\n".join(part.strip("\n") + "\n" for part in parts.values())
