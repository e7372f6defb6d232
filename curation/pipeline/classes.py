"""The class of a row: its label, an attribute or topic that the plan gave it, or the topic it was found to be about. Core: balance.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from curation.errors import ProjectError, command
from curation.pipeline.bench import Bench, label_of, load_cells
from curation.plan import Cell
from curation.project.balancing import FOUND_TOPIC
from curation.records import Kind
from curation.store import facts, records
from curation.store.records import Row


def classes_of(bench: Bench, kind: Kind, rows: Sequence[Row], by: str) -> dict[int, str | None]:
    """The class of each row (by seq): its label, a plan attribute, the grounding topic, or the topic it was found to be about.

    Raises:
        ProjectError: the project has no such attribute, or topics were not found yet.
    """
    if by == "label":
        return {row.seq: label_of(bench, row) for row in rows}
    if by == FOUND_TOPIC:
        topics = {f.seq: f.item for f in facts.latest_findings(bench.db, ("describe",)) if f.kind == "topic"}
        if not topics and rows:
            raise ProjectError(
                "project.yaml: balance.by", "is found_topic, and no topics were found yet", command("curate", "describe", bench.folder)
            )
        return {row.seq: topics.get(row.seq) for row in rows}
    if by not in _planned_by(bench):
        if by in meta_columns(bench):
            found = records.meta_by_seq(bench.db, {by})
            return {row.seq: meta_text(found.get(row.seq, {}).get(by)) for row in rows}
        raise ProjectError("project.yaml: balance.by", f"is {by}; there are: {', '.join(known_classes(bench))}", "mend it in project.yaml")
    column = _topic_column(bench, by)
    values = {cell.id: class_of_cell(cell, by, column) for cell in load_cells(bench)}
    return {row.seq: values.get(row.cell or "") for row in rows}


def known_classes(bench: Bench) -> list[str]:
    """By what this project can be balanced: what the plan knows, then the metadata columns of imported rows."""
    return list(dict.fromkeys((*_planned_by(bench), *meta_columns(bench))))


def meta_columns(bench: Bench) -> list[str]:
    """The metadata columns of imported rows, by name."""
    return sorted({name for values in records.meta_by_seq(bench.db).values() for name in values})


def meta_text(value: Any) -> str | None:
    """A metadata value as a class or group; None where it is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def group_values(bench: Bench, rows: Sequence[Row]) -> list[str | None]:
    """Each row's value of `splits.group`, whose rows stay in one split; None where there is none.

    Raises:
        ProjectError: no imported row has such a column.
    """
    name = bench.project.splits.group
    if name is None:
        return [None] * len(rows)
    if name not in (known := meta_columns(bench)):
        there = ", ".join(known) or "no metadata columns"
        raise ProjectError(
            "project.yaml: splits.group", f"is {name}, and imported rows have: {there}", "name one of them, or set it to null"
        )
    values = records.meta_by_seq(bench.db, {name})
    return [meta_text(values.get(row.seq, {}).get(name)) for row in rows]


def _planned_by(bench: Bench) -> list[str]:
    plan = bench.project.plan
    topic = ("topic", plan.grounding.topic) if plan.grounding and plan.grounding.topic else ()
    return list(dict.fromkeys(("label", *plan.attributes, *topic, FOUND_TOPIC)))


def planned_classes(bench: Bench, kind: Kind, by: str) -> list[str]:
    """The classes the plan asks rows for, so that one without rows is seen."""
    if by in ("label", FOUND_TOPIC):
        return (
            sorted({f.item for f in facts.latest_findings(bench.db, ("describe",)) if f.kind == "topic" and f.item})
            if by == FOUND_TOPIC
            else []
        )
    column = _topic_column(bench, by)
    return sorted({value for c in load_cells(bench) if c.kind == kind and (value := class_of_cell(c, by, column))})


def column_of(bench: Bench, by: str) -> str | None:
    """The grounding table's column that holds the class: its topic, or the key where the label is the key."""
    grounding = bench.project.plan.grounding
    return grounding.key if by == "label" and grounding else _topic_column(bench, by)


def class_of_cell(cell: Cell, by: str, column: str | None) -> str | None:
    """The class that the plan gave a cell; None where it gave it none."""
    if by == "label":
        return cell.key
    return (str((cell.row or {}).get(column) or "") if column else cell.attributes.get(by, "")) or None


def _topic_column(bench: Bench, by: str) -> str | None:
    """The grounding table's column, where `by` means it and no plan attribute."""
    plan = bench.project.plan
    if by in plan.attributes or plan.grounding is None or plan.grounding.topic is None:
        return None
    return plan.grounding.topic if by in ("topic", plan.grounding.topic) else None
