"""Ask again for the cells whose row fell, and send what comes through the same gates. Core: plan/, generate/."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from curation.config.project import settings_digest
from curation.errors import UnusableAnswers, command
from curation.plan import Cell, coverage
from curation.stages.decide import decide
from curation.stages.dedup import dedup
from curation.stages.generate import FELL_SHOWN, Wanted, Writing, write_cells
from curation.stages.score import score
from curation.stages.screen import screen
from curation.store import runs
from curation.store.database import hold_lock
from curation.views.plan_coverage import Standing, standing
from curation.workspace import Progress, StageResult, open_workspace


def refill(folder: Path, *, rounds: int | None = None, progress: Progress | None = None) -> StageResult:
    """Ask again for the cells that fell short, told what is taken; then score, dedup and screen what came. Core: plan/, generate/.

    Args:
        rounds: how often a cell may be asked again in all; by default what `plan.refill` says.
    """
    with open_workspace(folder) as workspace:
        most = workspace.project.plan.refill.rounds if rounds is None else rounds
        first = now = standing(workspace)
    done = Writing()
    turns = 0
    while not done.stopped and (short := now.short(most)):
        decide(folder)  # what has fallen is no parent for others
        turns += 1
        more = _write_again(folder, short, now, progress)
        done = Writing(done.asked + more.asked, done.rows + more.rows, more.error)
        for stage in (score, dedup, screen):
            stage(folder, progress=progress)
        with open_workspace(folder) as workspace:
            now = standing(workspace)
    decide(folder)  # what came in the last turn has its verdict too
    if isinstance(done.error, UnusableAnswers):
        raise done.error
    return _tell(folder, first, now, done, turns)


def _write_again(folder: Path, short: Sequence[Cell], now: Standing, progress: Progress | None) -> Writing:
    with open_workspace(folder) as workspace, hold_lock(workspace.db, "generate"):
        with runs.record_run(workspace.db, "refill", settings_digest(workspace.project.plan)) as run:
            run.rows_in = len(short)
            avoid = max(workspace.project.plan.avoid, FELL_SHOWN)
            wanted = Wanted(short, {cell.id: cell for cell in now.cells}, now.attempts, avoid)
            done = write_cells(workspace, wanted, run=run.number, progress=progress)
            run.rows_out = done.rows
        return done


def _tell(folder: Path, first: Standing, now: Standing, done: Writing, turns: int) -> StageResult:
    before, after = coverage(first.cells, first.filled), coverage(now.cells, now.filled)
    cells = len(now.cells)
    counts = {
        "cells": cells,
        "filled_before": _filled(first.cells, first.filled),
        "filled": _filled(now.cells, now.filled),
        "coverage_before": _share(first.cells, first.filled),
        "coverage": _share(now.cells, now.filled),
        "rounds": turns,
        "asked": done.asked,
        "still_short": {
            f"{name}: {value}": f"{have} of {planned}"
            for name, values in after.items()
            for value, (have, planned) in values.items()
            if have < planned
        },
        "attributes": {
            name: {value: (before.get(name, {}).get(value, (0, 0))[0], have, planned) for value, (have, planned) in values.items()}
            for name, values in after.items()
        },
    }
    notes = [done.stopped] if done.stopped else []
    if (left := cells - _filled(now.cells, now.filled)) and not done.stopped:
        asked = max((n for cell, n in now.attempts.items() if cell not in now.filled), default=1)
        again = command("curate", "refill", folder, "--rounds", asked)
        notes.append(f"{left:,} {'cell has' if left == 1 else 'cells have'} no row that stands. To ask for them once more: {again}")
    return StageResult("refill", done.asked, done.rows, counts, notes)


def _filled(cells: Sequence[Cell], filled: Collection[str]) -> int:
    return sum(cell.id in filled for cell in cells)


def _share(cells: Sequence[Cell], filled: Collection[str]) -> float:
    return round(_filled(cells, filled) / len(cells), 4) if cells else 0.0
