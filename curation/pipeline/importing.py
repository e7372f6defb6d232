"""Import existing rows with their sources and metadata. Core: formats/."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from curation.errors import ProjectError
from curation.formats import ReadRow, Shape, open_rows
from curation.pipeline.bench import Summary, open_bench
from curation.records import InstructionRecord, Record, candidates_of
from curation.requests import Failure
from curation.spdx import read_license
from curation.store import facts, records, runs
from curation.store.records import UNKNOWN, Origin, Source, WrittenBy

_BATCH = 5000


@dataclass(frozen=True)
class Provenance:
    """What the person who imports a file says of it."""

    name: str = UNKNOWN
    license: str = UNKNOWN
    """An SPDX expression."""
    written_by: WrittenBy = UNKNOWN


def import_rows(
    folder: Path,
    file: Path,
    *,
    shape: Shape | Literal["auto"] = "auto",
    columns: dict[str, str] | None = None,
    group: str | None = None,
    provenance: Provenance | None = None,
) -> Summary:
    """Import existing rows; a row that cannot be read is counted and shown.

    Args:
        columns: our column name to the file's, where they differ.
        group: the column whose rows of one value stay in one split.
        provenance: where the file comes from and under which license; recorded with every row as unknown where it is not given.

    Raises:
        ProjectError: the file cannot be read, has no known shape or no such group column, none of its rows can be read, or the
            license is no SPDX expression.
    """
    stated = provenance or Provenance()
    license = read_license(stated.license)
    with open_bench(folder) as bench:
        rules = bench.project.records
        rows = open_rows(
            file, format=shape, columns=columns, system_instruction=rules.system is not None, label_pattern=rules.label_pattern,
            group_column=group,
        )  # fmt: skip
        first = next(rows, None)
        with file.open("rb") as body:
            source = hashlib.file_digest(body, "sha256").hexdigest()
        with runs.record_run(bench.db, "import", source) as run:
            failures: list[Failure] = []
            new_records = new_origins = 0
            kept, cut = Counter[str](), Counter[str]()
            everything = itertools.chain([first] if first else [], rows)
            while batch := list(itertools.islice(everything, _BATCH)):
                run.rows_in += len(batch)
                failures += [
                    Failure(
                        stage="import", slot=f"{file.name}:{row.place}", key=source, reason="row",
                        detail=f"{row.failure.reason}: {row.failure.raw[:500]}",
                    )
                    for row in batch
                    if row.failure
                ]  # fmt: skip
                kept.update(name for row in batch for name in row.meta)
                cut.update(name for row in batch for name in row.left_out)
                added, seen = records.add_records(bench.db, [m for row in batch for m in _imported(row, source, group)], run.number)
                new_records, new_origins = new_records + added, new_origins + seen
            facts.add_failures(bench.db, failures, run.number)
            run.rows_out = run.rows_in - len(failures)
            run.detail = {"file": file.name, "failed": len(failures)}
            if not run.rows_out:
                first_reason = f"; the first: {failures[0].detail[:120]}" if failures else ""
                fact = f"none of its {run.rows_in:,} rows could be read{first_reason}"
                raise ProjectError(str(file), fact, "correct the file, or say what it is with --format and --column")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            said = Source(source, stated.name.strip() or UNKNOWN, license, stated.written_by, file.name, now)
            about_source = _source_notes(said, records.add_source(bench.db, said))
        notes = [f"{failure.slot}: not imported. {failure.detail}" for failure in failures[:5]]
        notes += [f"Metadata column {name}: not kept in {count:,} rows (too large, or not JSON)." for name, count in cut.most_common(5)]
        notes += about_source
        counts = {
            "new_records": new_records, "seen_before": run.rows_out - new_origins, "failed": len(failures),
            "metadata": list(dict(kept.most_common())),
        }  # fmt: skip
        return Summary("import", run.rows_in, run.rows_out, counts, notes)


def _source_notes(said: Source, before: Source | None) -> list[str]:
    """Return what is unknown of a source, and what this import changes of what an earlier one stated."""
    notes = []
    for words, was, now in (
        ("name", before and before.name, said.name),
        ("license", before and before.license, said.license),
        ("author", before and before.written_by, said.written_by),
    ):
        if was not in (None, UNKNOWN, now) and now != UNKNOWN:
            notes.append(f"{said.file}: its {words} was recorded as {was} by an earlier import; it is {now} now.")
    unknown = [
        option
        for option, was, now in zip(
            ("--source NAME", "--license SPDX", "--written-by people|model"),
            (before.name, before.license, before.written_by) if before else (UNKNOWN,) * 3,
            (said.name, said.license, said.written_by),
            strict=True,
        )
        if UNKNOWN == was == now
    ]
    if unknown:
        notes.append(f"{said.file}: its origin is recorded as unknown. To state it, run the same import again with {' '.join(unknown)}.")
    return notes


def _imported(row: ReadRow, source: str, group: str | None) -> Iterator[tuple[Record, Origin]]:
    seed_group = f"{group}:{row.group}" if row.group is not None else None
    for value in row.values:
        if isinstance(value, InstructionRecord):
            yield value, Origin("imported", source, row.place, seed_group=seed_group, meta=row.meta)
            continue
        yield value.record, Origin("imported", source, row.place, better=value.chosen, seed_group=seed_group, meta=row.meta)
        for part, candidate in enumerate(candidates_of(value.record), 1):
            yield candidate, Origin("imported", source, row.place, part, seed_group=seed_group)
