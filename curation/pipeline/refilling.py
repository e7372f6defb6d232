"""Ask again for the cells whose row fell, and send what comes through the same gates. Core: plan/, generate/."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from curation.errors import UnusableAnswers, command
from curation.pipeline.asking import Progress
from curation.pipeline.bench import Bench, Summary, load_cells, open_bench
from curation.pipeline.deciding import decide, decide_rows
from curation.pipeline.duplicates import dedup
from curation.pipeline.judging import score
from curation.pipeline.rounds import FELL_SHOWN, Wanted, Writing, next_attempts, write_cells
from curation.pipeline.screening import screen
from curation.plan import Cell, coverage
from curation.project import settings_digest
from curation.records import KINDS
from curation.store import hold_lock, records, runs

FALLEN = ("dropped", "rejected")
"""Verdicts after which a row no longer stands for its cell."""
LEFT_OUT = "balance"
"""The stage that leaves out rows there are too many of: nothing is wrong with them, so no others are asked for."""


@dataclass(frozen=True)
class Standing:
    """Which cells have a row that no gate and no person has taken out."""

    cells: Sequence[Cell]
    filled: frozenset[str]
    fallen: frozenset[int]
    """The rows that were taken out."""
    attempts: dict[str, int]
    """The number of the next attempt, of the cells that were asked for."""

    def short(self, rounds: int) -> list[Cell]:
        """The cells that were asked for, stand empty, and may be asked again."""
        return [c for c in self.cells if c.id not in self.filled and 1 <= self.attempts.get(c.id, 0) <= rounds]


def refill(folder: Path, *, rounds: int | None = None, progress: Progress | None = None) -> Summary:
    """Ask again for the cells that fell short, told what is taken; then score, dedup and screen what came. Core: plan/, generate/.

    Args:
        rounds: how often a cell may be asked again in all; by default what `plan.refill` says.
    """
    with open_bench(folder) as bench:
        most = bench.project.plan.refill.rounds if rounds is None else rounds
        first = now = standing(bench)
    done = Writing()
    turns = 0
    while not done.stopped and (short := now.short(most)):
        decide(folder)  # what has fallen is no parent for others
        turns += 1
        more = _write_again(folder, short, now, progress)
        done = Writing(done.asked + more.asked, done.rows + more.rows, more.error)
        for stage in (score, dedup, screen):
            stage(folder, progress=progress)
        with open_bench(folder) as bench:
            now = standing(bench)
    decide(folder)  # what came in the last turn has its verdict too
    if isinstance(done.error, UnusableAnswers):
        raise done.error
    return _tell(folder, first, now, done, turns)


def standing(bench: Bench) -> Standing:
    """How the cells stand by what is known now; nothing is measured."""
    cells = load_cells(bench)
    fallen = frozenset(d.seq for d in decide_rows(bench) if d.verdict in FALLEN and all(reason.stage != LEFT_OUT for reason in d.reasons))
    rows = [row for kind in KINDS for row in records.list_rows(bench.db, kind)]
    filled = frozenset(row.cell for row in rows if row.cell is not None and row.seq not in fallen)
    return Standing(cells, filled, fallen, next_attempts(bench))


def _write_again(folder: Path, short: Sequence[Cell], now: Standing, progress: Progress | None) -> Writing:
    with open_bench(folder) as bench, hold_lock(bench.db, "generate"):
        with runs.record_run(bench.db, "refill", settings_digest(bench.project.plan)) as run:
            run.rows_in = len(short)
            avoid = max(bench.project.plan.avoid, FELL_SHOWN)
            wanted = Wanted(short, {cell.id: cell for cell in now.cells}, now.attempts, avoid)
            done = write_cells(bench, wanted, run=run.number, progress=progress)
            run.rows_out = done.rows
        return done


def _tell(folder: Path, first: Standing, now: Standing, done: Writing, turns: int) -> Summary:
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
    return Summary("refill", done.asked, done.rows, counts, notes)


def _filled(cells: Sequence[Cell], filled: Collection[str]) -> int:
    return sum(cell.id in filled for cell in cells)


def _share(cells: Sequence[Cell], filled: Collection[str]) -> float:
    return round(_filled(cells, filled) / len(cells), 4) if cells else 0.0
