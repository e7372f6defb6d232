"""The stage that finds leaks of the protected sets, conflicts of label and rows that fail a check. Core: leakage/, validate.py."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from curation.alarms import gate_alarms
from curation.config.project import settings_digest
from curation.embed import model_digest
from curation.errors import BudgetReached, UnusableAnswers
from curation.leakage import OperatingPoint
from curation.leakage.judge import STAGE, Doubt, Verdict, leak_digest, requests_for, verdict_from
from curation.records import KINDS
from curation.requests import Answer, Failure
from curation.stages.model_calls import ask
from curation.store import facts, records, runs
from curation.store.database import CallLedger, hold_lock
from curation.store.facts import Finding
from curation.validate import checks_digest
from curation.views.protected import load_protected
from curation.views.runs import is_simulated, point_in_words
from curation.views.screen_cache import screen_model
from curation.views.screening import Leaks, check_findings, conflict_findings, leak_findings
from curation.views.staleness import screen_inputs
from curation.workspace import Progress, StageResult, Workspace, label_of, open_workspace

_KINDS = {"yes": "leak_judged", "unsure": "leak_unsure", "no": "leak_cleared"}


def judge_doubts(
    workspace: Workspace, doubts: Mapping[int, Doubt], *, run: int, progress: Progress | None
) -> tuple[list[Finding], list[str]]:
    """The judge's verdict on each doubtful row (by seq) as a finding, and notes; a verdict on disk is never bought again.

    "yes" takes the row out; "unsure" and "no" are kept beside it with the rationale, for people.
    """
    judge = workspace.project.models.leak_judge or workspace.project.models.judge
    stopped = ""
    try:
        ask(workspace, list(requests_for(doubts.values(), judge=judge)), judge, progress=progress, read=_unusable)
    except (BudgetReached, UnusableAnswers) as error:
        stopped = str(error)
    read = _read(workspace, list(doubts.values()), run)
    found = [_finding(seq, doubt, read[doubt.row, doubt.item]) for seq, doubt in doubts.items() if (doubt.row, doubt.item) in read]
    missing = len(doubts) - len(found)
    notes = [f"{missing:,} doubtful rows have no verdict of the leak judge; they stay in."] if missing else []
    return found, [note for note in (stopped, *notes) if note]


def _unusable(answer: Answer) -> Failure | None:
    verdict = verdict_from(answer)
    return verdict if isinstance(verdict, Failure) else None


def _read(workspace: Workspace, doubts: Sequence[Doubt], run: int) -> dict[tuple[str, str], Verdict]:
    judge = workspace.project.models.leak_judge or workspace.project.models.judge
    wanted, digest = {(doubt.row, doubt.item) for doubt in doubts}, leak_digest(judge)
    verdicts: dict[tuple[str, str], Verdict] = {}
    failures: list[Failure] = []
    for answer in CallLedger(workspace.db).answers(STAGE, simulated=is_simulated(judge)):
        row, asked_under, item = answer.request.slot.split(":", 2)
        if asked_under != digest or (row, item) not in wanted:
            continue
        verdict = verdict_from(answer)
        if isinstance(verdict, Failure):
            failures.append(verdict)
        else:
            verdicts[row, item] = verdict
    facts.add_failures(workspace.db, failures, run)
    return verdicts


def _finding(seq: int, doubt: Doubt, verdict: Verdict) -> Finding:
    evidence = f"leak judge: {verdict.same}. {verdict.rationale}"
    return Finding(seq, "screen", _KINDS[verdict.same], verdict.same == "yes", item=doubt.item, evidence=evidence)


def screen(folder: Path, *, progress: Progress | None = None) -> StageResult:
    """Find leaks of the protected sets, rows of one text and two labels, and rows that fail a check. Core: leakage, validate.py."""
    with open_workspace(folder) as workspace, hold_lock(workspace.db, "screen"):
        protected = load_protected(workspace)
        read = [*(items.sha256 for items in protected), checks_digest(workspace.project.screen.checks, workspace.folder)]
        inputs = screen_inputs(workspace)
        digest = settings_digest(workspace.project.screen, read, inputs, *_shaping(workspace))
        if runs.is_current(workspace.db, "screen", digest):
            return _tell_screen(workspace, "nothing has changed since the last run; its findings stand")
        with runs.record_run(workspace.db, "screen", digest) as run:
            rows = [row for kind in KINDS for row in records.list_rows(workspace.db, kind)]
            run.rows_in = len(rows)
            tell = partial(_tell_progress, progress, len(rows)) if progress else None
            leaks = leak_findings(workspace, rows, protected, run=run.number, tell=tell)
            findings = [*leaks.findings, *check_findings(workspace, rows)]
            notes = [] if workspace.project.screen.judge or not leaks.doubts else [_untold(len(leaks.doubts))]
            if workspace.project.screen.judge:
                judged, notes = judge_doubts(workspace, leaks.doubts, run=run.number, progress=progress)
                findings += judged
            for kind in KINDS:
                findings += conflict_findings(workspace, [row for row in rows if row.kind == kind])
            facts.add_findings(workspace.db, findings, run.number)
            gone = {f.seq for f in findings if f.drops}
            run.rows_out = run.rows_in - len(gone)
            labels, share = [label_of(workspace, row) for row in rows], workspace.project.screen.alarm_share
            alarms = [str(alarm) for alarm in gate_alarms("screen", labels, [row.seq in gone for row in rows], share=share)]
            run.detail = {
                "inputs": inputs,
                "kinds": Counter(f.kind for f in findings),
                "doubtful": len(leaks.doubts),
                "gate_alarms": alarms,
                **_operating(workspace, leaks),
            }
        return _tell_screen(workspace, *notes)


def _operating(workspace: Workspace, leaks: Leaks) -> dict[str, Any]:
    """The operating point for the run; what no row had to be looked at for stands as the last run told it."""
    if not leaks.digest:
        return {}
    last = runs.latest_run(workspace.db, "screen")
    known = json.loads(last["detail"] or "{}").get("operating_point") if last else None
    if not leaks.points and known and known["digest"] == leaks.digest:
        return {"operating_point": known}
    suites = {p.suite: {name: value for name, value in p._asdict().items() if name != "suite"} for p in leaks.points}
    rate = workspace.project.screen.false_positive_rate
    return {"operating_point": {"key": "screen.false_positive_rate", "rate": rate, "suites": suites, "digest": leaks.digest}}


def _shaping(workspace: Workspace) -> list[Any]:
    """What decides besides the section itself: the embedding model, and the judge with the money that it may spend."""
    project, model = workspace.project, screen_model(workspace)
    judge = project.models.leak_judge or project.models.judge
    return [model_digest(model) if model else "", *([leak_digest(judge), project.budget.usd] if project.screen.judge else [])]


def _untold(n: int) -> str:
    lie, them = ("1 row lies", "it") if n == 1 else (f"{n:,} rows lie", "them")
    return f"{lie} just below the cut; `screen: {{judge: true}}` asks the leak judge about {them}."


def _tell_progress(progress: Progress, total: int, done: int) -> None:
    progress("screen", done, total, "rows beside the protected sets")


def _tell_screen(workspace: Workspace, *notes: str) -> StageResult:
    run = runs.latest_run(workspace.db, "screen")
    assert run is not None
    detail = json.loads(run["detail"])
    operating = {name: value for name, value in detail.get("operating_point", {}).items() if name != "digest"}
    alarms = detail.get("gate_alarms", [])
    counts = {"findings": detail["kinds"], "alarms": alarms, **({"operating_point": operating} if operating else {})}
    return StageResult("screen", run["rows_in"], run["rows_out"], counts, [*alarms, *_operating_notes(operating), *notes])


def _operating_notes(operating: Mapping[str, Any]) -> list[str]:
    """The line on the operating point."""
    if not operating:
        return []
    if not operating["suites"]:
        return ["Operating point: a row is a rewording when it is nearer to a protected text than to every text that the plan may show."]
    points = [OperatingPoint(name, **point) for name, point in operating["suites"].items()]
    said = "; ".join(f"{point.suite} {point_in_words(point)}" for point in points)
    return [
        f"Operating point: {operating['rate']:.1%} of hard negatives (an item beside its nearest other one) may be flagged, so the cuts in"
        f" standard deviations are {said}. `{operating['key']}` moves them."
    ]
