"""Coverage of the plan: cells with a row that passes, and the number of the next attempt at the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curation.findings import NOT_REFILLED
from curation.plan import Cell
from curation.requests import cells_in
from curation.store import call_stats
from curation.views.decisions import decide_all
from curation.views.state import ProjectState
from curation.workspace import Workspace

TAKEN_OUT = ("dropped", "rejected")
"""Verdicts after which a row no longer fills its cell."""


@dataclass(frozen=True)
class PlanCoverage:
    """The cells that have a row which no gate and no annotator has taken out."""

    cells: Sequence[Cell]
    filled: frozenset[str]
    taken_out: frozenset[int]
    """Rows that were taken out."""
    attempts: dict[str, int]
    """Number of the next attempt at each cell that was requested before."""

    @property
    def share(self) -> float:
        """Share of the cells that are filled."""
        return round(self.filled_cells / len(self.cells), 4) if self.cells else 0.0

    @property
    def filled_cells(self) -> int:
        """Number of filled cells of the current plan."""
        return sum(cell.id in self.filled for cell in self.cells)

    def short(self, rounds: int) -> list[Cell]:
        """Return the empty cells that were requested before and may be requested again."""
        return [c for c in self.cells if c.id not in self.filled and 1 <= self.attempts.get(c.id, 0) <= rounds]


def cover_plan(state: ProjectState) -> PlanCoverage:
    """Return the coverage of the plan by the facts known now. Nothing is measured."""
    decisions = decide_all(state).decisions
    taken_out = frozenset(
        d.seq for d in decisions if d.verdict in TAKEN_OUT and all(reason.stage not in NOT_REFILLED for reason in d.reasons)
    )
    filled = frozenset(row.cell for row in state.row_by_seq.values() if row.cell is not None and row.seq not in taken_out)
    return PlanCoverage(state.cells, filled, taken_out, next_attempts(state.workspace))


def next_attempts(workspace: Workspace) -> dict[str, int]:
    """Return the number of the next attempt at each cell that was requested before."""
    found: dict[str, int] = {}
    for slot, attempt in call_stats.attempts_by_slot(workspace.db, "generate").items():
        for cell in cells_in(slot):
            found[cell] = max(found.get(cell, 0), attempt + 1)
    return found
