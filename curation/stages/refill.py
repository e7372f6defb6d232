"""Generate again for the cells whose row was dropped or rejected, and send the new rows through the same gates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curation.config.project import settings_digest
from curation.errors import UnusableAnswers, command
from curation.plan import Cell, coverage
from curation.stages.cells import EXAMPLES_SHOWN, Wanted, Writing, write_cells
from curation.stages.dedup import dedup
from curation.stages.score import score
from curation.stages.screen import screen
from curation.stages.verdicts import update_verdicts
from curation.store import runs
from curation.store.database import hold_lock
from curation.views.plan_coverage import PlanCoverage, cover_plan
from curation.views.state import ProjectState
from curation.workspace import Progress, StageResult, open_workspace


def refill(folder: Path, *, rounds: int | None = None, progress: Progress | None = None) -> StageResult:
    """Generate again for the empty cells, with the taken texts shown; then score, dedup and screen the new rows.

    Args:
        folder: of the project.
        rounds: how often a cell may be requested again in all; by default `plan.refill.rounds`.
        progress: called by each stage.

    Raises:
        UnusableAnswers: too many responses in a row could not be used; what came before is kept.
    """
    with open_workspace(folder) as workspace:
        most = workspace.project.plan.refill.rounds if rounds is None else rounds
        first = now = cover_plan(ProjectState(workspace))
    done = Writing()
    turns = 0
    while not done.stopped and (short := now.short(most)):
        turns += 1
        more = _write_again(folder, short, now, progress)
        done = Writing(done.asked + more.asked, done.rows + more.rows, more.error)
        for stage in (score, dedup, screen):
            stage(folder, progress=progress)
        with open_workspace(folder) as workspace:
            now = cover_plan(ProjectState(workspace))
    with open_workspace(folder) as workspace:
        update_verdicts(workspace)  # the rows of the last turn have a verdict too
    if isinstance(done.error, UnusableAnswers):
        raise done.error
    return _summarize(folder, first, now, done, turns)


def _write_again(folder: Path, short: Sequence[Cell], now: PlanCoverage, progress: Progress | None) -> Writing:
    with open_workspace(folder) as workspace:
        update_verdicts(workspace)  # a dropped row is no parent of others
        with hold_lock(workspace.db, "generate"), runs.record_run(workspace.db, "refill", settings_digest(workspace.project.plan)) as run:
            run.rows_in = len(short)
            shown = max(workspace.project.plan.avoid, EXAMPLES_SHOWN)
            wanted = Wanted(short, {cell.id: cell for cell in now.cells}, now.attempts, shown)
            done = write_cells(workspace, wanted, run=run.number, progress=progress)
            run.rows_out = done.rows
        return done


def _summarize(folder: Path, first: PlanCoverage, now: PlanCoverage, done: Writing, turns: int) -> StageResult:
    before, after = coverage(first.cells, first.filled), coverage(now.cells, now.filled)
    counts = {
        "cells": len(now.cells),
        "filled_before": first.filled_cells,
        "filled": now.filled_cells,
        "coverage_before": first.share,
        "coverage": now.share,
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
    if (left := len(now.cells) - now.filled_cells) and not done.stopped:
        asked = max((n for cell, n in now.attempts.items() if cell not in now.filled), default=1)
        again = command("curate", "refill", folder, "--rounds", asked)
        notes.append(f"{left:,} {'cell has' if left == 1 else 'cells have'} no row that passes. To request them once more: {again}")
    return StageResult("refill", done.asked, done.rows, counts, notes)
