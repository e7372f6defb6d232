"""How far the plan is covered: cells with a row that passes, and the next attempt at the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curation.plan import Cell
from curation.records import KINDS
from curation.requests import cells_in
from curation.store import generation_inputs, records
from curation.views.decisions import decide_rows
from curation.workspace import Workspace, load_cells


def next_attempts(workspace: Workspace) -> dict[str, int]:
    """For each cell that was asked for, the number its next attempt has."""
    found: dict[str, int] = {}
    for slot, attempt in generation_inputs.attempts_by_slot(workspace.db, "generate").items():
        for cell in cells_in(slot):
            found[cell] = max(found.get(cell, 0), attempt + 1)
    return found


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


def standing(workspace: Workspace) -> Standing:
    """How the cells stand by what is known now; nothing is measured."""
    cells = load_cells(workspace)
    fallen = frozenset(
        d.seq for d in decide_rows(workspace) if d.verdict in FALLEN and all(reason.stage != LEFT_OUT for reason in d.reasons)
    )
    rows = [row for kind in KINDS for row in records.list_rows(workspace.db, kind)]
    filled = frozenset(row.cell for row in rows if row.cell is not None and row.seq not in fallen)
    return Standing(cells, filled, fallen, next_attempts(workspace))
