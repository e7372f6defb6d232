"""The order in which people are asked about rows (`review.order`), as one number for each row: highest first.

Rows with equal numbers are shuffled for each person, so the numbers have few values: people who work at the same time then begin with
different rows, and a row is not answered by more people than `review.overlap` asks. A number depends on its row alone, so that new rows
do not change those that were pushed.
"""

from __future__ import annotations

from collections.abc import Sequence

from curation.store.records import Row
from curation.views.state import ProjectState, better_candidate

PLANNED_TOGETHER = 20
"""Cells of the plan that share a number."""


def priorities_of(state: ProjectState, rows: Sequence[Row]) -> dict[int, float]:
    """Return the priority of each row by seq; empty for a random order."""
    order = state.project.review.order
    if order == "random":
        return {}
    if order == "plan":
        places = {row.seq: int(row.cell.rpartition(":")[2]) if row.cell else row.seq for row in rows}
        return {seq: -float(place // PLANNED_TOGETHER) for seq, place in places.items()}
    scored = {row.seq: row.seq if row.kind == "instruction" else better_candidate(row, state.candidate_seqs) for row in rows}
    cut = state.project.score.threshold
    # A row without a score comes first: nothing is known about it.
    return {seq: round(1 - abs(state.totals[one] - cut) / 10, 1) if one in state.totals else 1.0 for seq, one in scored.items()}
