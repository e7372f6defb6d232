"""The stage that looks at the classes and evens them out: caps, weights, and what the plan is asked for. Core: balance.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation.balance import class_weights, count_classes, measure_balance, refill_quota, rows_over_cap
from curation.decide import Decision, Reason
from curation.errors import ProjectError, command
from curation.pipeline.bench import Bench, Summary, load_cells, open_bench
from curation.pipeline.classes import class_of_cell, classes_of, column_of, known_classes, planned_classes
from curation.pipeline.keeping import total_of_rows
from curation.pipeline.sources import lay_out
from curation.project import settings_digest
from curation.records import KINDS, Kind
from curation.store import facts, records, reviews, runs
from curation.store.records import Row

STANDING = ("approved", "in_review", "to_review", "held")
"""Verdicts of rows that may still leave in a snapshot."""
OVER_CAP = "over_cap"


def balance(folder: Path) -> Summary:
    """Show the classes before and after, apply the cap, and ask the plan for what is missing. Core: balance.py."""
    from curation.pipeline.deciding import decide

    decide(folder)
    with open_bench(folder) as bench:
        if bench.project.balance.by is None:
            known = ", ".join(known_classes(bench))
            raise ProjectError("project.yaml: balance.by", f"is not set, so there is nothing to balance by (there are: {known})",
                               "for example  balance: {by: label, cap: 50, refill: 20}")  # fmt: skip
        with runs.record_run(bench.db, "balance", settings_digest(bench.project.balance)) as run:
            found: dict[str, dict[str, Any]] = {kind: line for kind in KINDS if (line := _balance_of(bench, kind)) is not None}
            run.rows_in = sum(line["before"]["rows"] for line in found.values())
            run.rows_out = sum(line["after"]["rows"] for line in found.values())
            run.detail = {"by": bench.project.balance.by, "column": column_of(bench, bench.project.balance.by), **found}
        if any(line["asked"] for line in found.values()):
            records.refresh_cells(bench.db, [(c.id, c.kind, c.ordinal, c.model_dump_json().encode()) for c in lay_out(bench)])
        return Summary("balance", run.rows_in, run.rows_out, {k: _in_brief(line) for k, line in found.items()}, _notes(bench, found))


def leave_out_over_cap(bench: Bench, decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions, with rows that nobody has answered yet dropped where their class is over its cap.

    Who stays: kept by a person, approved, under review, shown to people, the best total, the earliest. What people approved is
    not undone here; a snapshot leaves it out (`rows_past_cap`).
    """
    settings = bench.project.balance
    if settings.cap is None:
        return list(decisions)
    kept = facts.kept_seqs(bench.db)
    standing = {d.seq: d for d in decisions if d.verdict in STANDING}
    reasons: dict[int, Reason] = {}
    for kind in KINDS:
        rows = [row for row in records.list_rows(bench.db, kind) if row.seq in standing]
        for seq, reason in _past_cap(bench, kind, rows, {seq: d.verdict for seq, d in standing.items()}).items():
            if standing[seq].verdict in ("to_review", "held") and seq not in kept:
                reasons[seq] = reason
    return [Decision(d.seq, "dropped", d.better, (reasons[d.seq],)) if d.seq in reasons else d for d in decisions]


def rows_past_cap(bench: Bench, kind: Kind, rows: Sequence[Row]) -> dict[int, Reason]:
    """Of the approved rows of a snapshot those that the cap leaves out; what a person kept stays."""
    kept = facts.kept_seqs(bench.db)
    past = _past_cap(bench, kind, rows, {row.seq: "approved" for row in rows}) if bench.project.balance.cap else {}
    return {seq: reason for seq, reason in past.items() if seq not in kept}


def balance_facts(bench: Bench, kind: Kind, rows: Sequence[Row]) -> dict[str, Any]:
    """For a snapshot's manifest: the rule, how even its rows are, and the weight of each class where any is wanted.

    The weights are told and not applied: neither the rows nor the trainer here carry them.
    """
    settings = bench.project.balance
    facts_: dict[str, Any] = {name: value for name, value in settings.model_dump().items() if value is not None}
    if settings.by is None:
        return facts_
    counts = count_classes(list(classes_of(bench, kind, rows, settings.by).values()))
    even = measure_balance(counts)
    facts_ |= {"classes": even.classes, "effective_classes": round(even.effective, 3), "gini": round(even.gini, 4)}
    if settings.weight:
        facts_["weights"] = {name: round(weight, 6) for name, weight in class_weights(counts, scheme=settings.weight).items()}
    return facts_


def load_balance(bench: Bench) -> dict[str, Any] | None:
    """What the latest `curate balance` found."""
    run = runs.latest_run(bench.db, "balance")
    return json.loads(run["detail"]) if run is not None else None


def _past_cap(bench: Bench, kind: Kind, rows: Sequence[Row], verdicts: Mapping[int, str]) -> dict[int, Reason]:
    settings = bench.project.balance
    if settings.cap is None or settings.by is None or not rows:
        return {}
    classes = classes_of(bench, kind, rows, settings.by)
    ranks = _ranks(bench, kind, rows, verdicts)
    over = rows_over_cap([classes[row.seq] for row in rows], [ranks[row.seq] for row in rows], cap=settings.cap).to_pylist()
    return {
        rows[line["row"]].seq: Reason(
            "balance", OVER_CAP, f"place {line['place']} of its class {line['class']!r} ({settings.by}); the cap is {line['cap']}"
        )
        for line in over
    }


def _ranks(bench: Bench, kind: Kind, rows: Sequence[Row], verdicts: Mapping[int, str]) -> dict[int, int]:
    kept = facts.kept_seqs(bench.db)
    pushed, totals = reviews.pushed_seqs(bench.db), total_of_rows(bench, kind, rows)

    def place(row: Row) -> tuple[bool, int, bool, float, int]:
        return row.seq not in kept, STANDING.index(verdicts[row.seq]), row.seq not in pushed, -totals.get(row.seq, 0.0), row.seq

    return {row.seq: n for n, row in enumerate(sorted(rows, key=place))}


def _balance_of(bench: Bench, kind: Kind) -> dict[str, Any] | None:
    """Counts before the cap and after, and what a weight and a refill come to."""
    settings, verdicts = bench.project.balance, facts.verdicts_by_seq(bench.db)
    assert settings.by is not None
    every = records.list_rows(bench.db, kind)
    rows = [row for row in every if _stands(verdicts.get(row.seq)) or _fell_to_cap(verdicts.get(row.seq))]
    if not rows:
        return None
    known = planned_classes(bench, kind, settings.by)
    classes = classes_of(bench, kind, rows, settings.by)
    before = count_classes(list(classes.values()), known)
    left_out = {row.seq for row in rows if _fell_to_cap(verdicts.get(row.seq))}
    standing = [row for row in rows if row.seq not in left_out]
    left_out |= set(_past_cap(bench, kind, standing, {row.seq: verdicts[row.seq]["verdict"] for row in standing}))
    after = count_classes([name for seq, name in classes.items() if seq not in left_out], known)
    return {
        "counts": {name: [n, after.get(name, 0)] for name, n in before.items()},
        "before": measure_balance(before).model_dump(mode="json"),
        "after": measure_balance(after).model_dump(mode="json"),
        "rule": rule_in_words(bench),
        "without": sum(name is None for name in classes.values()),
        "weights": class_weights(after, scheme=settings.weight) if settings.weight else {},
        "refill": (missing := refill_quota(after, target=settings.refill) if settings.refill else {}),
        "asked": _askable(bench, kind, missing),
    }


def _askable(bench: Bench, kind: Kind, missing: Mapping[str, int]) -> dict[str, int]:
    """The cells to add for what is missing: less those of the class that are planned already and still to be written."""
    by = bench.project.balance.by
    if by is None or not missing or (by not in bench.project.plan.attributes and column_of(bench, by) is None):
        return {}
    written, failed = records.cells_made(bench.db), facts.failed_slots(bench.db, "generate")
    waiting = [cell for cell in load_cells(bench) if cell.kind == kind and cell.id not in written and cell.id not in failed]
    coming = count_classes([class_of_cell(cell, by, column_of(bench, by)) for cell in waiting])
    return {name: n - coming.get(name, 0) for name, n in missing.items() if n > coming.get(name, 0)}


def rule_in_words(bench: Bench) -> str:
    """The project's rule as people say it."""
    settings = bench.project.balance
    parts = [f"at most {settings.cap:,} rows a class"] if settings.cap else []
    parts += [f"{settings.refill:,} wanted in each"] if settings.refill else []
    parts += [f"weights by {settings.weight}"] if settings.weight else []
    return ", ".join(parts) or "looked at only"


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


def _notes(bench: Bench, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    status = command("curate", "status", bench.folder)
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
        notes.append(f"{added:,} cells were added to the plan. Next: {command('curate', 'generate', bench.folder)}")
    elif any(line["refill"] for line in found.values()):
        notes.append(_told_refill(bench))
    return notes


def _told_refill(bench: Bench) -> str:
    by = bench.project.balance.by
    if by is not None and (by in bench.project.plan.attributes or column_of(bench, by)):
        return f"Their cells are planned and wait to be written. Next: {command('curate', 'generate', bench.folder)}"
    return f"The plan knows no cells by {by}, so it cannot be asked for them; the report lists the classes and their numbers."
