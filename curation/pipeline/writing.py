"""The stages in which the teacher writes: plan, generate. Core: plan/, generate/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curation import generate as generation
from curation.errors import BudgetReached, ProjectError
from curation.pipeline.asking import Progress, ask, count_failed, is_simulated
from curation.pipeline.bench import Bench, Summary, load_cells, load_protected, load_seeds, open_bench
from curation.pipeline.checking import check_before
from curation.pipeline.sources import lay_out
from curation.plan import Cell, coverage
from curation.project import settings_digest
from curation.records import KINDS, Record
from curation.requests import Failure
from curation.store import CallLedger, facts, records, runs
from curation.store.records import Origin


def plan(folder: Path) -> Summary:
    """Lay out what to write, cell by cell. Raising a count in project.yaml only adds cells. Core: plan/."""
    with open_bench(folder) as bench:
        known, notes = check_before(bench)
        digest = settings_digest(bench.project.plan)
        with runs.record_run(bench.db, "plan", digest) as run:
            made = [(c.id, c.kind, c.ordinal, c.model_dump_json().encode()) for c in lay_out(bench)]
            added, changed, gone = records.refresh_cells(bench.db, made)
            cells = load_cells(bench)
            run.rows_in = run.rows_out = len(cells)
            done = records.cells_made(bench.db)
        shares = coverage(cells, done)
        by_kind = dict[str, int]((kind, sum(c.kind == kind for c in cells)) for kind in KINDS)
        moved = {name: n for name, n in (("changed", changed), ("gone", gone)) if n}
        counts = {"cells": len(cells), "new": added, **moved, **by_kind, "attributes": shares}
        return Summary("plan", len(cells), len(cells), {**counts, "models": known}, notes)


def generate(folder: Path, *, progress: Progress | None = None, retry_failed: bool = False) -> Summary:
    """Have the teacher write the cells that have no record yet. Every answer is on disk before it is read. Core: generate.py."""
    with open_bench(folder) as bench:
        cells = load_cells(bench)
        if not cells:
            raise ProjectError(str(folder), "has no plan yet", f"curate plan {folder}")
        spec = bench.project.models.teacher
        with runs.record_run(bench.db, "generate", generation.generation_digest(bench.project, "instruction")) as run:
            read_generated(bench, cells, run.number)
            made, failed = records.cells_made(bench.db), facts.failed_slots(bench.db, "generate")
            missing = [c for c in cells if c.id not in made and (retry_failed or c.id not in failed)]
            run.rows_in = len(missing)
            protected = [text for items in load_protected(bench) for text in items.texts]
            requests = generation.requests_for(missing, project=bench.project, seeds=load_seeds(folder), protected_texts=protected)
            if retry_failed:
                requests = (r.model_copy(update={"attempt": _attempts(bench, r.slot)}) for r in requests)
            stopped = ""
            try:
                ask(bench, requests, spec, progress=progress)
            except BudgetReached as error:
                stopped = str(error)
            finally:
                new = read_generated(bench, cells, run.number)
            run.rows_out = new
            run.detail = {"asked": len(missing), "records": new}
            return _tell_generated(bench, cells, run.rows_in, new, stopped)


def read_generated(bench: Bench, cells: Sequence[Cell], run: int) -> int:
    """Turn the teacher's answers that were not read yet into records; returns how many rows they gave."""
    by_id = {cell.id: cell for cell in cells}
    seen = records.origin_sources(bench.db, "generated") | facts.failed_calls(bench.db, "generate")
    made: list[tuple[Record, Origin]] = []
    failures: list[Failure] = []
    for answer in CallLedger(bench.db).answers("generate", simulated=is_simulated(bench.project.models.teacher)):
        key = answer.request.key
        if key in seen or answer.request.slot not in by_id:
            continue
        cell = by_id[answer.request.slot]
        for result in generation.records_from(answer, cell, project=bench.project):
            if isinstance(result, Failure):
                failures.append(result)
                continue
            made.append((result.record, Origin("generated", key, result.item, 0, cell.id, result.better, raw=result.raw)))
            made += [(c, Origin("generated", key, result.item, part, cell.id)) for part, c in enumerate(result.candidates, 1)]
    for start in range(0, len(made), 5000):
        records.add_records(bench.db, made[start : start + 5000], run)
    facts.add_failures(bench.db, failures, run)
    return sum(origin.part == 0 for _, origin in made)


def _attempts(bench: Bench, slot: str) -> int:
    return facts.count_failures(bench.db, "generate", slot)


def _tell_generated(bench: Bench, cells: Sequence[Cell], asked: int, new: int, stopped: str) -> Summary:
    made = records.cells_made(bench.db)
    failures = count_failed(bench, "generate")
    by_kind = dict[str, int]((kind, sum(c.id in made and c.kind == kind for c in cells)) for kind in KINDS)
    counts = {"asked": asked, **by_kind, "cells_filled": len(made & {c.id for c in cells}), "cells": len(cells), "failures": failures}
    notes = [stopped] if stopped else []
    if bench.project.models.teacher.provider == "offline-stand-in":
        notes.append("The teacher is the offline stand-in: made-up examples, for trying things out.")
    return Summary("generate", asked, new, counts, notes)
