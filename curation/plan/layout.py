"""Every cell of a project: attributes, rows or passages, turns, and which cells grow from which."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

import pyarrow as pa

from curation.plan.cells import Cell, Row, cell_id
from curation.plan.rows import find_pools, normalized, walk_rows
from curation.plan.spread import spread_attributes, spread_evenly
from curation.plan.values import Values, written_values
from curation.project import Project, planned_rows
from curation.records import Kind

SIBLINGS_SHOWN = 5
"""Plausible confusions given to the teacher for one pair; more would only lengthen the request."""
PARENTS_LOOKED_AT = 500
"""How far back a cell looks for one to grow from."""


def make_plan(
    project: Project,
    *,
    table: pa.Table | None,
    protected_texts: Collection[str],
    values: Mapping[str, Values] | None = None,
    passages: Sequence[Row] = (),
) -> list[Cell]:
    """Every cell of the project, instructions first.

    Rows are taken in turns over the topics, each row once before any comes again; preference cells walk each topic from
    the other end, so that the two kinds share rows only when they must. Passages likewise, document by document.

    Args:
        values: the attributes' values, those from files read (`values_from_…`); by default what project.yaml has.
        passages: of the documents, where the project names some.

    Raises:
        ProjectError: a column is missing, no row is left to write about, an attribute has no weight, or a quota does not fit.
    """
    given = written_values(project) if values is None else values
    pools = find_pools(project, table, {normalized(text) for text in protected_texts})
    about = [{"topic": p["file"], "passage": p} for p in passages]
    cells: list[Cell] = []
    for kind, count in planned_rows(project).items():
        quotas = [quota for quota in project.plan.quotas if quota.kind == kind]
        weights = {name: v.weights for name, v in given.items()}
        attributes = spread_attributes(weights, count, seed=f"{project.plan.seed}:{kind}", quotas=quotas)
        rows = walk_rows(about or pools[kind], seed=project.plan.seed, backwards=kind == "preference")
        cells += _cells(kind, attributes, rows, project, given)
    return cells


def coverage(cells: Sequence[Cell], done: Collection[str]) -> dict[str, dict[str, tuple[int, int]]]:
    """For each attribute and value, how many cells have a record (ids in DONE) and how many were planned."""
    planned: dict[str, Counter[str]] = defaultdict(Counter)
    reached: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        for name, value in {"kind": cell.kind, **cell.attributes}.items():
            planned[name][value] += 1
            reached[name][value] += cell.id in done
    return {name: {value: (reached[name][value], n) for value, n in values.items()} for name, values in planned.items()}


def _cells(
    kind: Kind, attributes: Sequence[dict[str, str]], rows: Iterator[tuple[Row, int] | None], project: Project, values: Mapping[str, Values]
) -> list[Cell]:
    turns = spread_evenly(project.plan.turns, len(attributes)) if kind == "instruction" else [1] * len(attributes)
    cells: list[Cell] = []
    used: Counter[str] = Counter()
    for ordinal, chosen in enumerate(attributes):
        how = _growth(ordinal, project) if kind == "instruction" else None
        parent = _parent(chosen, cells, used) if how else None
        told = {value: values[name].described[value] for name, value in chosen.items() if value in values[name].described}
        cell = Cell(id=cell_id(kind, ordinal), kind=kind, ordinal=ordinal, attributes=chosen, described=told, turns=turns[ordinal])
        if parent is not None:
            used[parent.id] += 1
            cell = cell.model_copy(update={"evolve": how, "parent": parent.id, "turns": 1})
        if parent is not None and how == "deeper":  # the same matter
            about = {name: getattr(parent, name) for name in ("key", "row", "passage", "visit")}
        else:
            about = _about(next(rows), kind, project.plan.seed)
        cells.append(cell.model_copy(update=about))
    return cells


def _about(walked: tuple[Row, int] | None, kind: Kind, seed: int) -> Row:
    """The part of a cell that says which row or passage it is about."""
    row, visit = walked or ({}, 0)
    key = row.get("key")
    siblings = list(row.get("siblings", ())) if kind == "preference" else []
    random.Random(f"{seed}:{key}:siblings").shuffle(siblings)
    shown = {"siblings": tuple(siblings[:SIBLINGS_SHOWN]), "visit": visit}
    return {"key": key, "row": row.get("shown"), "passage": row.get("passage"), **shown}


def _growth(ordinal: int, project: Project) -> Literal["deeper", "broader"] | None:
    """Whether the cell of an ordinal grows from another, and how: evenly spread, and the same however long the plan gets."""
    deeper, share = project.plan.evolve.deeper, project.plan.evolve.deeper + project.plan.evolve.broader
    nth = int((ordinal + 1) * share + 1e-9)
    if share == 0 or nth == int(ordinal * share + 1e-9):
        return None
    return "deeper" if int(nth * deeper / share + 1e-9) > int((nth - 1) * deeper / share + 1e-9) else "broader"


def _parent(chosen: Mapping[str, str], cells: Sequence[Cell], used: Counter[str]) -> Cell | None:
    """The earlier cell to grow from: one that grew from none, with the fewest children, as like as can be."""
    plain = [cell for cell in cells[-PARENTS_LOOKED_AT:] if cell.evolve is None and cell.turns == 1]

    def likeness(cell: Cell) -> tuple[int, int, int]:
        return -used[cell.id], sum(cell.attributes.get(name) == value for name, value in chosen.items()), -cell.ordinal

    return max(plain, key=likeness, default=None)
