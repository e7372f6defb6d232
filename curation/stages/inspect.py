"""Read-only commands on the state of a project: `status` and `trace`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation.findings import FINDING_STAGES
from curation.judge import rubric as scoring
from curation.store import facts, records, reviews, runs
from curation.store.calls import CallLedger
from curation.views.next_step import next_step
from curation.views.runs import latest_diversity, snapshots_with
from curation.views.staleness import find_stale, stale_values
from curation.workspace import StageResult, open_workspace


def status(folder: Path) -> StageResult:
    """Show the counts of a project and its next step."""
    with open_workspace(folder) as workspace:
        verdicts, rows, spent = facts.verdict_counts(workspace.db), records.count_rows(workspace.db), CallLedger(workspace.db).spent_usd()
        diversity = latest_diversity(workspace)
        counts = {
            "project": workspace.project.name,
            "rows": rows,
            "verdicts": dict(verdicts),
            "calls": CallLedger(workspace.db).counts(),
            "cost_usd": round(spent, 6),
            "usd_per_approved_row": spent / verdicts["approved"] if verdicts["approved"] else None,
            "budget_usd": workspace.project.budget.usd,
            "cost_simulated": workspace.project.models.teacher.is_simulated or workspace.project.models.judge.is_simulated,
            "diversity": _diversity_in_brief(diversity) if diversity else None,
            "snapshots": [
                {"path": s["path"], "kind": s["kind"], "rows": s["rows"], "digest": s["digest"]}
                for s in reviews.list_snapshots(workspace.db)
            ],
            "last": {
                stage: {"in": r["rows_in"], "out": r["rows_out"], "state": r["state"], "seconds": r["seconds"]}
                for stage, r in runs.last_runs(workspace.db).items()
            },
        }
        with runs.record_run(workspace.db, "status") as run:
            run.rows_in = run.rows_out = total = sum(rows.values())
        runs.forget_earlier(workspace.db, "status", than=run.number, idle=False)
        found = find_stale(workspace)
        stale, warnings = stale_values(found)
        step = next_step(workspace, found, rows=total)
        return StageResult("status", total, total, {**counts, **stale, "next": step.as_values()}, [*warnings, f"Next: {step}"])


def _diversity_in_brief(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"coverage": found["coverage"]["share"], "vendi": found["set"]["vendi"], "naive_ratio": found.get("vendi_ratio")}


def trace(folder: Path, identity: str) -> dict[str, Any]:
    """Return the history of one row: its origins, scores, findings, annotations, verdict and snapshots.

    Raises:
        ProjectError: no row, or several, have an id that starts with `identity`.
    """
    with open_workspace(folder) as workspace:
        seq = records.find_seq(workspace.db, identity)
        story: dict[str, Any] = {**records.load_row(workspace.db, seq)}
        ids = records.ids_of(workspace.db)
        ledger = CallLedger(workspace.db)
        for origin in story["origins"]:
            answer = ledger.answer(origin["source"]) if origin["how"] == "generated" else None
            origin["call"] = _call(answer.message, answer.request.body) if answer else None
            origin["parent"] = ids.get(origin["parent"])
        judges = {scoring.rubric_digest(workspace.project, spec): spec.model for spec in scoring.judges_of(workspace.project)}
        scores = facts.all_scores(workspace.db, seq)
        story["scores"] = [{**s, "current": s["digest"] in judges, "judge": judges.get(s["digest"])} for s in scores]
        story["choices"] = facts.all_choices(workspace.db, seq)
        story["findings"] = [_finding(f, ids) for f in facts.latest_findings(workspace.db, FINDING_STAGES) if f.seq == seq]
        story["answers"] = [a._asdict() for a in reviews.answers_by_seq(workspace.db).get(seq, [])]
        story["override"] = _override(facts.overrides_by_seq(workspace.db).get(seq), ids)
        story["verdict"] = _verdict(facts.load_verdict(workspace.db, seq), ids)
        story["split"] = facts.splits_by_seq(workspace.db).get(seq)
        story["snapshots"] = snapshots_with(workspace, story["id"]) if story["split"] else []
        return story


def _call(message: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": message.get("id"), "model": body.get("model"), "stop_reason": message.get("stop_reason"), "usage": message.get("usage")}


def _verdict(verdict: Mapping[str, Any] | None, ids: Mapping[int, str]) -> dict[str, Any] | None:
    """Return a verdict whose reasons name their twins by id."""
    if verdict is None:
        return None
    reasons = [{**reason, **({"twin": ids.get(reason["twin"])} if "twin" in reason else {})} for reason in verdict["reasons"]]
    return {**verdict, "reasons": reasons}


def _override(stored: facts.StoredOverride | None, ids: Mapping[int, str]) -> dict[str, Any] | None:
    """Return an override as plain values; the edited record that was chosen by its id."""
    return None if stored is None else {**stored._asdict(), "chosen": ids.get(stored.chosen) if stored.chosen else None}


def _finding(finding: Any, ids: Mapping[int, str]) -> dict[str, Any]:
    values = vars(finding) | {"twin": ids.get(finding.twin) if finding.twin else None}
    return json.loads(json.dumps({k: v for k, v in values.items() if v not in (None, "") and k != "seq"}))  # type: ignore[no-any-return]
