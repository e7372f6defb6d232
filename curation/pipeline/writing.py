"""The stages in which the teacher writes: plan, generate. Core: plan/, generate/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curation import generate as generation
from curation.errors import ProjectError, UnusableAnswers, command
from curation.pipeline.asking import Progress, count_failed, is_simulated, settle_earlier
from curation.pipeline.bench import Bench, Summary, load_cells, open_bench
from curation.pipeline.checking import check_before
from curation.pipeline.following import generate_settings
from curation.pipeline.rounds import Wanted, next_attempts, only_one_writes, write_cells
from curation.pipeline.sources import lay_out
from curation.pipeline.written import read_generated
from curation.plan import Cell, coverage
from curation.project import planned_rows, settings_digest
from curation.records import KINDS
from curation.store import CallLedger, facts, records, runs


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
    """Have the teacher write the cells that have no record yet. Every answer is on disk before it is read. Core: generate/."""
    with open_bench(folder) as bench, only_one_writes(bench):
        cells = load_cells(bench)
        if not cells:
            raise ProjectError(*_no_plan(bench))
        with runs.record_run(bench.db, "generate", generation.generation_digest(bench.project, "instruction")) as run:
            left = settle_earlier(bench)
            read_generated(bench, cells, run.number)
            made, failed = records.cells_made(bench.db), facts.failed_slots(bench.db, "generate")
            missing = [c for c in cells if c.id not in made and (retry_failed or c.id not in failed)]
            run.rows_in = len(missing)
            attempts = {cell: n for cell, n in next_attempts(bench).items() if cell in failed}
            wanted = Wanted(missing, {cell.id: cell for cell in cells}, attempts, bench.project.plan.avoid)
            done = write_cells(bench, wanted, run=run.number, progress=progress)
            run.rows_out = done.rows
            run.detail = {
                "asked": len(missing), "records": done.rows, "stopped": done.why, "budget_usd": bench.project.budget.usd,
                "settings": generate_settings(bench),
            }  # fmt: skip
        if isinstance(done.error, UnusableAnswers):  # what came before is kept, and the run is in the record
            raise done.error
        return _tell_generated(bench, cells, run.rows_in, done.rows, [*left, *([done.stopped] if done.stopped else [])])


def _no_plan(bench: Bench) -> tuple[str, str, str]:
    if any(planned_rows(bench.project).values()):
        return str(bench.folder), "has no plan yet", command("curate", "plan", bench.folder)
    where, imported = bench.folder / "project.yaml", command("curate", "import", bench.folder)
    return f"{where}: plan", "asks for no rows", f"set plan.instruction or plan.preference and run curate plan, or {imported} FILE"


def _affordable(bench: Bench) -> int | None:
    """How many more calls of the teacher the budget covers, by what they have cost so far; None where nothing has been paid."""
    spec = bench.project.models.teacher
    paid = [row for row in CallLedger(bench.db).costs() if row.stage == "generate" and row.simulated == is_simulated(spec)]
    calls, cost = sum(row.calls for row in paid), sum(row.cost_usd + row.uncertain_usd for row in paid)
    left = bench.project.budget.usd - CallLedger(bench.db).spent_usd(simulated=is_simulated(spec))
    return max(0, int(left * calls / cost)) if cost else None


def _tell_generated(bench: Bench, cells: Sequence[Cell], asked: int, new: int, notes: list[str]) -> Summary:
    made = records.cells_made(bench.db)
    failures = count_failed(bench, "generate")
    by_kind = dict[str, int]((kind, sum(c.id in made and c.kind == kind for c in cells)) for kind in KINDS)
    counts = {"asked": asked, **by_kind, "cells_filled": len(made & {c.id for c in cells}), "cells": len(cells), "failures": failures}
    counts["refusals"] = CallLedger(bench.db).refusals("generate")
    failed = facts.failed_slots(bench.db, "generate").keys() - made
    if empty := sum(cell.id in failed for cell in cells):
        again = command("curate", "generate", bench.folder, "--retry-failed")
        notes.append(f"{empty:,} {'cell' if empty == 1 else 'cells'} got no answer that could be used. To ask once more: {again}")
        covered = _affordable(bench)
        if covered is not None and covered < empty:
            notes.append(f"What is left of budget.usd covers about {covered:,} of them.")
    if bench.project.models.teacher.provider == "offline-stand-in":
        notes.append("The teacher is the offline stand-in: made-up examples, for trying things out.")
    return Summary("generate", asked, new, counts, notes)
