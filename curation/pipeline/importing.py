"""Bring in rows that already exist. Core: formats/."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from curation.errors import ProjectError
from curation.formats import RowFailure, Shape, read_rows
from curation.pipeline.bench import Summary, open_bench
from curation.records import InstructionRecord, Record, candidates_of
from curation.requests import Failure
from curation.store import facts, records, runs
from curation.store.records import Origin


def import_rows(
    folder: Path,
    file: Path,
    *,
    shape: Shape | Literal["auto"] = "auto",
    columns: dict[str, str] | None = None,
    seed_group: str | None = None,
) -> Summary:
    """Bring in rows that already exist; a line that cannot be read is counted and shown. Core: formats/."""
    with open_bench(folder) as bench:
        rules = bench.project.records
        rows = read_rows(
            file, format=shape, columns=columns, system_instruction=rules.system is not None, label_pattern=rules.label_pattern
        )  # fmt: skip
        first = next(rows, None)
        with file.open("rb") as body:
            source = hashlib.file_digest(body, "sha256").hexdigest()
        with runs.record_run(bench.db, "import", source) as run:
            failures: list[Failure] = []
            new_records = new_origins = 0
            everything = itertools.chain([first] if first else [], rows)
            while batch := list(itertools.islice(everything, 5000)):
                run.rows_in += len(batch)
                failures += [
                    Failure(
                        stage="import", slot=f"{file.name}:{line}", key=source, reason="row", detail=f"{value.reason}: {value.raw[:500]}"
                    )
                    for line, value in batch
                    if isinstance(value, RowFailure)
                ]
                made = [m for line, value in batch if not isinstance(value, RowFailure) for m in _imported(value, source, line, seed_group)]
                added, seen = records.add_records(bench.db, made, run.number)
                new_records, new_origins = new_records + added, new_origins + seen
            facts.add_failures(bench.db, failures, run.number)
            run.rows_out = run.rows_in - len(failures)
            run.detail = {"file": file.name, "failed": len(failures)}
            if not run.rows_out:
                first_reason = f"; the first: {failures[0].detail[:120]}" if failures else ""
                fact = f"none of its {run.rows_in:,} rows could be read{first_reason}"
                raise ProjectError(str(file), fact, "mend it, or say what it is with --format and --column")
        notes = [f"{failure.slot} was left out: {failure.detail}" for failure in failures[:5]]
        counts = {"new_records": new_records, "seen_before": run.rows_out - new_origins, "failed": len(failures)}
        return Summary("import", run.rows_in, run.rows_out, counts, notes)


def _imported(value: Any, source: str, line: int, seed_group: str | None) -> Iterator[tuple[Record, Origin]]:
    if isinstance(value, InstructionRecord):
        yield value, Origin("imported", source, line, seed_group=seed_group)
        return
    yield value.record, Origin("imported", source, line, better=value.chosen, seed_group=seed_group)
    for part, candidate in enumerate(candidates_of(value.record), 1):
        yield candidate, Origin("imported", source, line, part, seed_group=seed_group)
