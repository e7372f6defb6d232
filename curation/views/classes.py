"""The class of a row: its label, an attribute or topic that the plan gave it, or the topic it was found to be about. Core: balance.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from curation.config.gates import FOUND_TOPIC
from curation.decide import Decision, Reason
from curation.distribution.balance import class_weights, count_classes, measure_balance, rows_over_cap
from curation.errors import ProjectError, command
from curation.plan import Cell
from curation.records import KINDS, Kind
from curation.store import facts, records, reviews, runs
from curation.store.records import Row
from curation.views.scores import total_of_rows
from curation.workspace import Workspace, label_of, load_cells


def classes_of(workspace: Workspace, kind: Kind, rows: Sequence[Row], by: str) -> dict[int, str | None]:
    """The class of each row (by seq): its label, a plan attribute, the grounding topic, or the topic it was found to be about.

    Raises:
        ProjectError: the project has no such attribute, or topics were not found yet.
    """
    if by == "label":
        return {row.seq: label_of(workspace, row) for row in rows}
    if by == FOUND_TOPIC:
        topics = {f.seq: f.item for f in facts.latest_findings(workspace.db, ("describe",)) if f.kind == "topic"}
        if not topics and rows:
            raise ProjectError(
                "project.yaml: balance.by", "is found_topic, and no topics were found yet", command("curate", "describe", workspace.folder)
            )
        return {row.seq: topics.get(row.seq) for row in rows}
    if by not in _planned_by(workspace):
        if by in meta_columns(workspace):
            found = records.meta_by_seq(workspace.db, {by})
            return {row.seq: meta_text(found.get(row.seq, {}).get(by)) for row in rows}
        raise ProjectError(
            "project.yaml: balance.by", f"is {by}; there are: {', '.join(known_classes(workspace))}", "mend it in project.yaml"
        )
    column = _topic_column(workspace, by)
    values = {cell.id: class_of_cell(cell, by, column) for cell in load_cells(workspace)}
    return {row.seq: values.get(row.cell or "") for row in rows}


def known_classes(workspace: Workspace) -> list[str]:
    """By what this project can be balanced: what the plan knows, then the metadata columns of imported rows."""
    return list(dict.fromkeys((*_planned_by(workspace), *meta_columns(workspace))))


def meta_columns(workspace: Workspace) -> list[str]:
    """The metadata columns of imported rows, by name."""
    return sorted({name for values in records.meta_by_seq(workspace.db).values() for name in values})


def meta_text(value: Any) -> str | None:
    """A metadata value as a class or group; None where it is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def group_values(workspace: Workspace, rows: Sequence[Row]) -> list[str | None]:
    """Each row's value of `splits.group`, whose rows stay in one split; None where there is none.

    Raises:
        ProjectError: no imported row has such a column.
    """
    name = workspace.project.splits.group
    if name is None:
        return [None] * len(rows)
    if name not in (known := meta_columns(workspace)):
        there = ", ".join(known) or "no metadata columns"
        raise ProjectError(
            "project.yaml: splits.group", f"is {name}, and imported rows have: {there}", "name one of them, or set it to null"
        )
    values = records.meta_by_seq(workspace.db, {name})
    return [meta_text(values.get(row.seq, {}).get(name)) for row in rows]


def _planned_by(workspace: Workspace) -> list[str]:
    plan = workspace.project.plan
    topic = ("topic", plan.grounding.topic) if plan.grounding and plan.grounding.topic else ()
    return list(dict.fromkeys(("label", *plan.attributes, *topic, FOUND_TOPIC)))


def planned_classes(workspace: Workspace, kind: Kind, by: str) -> list[str]:
    """The classes the plan asks rows for, so that one without rows is seen."""
    if by in ("label", FOUND_TOPIC):
        return (
            sorted({f.item for f in facts.latest_findings(workspace.db, ("describe",)) if f.kind == "topic" and f.item})
            if by == FOUND_TOPIC
            else []
        )
    column = _topic_column(workspace, by)
    return sorted({value for c in load_cells(workspace) if c.kind == kind and (value := class_of_cell(c, by, column))})


def column_of(workspace: Workspace, by: str) -> str | None:
    """The grounding table's column that holds the class: its topic, or the key where the label is the key."""
    grounding = workspace.project.plan.grounding
    return grounding.key if by == "label" and grounding else _topic_column(workspace, by)


def class_of_cell(cell: Cell, by: str, column: str | None) -> str | None:
    """The class that the plan gave a cell; None where it gave it none."""
    if by == "label":
        return cell.key
    return (str((cell.row or {}).get(column) or "") if column else cell.attributes.get(by, "")) or None


def _topic_column(workspace: Workspace, by: str) -> str | None:
    """The grounding table's column, where `by` means it and no plan attribute."""
    plan = workspace.project.plan
    if by in plan.attributes or plan.grounding is None or plan.grounding.topic is None:
        return None
    return plan.grounding.topic if by in ("topic", plan.grounding.topic) else None


STANDING = ("approved", "in_review", "to_review", "held")
"""Verdicts of rows that may still leave in a snapshot."""

OVER_CAP = "over_cap"


def leave_out_over_cap(workspace: Workspace, decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions, with rows that nobody has answered yet dropped where their class is over its cap.

    Who stays: kept by a person, approved, under review, shown to people, the best total, the earliest. What people approved is
    not undone here; a snapshot leaves it out (`rows_past_cap`).
    """
    settings = workspace.project.balance
    if settings.cap is None:
        return list(decisions)
    kept = facts.kept_seqs(workspace.db)
    standing = {d.seq: d for d in decisions if d.verdict in STANDING}
    reasons: dict[int, Reason] = {}
    for kind in KINDS:
        rows = [row for row in records.list_rows(workspace.db, kind) if row.seq in standing]
        for seq, reason in _past_cap(workspace, kind, rows, {seq: d.verdict for seq, d in standing.items()}).items():
            if standing[seq].verdict in ("to_review", "held") and seq not in kept:
                reasons[seq] = reason
    return [Decision(d.seq, "dropped", d.better, (reasons[d.seq],)) if d.seq in reasons else d for d in decisions]


def rows_past_cap(workspace: Workspace, kind: Kind, rows: Sequence[Row]) -> dict[int, Reason]:
    """Of the approved rows of a snapshot those that the cap leaves out; what a person kept stays."""
    kept = facts.kept_seqs(workspace.db)
    past = _past_cap(workspace, kind, rows, {row.seq: "approved" for row in rows}) if workspace.project.balance.cap else {}
    return {seq: reason for seq, reason in past.items() if seq not in kept}


def balance_facts(workspace: Workspace, kind: Kind, rows: Sequence[Row]) -> dict[str, Any]:
    """For a snapshot's manifest: the rule, how even its rows are, and the weight of each class where any is wanted.

    The weights are told and not applied: neither the rows nor the trainer here carry them.
    """
    settings = workspace.project.balance
    facts_: dict[str, Any] = {name: value for name, value in settings.model_dump().items() if value is not None}
    if settings.by is None:
        return facts_
    counts = count_classes(list(classes_of(workspace, kind, rows, settings.by).values()))
    even = measure_balance(counts)
    facts_ |= {"classes": even.classes, "effective_classes": round(even.effective, 3), "gini": round(even.gini, 4)}
    if settings.weight:
        facts_["weights"] = {name: round(weight, 6) for name, weight in class_weights(counts, scheme=settings.weight).items()}
    return facts_


def load_balance(workspace: Workspace) -> dict[str, Any] | None:
    """What the latest `curate balance` found."""
    run = runs.latest_run(workspace.db, "balance")
    return json.loads(run["detail"]) if run is not None else None


def _past_cap(workspace: Workspace, kind: Kind, rows: Sequence[Row], verdicts: Mapping[int, str]) -> dict[int, Reason]:
    settings = workspace.project.balance
    if settings.cap is None or settings.by is None or not rows:
        return {}
    classes = classes_of(workspace, kind, rows, settings.by)
    ranks = _ranks(workspace, kind, rows, verdicts)
    over = rows_over_cap([classes[row.seq] for row in rows], [ranks[row.seq] for row in rows], cap=settings.cap).to_pylist()
    return {
        rows[line["row"]].seq: Reason(
            "balance", OVER_CAP, f"place {line['place']} of its class {line['class']!r} ({settings.by}); the cap is {line['cap']}"
        )
        for line in over
    }


def _ranks(workspace: Workspace, kind: Kind, rows: Sequence[Row], verdicts: Mapping[int, str]) -> dict[int, int]:
    kept = facts.kept_seqs(workspace.db)
    pushed, totals = reviews.pushed_seqs(workspace.db), total_of_rows(workspace, kind, rows)

    def place(row: Row) -> tuple[bool, int, bool, float, int]:
        return row.seq not in kept, STANDING.index(verdicts[row.seq]), row.seq not in pushed, -totals.get(row.seq, 0.0), row.seq

    return {row.seq: n for n, row in enumerate(sorted(rows, key=place))}


def rule_in_words(workspace: Workspace) -> str:
    """The project's rule as people say it."""
    settings = workspace.project.balance
    parts = [f"at most {settings.cap:,} rows a class"] if settings.cap else []
    parts += [f"{settings.refill:,} wanted in each"] if settings.refill else []
    parts += [f"weights by {settings.weight}"] if settings.weight else []
    return ", ".join(parts) or "looked at only"
