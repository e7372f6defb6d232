"""Measure `curation.scan` by step on growing numbers of rows: processor seconds, and the peak memory of a worker.

    python -m benchmarks.scan --rows 10000 30000 100000                 # exact, near and leaks
    python -m benchmarks.scan --rows 10000 30000 --semantic             # vectors too

Rows are drawn from a vocabulary by rank (Zipf), 8 to 60 words, one in five a near-copy; the protected set has 1,000 items. Every size runs
in a process of its own, task after task, with one thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path


def measure(rows: int, semantic: bool, rows_per_task: int) -> dict[str, object]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from curation.scan import InProcess, ScanSettings, Suite, scan

    draws = np.random.default_rng(7)
    vocabulary = np.array([f"w{n:x}{n * 7919 % 9973:x}" for n in range(30_000)])

    def text() -> str:
        return " ".join(vocabulary[np.minimum(draws.zipf(1.3, draws.integers(8, 60)), 30_000) - 1])

    with tempfile.TemporaryDirectory() as folder:
        source, made, texts = Path(folder) / "rows", list[str](), list[str]()
        source.mkdir()
        for start in range(0, rows, 10_000):
            part = [text() for _ in range(min(10_000, rows - start) * 4 // 5)]
            made = part[:500]
            part += [one.replace(" w1", " w2", 1) + "." for one in (part[n] for n in draws.integers(0, len(part), len(part) // 4))]
            columns, texts = {"text": part}, texts + part
            if semantic:
                vectors = draws.normal(size=(len(part), 384)).astype(np.float32)
                columns["vector"] = list(vectors)
            pq.write_table(pa.table(columns), source / f"part-{start:09d}.parquet", row_group_size=10_000)
        suites = (Suite("exam", tuple(made + [text() for _ in range(500)])),)
        settings = ScanSettings(suites=suites, rows_per_task=rows_per_task, vectors="vector", semantic=0.9 if semantic else None)
        found = scan(str(source), str(Path(folder) / "found"), settings, InProcess())
        same = compare(texts, Path(folder) / "found")
    steps = {step: [cost.tasks, round(cost.cpu_s, 2), round(cost.peak_mb)] for step, cost in found.costs.items() if cost.tasks}
    return {"rows": found.rows, "found": found.found, "drops, of these as in process": same, "steps": steps}


def compare(texts: list[str], folder: Path) -> list[int]:
    """Return the exact and near-duplicates that one process finds, and how many of them the scan dropped for the same row."""
    import pyarrow.parquet as pq

    from curation.dedup import find_exact, find_near

    lines = [line for part in sorted(folder.glob("*.parquet")) for line in pq.read_table(part).to_pylist()]
    place = {line["part"]: int(line["part"][5:14]) for line in lines}
    wanted = {(line["row"], line["kept"]) for line in find_exact(texts).to_pylist()}
    gone = {row for row, _ in wanted}
    left = [row for row in range(len(texts)) if row not in gone]
    wanted |= {(left[line["row"]], left[line["kept"]]) for line in find_near([texts[row] for row in left], edits=None).to_pylist()}
    found = {
        (place[line["part"]] + line["row"], int(line["kept_part"][5:14]) + line["kept_row"])
        for line in lines
        if line["kind"] in ("exact", "near")
    }
    return [len(wanted), len(wanted & found)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--rows-per-task", type=int, default=10_000)
    parser.add_argument("--semantic", action="store_true")
    parser.add_argument("--one", action="store_true", help="measure in this process and print JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.rows[0], given.semantic, given.rows_per_task)))
        return
    results = []
    for rows in given.rows:
        command = [sys.executable, "-m", "benchmarks.scan", "--one", "--rows", str(rows), "--rows-per-task", str(given.rows_per_task)]
        done = subprocess.run([*command, *["--semantic"] * given.semantic], capture_output=True, text=True, check=True)
        results.append(json.loads(done.stdout))
        print(json.dumps(results[-1]), flush=True)
    for before, after in itertools.pairwise(results):
        for step in after["steps"]:
            if step in before["steps"] and before["steps"][step][1] > 0.05:
                slope = math.log(after["steps"][step][1] / before["steps"][step][1]) / math.log(after["rows"] / before["rows"])
                print(f"{before['rows']:,} to {after['rows']:,} rows, {step}: slope {slope:.2f}")


if __name__ == "__main__":
    main()
