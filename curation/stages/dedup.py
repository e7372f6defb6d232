"""The stage that finds copies, near copies and rewordings. Core: dedup/, embed.py."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.alarms import gate_alarms
from curation.config.project import settings_digest
from curation.dedup import cluster_alarms, find_exact, find_near, find_semantic
from curation.dedup.arrow_text import is_compiled
from curation.dedup.near_ray import find_near_on_ray
from curation.embed import model_digest
from curation.records import KINDS, prompt_text
from curation.store import facts, records, runs
from curation.store.database import hold_lock
from curation.store.facts import Finding
from curation.store.records import Row
from curation.views.decisions import rank_rows
from curation.views.prior_snapshots import earlier_digests, earlier_findings, find_earlier, released_findings
from curation.views.staleness import dedup_inputs
from curation.views.vectors import vectors_of
from curation.workspace import Progress, StageResult, Workspace, label_of, open_workspace, texts_for_dedup


def dedup(folder: Path, *, against: Sequence[Path] = (), ray: str | None = None, progress: Progress | None = None) -> StageResult:
    """Find copies, near copies and rewordings; the kept one is the approved, then the pushed, then the best. Core: dedup/.

    Args:
        against: earlier snapshots, besides those the project names; rows near to one of theirs are left out.
        ray: address of a Ray cluster that looks for near copies in place of this process.
    """
    with open_workspace(folder) as workspace, hold_lock(workspace.db, "dedup"):
        ranks, earlier = rank_rows(workspace), find_earlier(workspace, against)
        seen = earlier_digests(earlier)
        model = model_digest(workspace.project.dedup.model) if workspace.project.dedup.semantic is not None else ""
        digest = settings_digest(
            workspace.project.dedup, model, sorted(ranks.items()), *([seen] if seen else []), *(["ray"] if ray else [])
        )
        if runs.is_current(workspace.db, "dedup", digest):
            return _tell_dedup(workspace, "nothing has changed since the last run; its findings stand")
        inputs = dedup_inputs(workspace)
        with runs.record_run(workspace.db, "dedup", digest) as run:
            findings, alarms = list[Finding](), list[str]()
            labels: dict[int, str | None] = {}
            for kind in KINDS:
                # A row that a person rewrote has gone on as its child, which must not fall as its copy.
                everyone = records.list_rows(workspace.db, kind)
                rows = [row for row in everyone if row.seq in ranks]
                tell = partial(progress or _untold, "dedup", len(rows), len(rows))
                run.rows_in += len(rows)
                labels |= {row.seq: label_of(workspace, row) for row in rows}
                known = earlier_findings(workspace, rows, earlier) if earlier else []
                gone = {finding.seq for finding in known}
                known += released_findings(workspace, kind, [row for row in rows if row.seq not in gone], everyone)
                gone = {finding.seq for finding in known}
                left = [row for row in rows if row.seq not in gone]
                found, alarm = _find_twins(workspace, left, ranks, tell, ray)
                if ray is not None and any(label_of(workspace, row) for row in left):
                    alarm.append("On Ray short rows of one label are not compared by edits; without --ray they are.")
                findings, alarms = findings + known + found, alarms + alarm
            facts.add_findings(workspace.db, findings, run.number)
            copies = records.count_duplicates_by_id(workspace.db)
            dropped = {f.seq for f in findings}
            run.rows_out = run.rows_in - len(dropped)
            share = workspace.project.dedup.alarm_share
            raised = [str(alarm) for alarm in gate_alarms("dedup", list(labels.values()), [seq in dropped for seq in labels], share=share)]
            run.detail = {
                "inputs": inputs,
                "kinds": Counter(f.kind for f in findings),
                "second_origins": sum(n for _, n in copies),
                "alarms": alarms,
                "gate_alarms": raised,
            }
        return _tell_dedup(workspace)


def _find_twins(
    workspace: Workspace, rows: Sequence[Row], ranks: Mapping[int, int], tell: Callable[[str], None], ray: str | None
) -> tuple[list[Finding], list[str]]:
    """Exact, then near among what is left, then semantic among what is left after that: dearer steps see fewer rows."""
    settings, findings, alarms = workspace.project.dedup, list[Finding](), list[str]()
    left = list(rows)
    for step in ("exact", "near", "semantic") if settings.semantic is not None else ("exact", "near"):
        if len(left) < 2:
            break
        tell("compiling, once on this machine" if step == "exact" and not is_compiled() else f"{step} copies")
        texts, labels = texts_for_dedup(workspace, (row.texts for row in left)), [label_of(workspace, row) for row in left]
        common: dict[str, Any] = {"labels": labels if any(labels) else None, "rank": [ranks[row.seq] for row in left]}
        if step == "exact":
            table = find_exact(texts, **common)
        elif step == "near":
            near = find_near if ray is None else partial(find_near_on_ray, address=ray)
            table = near(texts, threshold=settings.near, shingle=settings.shingle, **common)
        else:
            vectors = vectors_of(workspace, [row.prompt for row in left], tell=tell)
            assert settings.semantic is not None
            table = find_semantic(texts, vectors, threshold=settings.semantic, same_label_threshold=settings.same_label, **common)
        findings += _twin_findings(table, left, step)
        alarms += [_alarm(left, line) for line in cluster_alarms(table, len(left)).to_pylist()]
        dropped = set(table["row"].to_pylist())
        left = [row for n, row in enumerate(left) if n not in dropped]
    return findings, alarms


def _twin_findings(table: pa.Table, rows: Sequence[Row], step: str) -> list[Finding]:
    return [
        Finding(rows[line["row"]].seq, "dedup", step, True, rows[line["kept"]].seq, item=str(line["cluster"]), score=line["similarity"],
                evidence=f"{line['measure']} {line['similarity']:.3f}")
        for line in table.to_pylist()
    ]  # fmt: skip


def _alarm(rows: Sequence[Row], line: Mapping[str, Any]) -> str:
    share, text = line["share"], prompt_text(rows[line["kept"]].record)[:80]
    if line["reason"] == "chained":
        return (
            f"{line['size']} rows hang together through one another, and {line['elsewhere']} of them are no twins of {text!r}; look first."
        )
    return f"A cluster of {line['size']} rows ({share:.0%} of all) looks alike; look before you believe it. It is kept as {text!r}."


def _tell_dedup(workspace: Workspace, *notes: str) -> StageResult:
    run = runs.latest_run(workspace.db, "dedup")
    assert run is not None
    detail = json.loads(run["detail"])
    kinds = {step: detail["kinds"].get(step, 0) for step in ("exact", "near", "semantic")}
    if "earlier" in detail["kinds"]:
        kinds = {"earlier": detail["kinds"]["earlier"], **kinds}
    alarms = [*detail.get("gate_alarms", []), *detail.get("alarms", [])]
    counts = {**kinds, "identical_records": detail["second_origins"], "alarms": alarms}
    return StageResult("dedup", run["rows_in"], run["rows_out"], counts, [*alarms, *notes])


def _untold(stage: str, done: int, total: int, words: str) -> None:
    """Where nobody watches."""
