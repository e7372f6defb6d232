"""The stage that finds leaks of the protected sets, conflicts of label and rows that fail a check. Core: leakage/, validate.py."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from curation.alarms import gate_alarms
from curation.checks import TableCheck
from curation.dedup import find_conflicts
from curation.embed import model_digest
from curation.leakage import OperatingPoint
from curation.leakage.judge import leak_digest
from curation.pipeline.asking import Progress
from curation.pipeline.bench import Bench, Summary, checked_answer, label_of, load_cells, load_protected, open_bench
from curation.pipeline.leak_judging import judge_doubts
from curation.pipeline.leaks import Leaks, leak_findings
from curation.pipeline.screened import screen_model
from curation.pipeline.staleness import screen_inputs
from curation.project import settings_digest
from curation.records import KINDS
from curation.store import facts, hold_lock, records, runs
from curation.store.facts import Finding
from curation.store.records import Row
from curation.validate import check_rows, checks_digest, load_table

__all__ = ["check_findings", "conflict_findings", "leak_findings", "load_points", "point_in_words", "screen"]


def screen(folder: Path, *, progress: Progress | None = None) -> Summary:
    """Find leaks of the protected sets, rows of one text and two labels, and rows that fail a check. Core: leakage, validate.py."""
    with open_bench(folder) as bench, hold_lock(bench.db, "screen"):
        protected = load_protected(bench)
        read = [*(items.sha256 for items in protected), checks_digest(bench.project.screen.checks, bench.folder)]
        inputs = screen_inputs(bench)
        digest = settings_digest(bench.project.screen, read, inputs, *_shaping(bench))
        if runs.is_current(bench.db, "screen", digest):
            return _tell_screen(bench, "nothing has changed since the last run; its findings stand")
        with runs.record_run(bench.db, "screen", digest) as run:
            rows = [row for kind in KINDS for row in records.list_rows(bench.db, kind)]
            run.rows_in = len(rows)
            tell = partial(_tell_progress, progress, len(rows)) if progress else None
            leaks = leak_findings(bench, rows, protected, run=run.number, tell=tell)
            findings = [*leaks.findings, *check_findings(bench, rows)]
            notes = [] if bench.project.screen.judge or not leaks.doubts else [_untold(len(leaks.doubts))]
            if bench.project.screen.judge:
                judged, notes = judge_doubts(bench, leaks.doubts, run=run.number, progress=progress)
                findings += judged
            for kind in KINDS:
                findings += conflict_findings(bench, [row for row in rows if row.kind == kind])
            facts.add_findings(bench.db, findings, run.number)
            gone = {f.seq for f in findings if f.drops}
            run.rows_out = run.rows_in - len(gone)
            labels, share = [label_of(bench, row) for row in rows], bench.project.screen.alarm_share
            alarms = [str(alarm) for alarm in gate_alarms("screen", labels, [row.seq in gone for row in rows], share=share)]
            run.detail = {
                "inputs": inputs,
                "kinds": Counter(f.kind for f in findings),
                "doubtful": len(leaks.doubts),
                "gate_alarms": alarms,
                **_operating(bench, leaks),
            }
        return _tell_screen(bench, *notes)


def conflict_findings(bench: Bench, rows: Sequence[Row]) -> list[Finding]:
    """Rows of one text and two labels: for people to settle, so nothing is dropped."""
    labels = [label_of(bench, row) for row in rows]
    if not any(labels):
        return []
    lines = find_conflicts([row.prompt for row in rows], labels).to_pylist()
    return [
        Finding(
            rows[n["row"]].seq, "screen", "conflict", False, rows[n["twin"]].seq, evidence=f"{n['label']} here, {n['twin_label']} there"
        )
        for n in lines
    ]


def check_findings(bench: Bench, rows: Sequence[Row]) -> list[Finding]:
    """Rows that fail one of the project's checks; of a pair, the answer meant to be better is checked."""
    checks = bench.project.screen.checks
    if not rows or not checks:
        return []
    tables = {check.table: load_table(bench.folder / check.table) for check in checks if isinstance(check, TableCheck)}
    expected = {cell.id: cell.key for cell in load_cells(bench)}
    answers = [checked_answer(row) for row in rows]
    lines = check_rows(
        answers,
        checks,
        prompts=[row.prompt for row in rows],
        # A person who changed an answer outranks the plan.
        expected=[None if row.how == "edited" else expected.get(row.cell or "") for row in rows],
        tables=tables,
        folder=bench.folder,
    ).to_pylist()
    return [
        Finding(rows[line["row"]].seq, "screen", f"check_{line['check']}_{line['kind']}", True, evidence=line["evidence"]) for line in lines
    ]


def load_points(bench: Bench) -> dict[str, OperatingPoint]:
    """Where the latest screen's cut of each suite lies, by suite; empty where it has none."""
    run = runs.latest_run(bench.db, "screen")
    detail = json.loads(run["detail"] or "{}") if run else {}
    return {name: OperatingPoint(name, **point) for name, point in detail.get("operating_point", {}).get("suites", {}).items()}


def point_in_words(point: OperatingPoint) -> str:
    """One suite's cut and what it was estimated on."""
    if not point.is_estimated:
        return f"{point.cut:.2f}, fixed ({point.items:,} items are too few to estimate on)"
    return f"{point.cut:.2f} ({point.flagged:,} of {point.items:,} items lie beyond it with their nearest other one)"


def _operating(bench: Bench, leaks: Leaks) -> dict[str, Any]:
    """The operating point for the run; what no row had to be looked at for stands as the last run told it."""
    if not leaks.digest:
        return {}
    last = runs.latest_run(bench.db, "screen")
    known = json.loads(last["detail"] or "{}").get("operating_point") if last else None
    if not leaks.points and known and known["digest"] == leaks.digest:
        return {"operating_point": known}
    suites = {p.suite: {name: value for name, value in p._asdict().items() if name != "suite"} for p in leaks.points}
    rate = bench.project.screen.false_positive_rate
    return {"operating_point": {"key": "screen.false_positive_rate", "rate": rate, "suites": suites, "digest": leaks.digest}}


def _shaping(bench: Bench) -> list[Any]:
    """What decides besides the section itself: the embedding model, and the judge with the money that it may spend."""
    project, model = bench.project, screen_model(bench)
    judge = project.models.leak_judge or project.models.judge
    return [model_digest(model) if model else "", *([leak_digest(judge), project.budget.usd] if project.screen.judge else [])]


def _untold(n: int) -> str:
    lie, them = ("1 row lies", "it") if n == 1 else (f"{n:,} rows lie", "them")
    return f"{lie} just below the cut; `screen: {{judge: true}}` asks the leak judge about {them}."


def _tell_progress(progress: Progress, total: int, done: int) -> None:
    progress("screen", done, total, "rows beside the protected sets")


def _tell_screen(bench: Bench, *notes: str) -> Summary:
    run = runs.latest_run(bench.db, "screen")
    assert run is not None
    detail = json.loads(run["detail"])
    operating = {name: value for name, value in detail.get("operating_point", {}).items() if name != "digest"}
    alarms = detail.get("gate_alarms", [])
    counts = {"findings": detail["kinds"], "alarms": alarms, **({"operating_point": operating} if operating else {})}
    return Summary("screen", run["rows_in"], run["rows_out"], counts, [*alarms, *_operating_notes(operating), *notes])


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
