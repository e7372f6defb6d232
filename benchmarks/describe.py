"""Seconds of `curate describe` and of two screens on a project of imported rows whose prompts are embedded already.

    python -m benchmarks.describe --rows 50000

Rows are public instructions and, beyond their number, their sentences drawn again; a response is the beginning of
another one, and one in 200 holds a mail address. Vectors are drawn at random, so that no model is timed. Processor seconds are in brackets.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suites import training_rows


def main() -> None:
    """Make the project, run the commands and print their seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--only", help="one of the commands: describe, or screen")
    args = parser.parse_args()
    rows: int = args.rows
    from curation import api

    with tempfile.TemporaryDirectory() as name:
        folder = make_project(Path(name), rows)
        commands: list[tuple[str, Callable[[], Any]]] = [
            ("describe", lambda: api.describe(folder)),
            ("screen", lambda: api.screen(folder)),
            ("screen after a new row", lambda: (import_one(folder), api.screen(folder))),
        ]
        for command, run in commands:
            if args.only and not command.startswith(args.only):
                continue
            started, used = time.perf_counter(), time.process_time()
            run()
            print(f"{command}: {time.perf_counter() - started:.1f} s ({time.process_time() - used:.1f})", flush=True)
    print(f"{rows:,} rows, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


def make_project(parent: Path, rows: int) -> Path:
    """Create a project of imported rows with a stored vector for each prompt."""
    from curation import api
    from curation.config.project import load_project
    from curation.embed import model_digest
    from curation.store import facts
    from curation.store.database import open_store
    from curation.template import write_template

    folder, source = parent / "described", parent / "rows.jsonl"
    write_template(folder, "blank", offline=True, instruction=0, preference=0)
    path = folder / "project.yaml"
    path.write_text(re.sub(r"(?m)^(brief|intended_use): .*$", r"\1: answer questions", path.read_text()))
    texts = list(training_rows(rows))
    with source.open("w") as file:
        for n, text in enumerate(texts):
            more = f" Write to a{n}@bank.co." if n % 200 == 0 else ""
            file.write(json.dumps({"instruction": text, "output": f"{texts[n - 1][:120]}{more}"}) + "\n")
    api.import_rows(folder, source)
    vectors = np.random.default_rng(0).normal(size=(len(texts), 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with open_store(folder) as db:
        facts.add_vectors(db, model_digest(load_project(folder).dedup.model), {t: v.tobytes() for t, v in zip(texts, vectors, strict=True)})
    return folder


def import_one(folder: Path) -> None:
    """Import one more row."""
    from curation import api

    source = folder.parent / "one.jsonl"
    source.write_text(json.dumps({"instruction": "Which fee has a transfer?", "output": "None."}) + "\n")
    api.import_rows(folder, source)


if __name__ == "__main__":
    main()
