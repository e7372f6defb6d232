"""The stage that looks at the classes and evens them out: caps, weights, and what the plan is asked for. Core: balance.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation.config.project import settings_digest
from curation.distribution.balance import class_weights, count_classes, measure_balance, refill_quota
from curation.errors import ProjectError, command
from curation.records import KINDS, Kind
from curation.stages.plan import lay_out
from curation.store import facts, records, runs
from curation.views.classes import (
    OVER_CAP,
    STANDING,
    _past_cap,
    class_of_cell,
    classes_of,
    column_of,
    known_classes,
    planned_classes,
    rule_in_words,
)
from curation.workspace import StageResult, Workspace, load_cells, open_workspace


def balance(folder: Path) -> StageResult:
    """Show the classes before and after, apply the cap, and ask the plan for what is missing. Core: balance.py."""
    from curation.stages.decide import decide

    decide(folder)
    with open_workspace(folder) as workspace:
        if workspace.project.balance.by is None:
            known = ", ".join(known_classes(workspace))
            raise ProjectError("project.yaml: balance.by", f"is not set, so there is nothing to balance by (there are: {known})",
                               "for example  balance: {by: label, cap: 50, refill: 20}")  # fmt: skip
        with runs.record_run(workspace.db, "balance", settings_digest(workspace.project.balance)) as run:
            found: dict[str, dict[str, Any]] = {kind: line for kind in KINDS if (line := _balance_of(workspace, kind)) is not None}
            run.rows_in = sum(line["before"]["rows"] for line in found.values())
            run.rows_out = sum(line["after"]["rows"] for line in found.values())
            run.detail = {"by": workspace.project.balance.by, "column": column_of(workspace, workspace.project.balance.by), **found}
        if any(line["asked"] for line in found.values()):
            records.refresh_cells(workspace.db, [(c.id, c.kind, c.ordinal, c.model_dump_json().encode()) for c in lay_out(workspace)])
        return StageResult(
            "balance", run.rows_in, run.rows_out, {k: _in_brief(line) for k, line in found.items()}, _notes(workspace, found)
        )


def _balance_of(workspace: Workspace, kind: Kind) -> dict[str, Any] | None:
    """Counts before the cap and after, and what a weight and a refill come to."""
    settings, verdicts = workspace.project.balance, facts.verdicts_by_seq(workspace.db)
    assert settings.by is not None
    every = records.list_rows(workspace.db, kind)
    rows = [row for row in every if _stands(verdicts.get(row.seq)) or _fell_to_cap(verdicts.get(row.seq))]
    if not rows:
        return None
    known = planned_classes(workspace, kind, settings.by)
    classes = classes_of(workspace, kind, rows, settings.by)
    before = count_classes(list(classes.values()), known)
    left_out = {row.seq for row in rows if _fell_to_cap(verdicts.get(row.seq))}
    standing = [row for row in rows if row.seq not in left_out]
    left_out |= set(_past_cap(workspace, kind, standing, {row.seq: verdicts[row.seq]["verdict"] for row in standing}))
    after = count_classes([name for seq, name in classes.items() if seq not in left_out], known)
    return {
        "counts": {name: [n, after.get(name, 0)] for name, n in before.items()},
        "before": measure_balance(before).model_dump(mode="json"),
        "after": measure_balance(after).model_dump(mode="json"),
        "rule": rule_in_words(workspace),
        "without": sum(name is None for name in classes.values()),
        "weights": class_weights(after, scheme=settings.weight) if settings.weight else {},
        "refill": (missing := refill_quota(after, target=settings.refill) if settings.refill else {}),
        "asked": _askable(workspace, kind, missing),
    }


def _askable(workspace: Workspace, kind: Kind, missing: Mapping[str, int]) -> dict[str, int]:
    """The cells to add for what is missing: less those of the class that are planned already and still to be written."""
    by = workspace.project.balance.by
    if by is None or not missing or (by not in workspace.project.plan.attributes and column_of(workspace, by) is None):
        return {}
    written, failed = records.cells_made(workspace.db), facts.failed_slots(workspace.db, "generate")
    waiting = [cell for cell in load_cells(workspace) if cell.kind == kind and cell.id not in written and cell.id not in failed]
    coming = count_classes([class_of_cell(cell, by, column_of(workspace, by)) for cell in waiting])
    return {name: n - coming.get(name, 0) for name, n in missing.items() if n > coming.get(name, 0)}


def _stands(verdict: Mapping[str, Any] | None) -> bool:
    return verdict is not None and verdict["verdict"] in STANDING


def _fell_to_cap(verdict: Mapping[str, Any] | None) -> bool:
    return verdict is not None and verdict["verdict"] == "dropped" and any(r["kind"] == OVER_CAP for r in verdict["reasons"])


def _in_brief(line: Mapping[str, Any]) -> dict[str, Any]:
    before, after = line["before"], line["after"]
    return {
        "classes": after["classes"], "rows before": before["rows"], "rows after": after["rows"],
        "effective before": before["effective"], "effective after": after["effective"], "Gini before": before["gini"],
        "Gini after": after["gini"], "left out by the cap": before["rows"] - after["rows"], "without a class": line["without"],
        "missing": sum(line["refill"].values()), "cells added to the plan": sum(line["asked"].values()),
    }  # fmt: skip


def _notes(workspace: Workspace, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    status = command("curate", "status", workspace.folder)
    notes = [] if found else [f"No row has been scored and passed the gates, so there is nothing to balance. Look at: {status}"]
    for kind, line in found.items():
        if rare := line["after"]["rare"]:
            names = ", ".join(f"{name} ({n})" for name, n in rare[:5])
            notes.append(f"Rare among {kind} rows: {names}{f' and {len(rare) - 5} more' if len(rare) > 5 else ''}.")
        if line["refill"]:
            notes.append(f"{sum(line['refill'].values()):,} {kind} rows are missing in {len(line['refill'])} classes.")
        if line["weights"]:
            notes.append("Weights go into the snapshot's manifest; the trainer here does not read them.")
    if added := sum(sum(line["asked"].values()) for line in found.values()):
        notes.append(f"{added:,} cells were added to the plan. Next: {command('curate', 'generate', workspace.folder)}")
    elif any(line["refill"] for line in found.values()):
        notes.append(_told_refill(workspace))
    return notes


def _told_refill(workspace: Workspace) -> str:
    by = workspace.project.balance.by
    if by is not None and (by in workspace.project.plan.attributes or column_of(workspace, by)):
        return f"Their cells are planned and wait to be written. Next: {command('curate', 'generate', workspace.folder)}"
    return f"The plan knows no cells by {by}, so it cannot be asked for them; the report lists the classes and their numbers."
