"""Cells beyond the plan, for classes that lack rows: as many of each class as were asked for, all else as the plan spreads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curation.plan.cells import Cell, Row
from curation.plan.layout import make_plan
from curation.plan.values import Values
from curation.project import Project, Quota
from curation.records import Kind

ASKED = "asked for"
"""Column added to the grounding table: the rows of the class."""
FIRST = 1_000_000
"""Ordinals from here on, so that the plan can grow below."""


@dataclass(frozen=True)
class Asked:
    """Cells that were asked for once; they stay, whatever is asked for later."""

    number: int
    """Of the run that asked."""
    kind: Kind
    by: str
    column: str | None
    """Of the grounding table, where the class stands there and not in a plan attribute."""
    wanted: Mapping[str, int]
    """Class to number of cells."""


def extra_cells(
    project: Project,
    asked: Sequence[Asked],
    *,
    table: pa.Table | None,
    protected_texts: Collection[str],
    values: Mapping[str, Values],
    passages: Sequence[Row] = (),
) -> list[Cell]:
    """The cells of every request, the same each time; classes that the plan no longer has are left out."""
    cells: list[Cell] = []
    for request in asked:
        made: list[Cell] = []
        for value, count in request.wanted.items():
            own = _of_class(project, request, value, count, table)
            if own is None:
                continue
            plan, rows = own
            made += make_plan(plan, table=rows, protected_texts=protected_texts, values=values, passages=passages)
        for nth, cell in enumerate(made):
            name = f"{request.kind}:x{request.number}.{nth:05d}"
            cells.append(cell.model_copy(update={"id": name, "ordinal": FIRST + request.number * 10_000 + nth}))
    return cells


def _of_class(project: Project, request: Asked, value: str, count: int, table: pa.Table | None) -> tuple[Project, pa.Table | None] | None:
    """The project and the table by which cells of one class are planned; None where there is no such class now."""
    plan = project.plan
    changes: dict[str, object] = {"instruction": 0, "preference": 0, request.kind: count, "quotas": (), "evolve": type(plan.evolve)()}
    changes["seed"] = plan.seed + 7919 * request.number  # or a second request would walk the same rows in the same order
    if request.column is None:
        if plan.attributes.get(request.by, {}).get(value, 0) <= 0:
            return None
        changes["quotas"] = (Quota(kind=request.kind, where={request.by: value}, cells=count),)
        return project.model_copy(update={"plan": plan.model_copy(update=changes)}), table
    if table is None or plan.grounding is None or request.column not in table.column_names:
        return None
    inside = pc.equal(table[request.column].cast(pa.string()), value)
    if plan.grounding.where:
        inside = pc.and_(inside, table[plan.grounding.where])
    if not pc.any(inside).as_py():
        return None
    changes["grounding"] = plan.grounding.model_copy(update={"where": ASKED})
    return project.model_copy(update={"plan": plan.model_copy(update=changes)}), table.append_column(ASKED, inside)
