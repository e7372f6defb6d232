"""The stage that finds leaks of the protected sets, conflicts of label and rows that fail a check. Core: leakage/, validate.py."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.checks import TableCheck
from curation.dedup import find_conflicts
from curation.embed import embed, model_digest
from curation.leakage import find_leaks, score_leaks
from curation.leakage.features import Encoder
from curation.leakage.judge import Doubt, leak_digest
from curation.pipeline.asking import Progress
from curation.pipeline.bench import Bench, Summary, checked_answer, label_of, load_cells, load_protected, open_bench
from curation.pipeline.duplicates import vectors_of
from curation.pipeline.leak_judging import judge_doubts
from curation.pipeline.protecting import ProtectedItems
from curation.project import settings_digest
from curation.records import KINDS, completion_text, prompt_text
from curation.store import facts, hold_lock, records, runs
from curation.store.facts import Finding
from curation.store.records import Row
from curation.validate import check_rows, checks_digest, load_table


def screen(folder: Path, *, progress: Progress | None = None) -> Summary:
    """Find leaks of the protected sets, rows of one text and two labels, and rows that fail a check. Core: leakage, validate.py."""
    with open_bench(folder) as bench, hold_lock(bench.db, "screen"):
        protected = load_protected(bench)
        read = [*(items.sha256 for items in protected), checks_digest(bench.project.screen.checks, bench.folder)]
        digest = settings_digest(bench.project.screen, read, *_shaping(bench))
        if runs.is_current(bench.db, "screen", digest):
            return _tell_screen(bench, "nothing has changed since the last run; its findings stand")
        with runs.record_run(bench.db, "screen", digest) as run:
            rows = [row for kind in KINDS for row in records.list_rows(bench.db, kind)]
            run.rows_in = len(rows)
            leaks, doubts = leak_findings(bench, rows, protected)
            findings = leaks + check_findings(bench, rows)
            notes = [] if bench.project.screen.judge or not doubts else [_untold(len(doubts))]
            if bench.project.screen.judge:
                judged, notes = judge_doubts(bench, doubts, run=run.number, progress=progress)
                findings += judged
            for kind in KINDS:
                findings += conflict_findings(bench, [row for row in rows if row.record.kind == kind])
            facts.add_findings(bench.db, findings, run.number)
            run.rows_out = run.rows_in - len({f.seq for f in findings if f.drops})
            run.detail = {"kinds": Counter(f.kind for f in findings), "doubtful": len(doubts)}
        return _tell_screen(bench, *notes)


def leak_findings(bench: Bench, rows: Sequence[Row], protected: Sequence[ProtectedItems]) -> tuple[list[Finding], dict[int, Doubt]]:
    """Rows too close to a protected item, each with its evidence, and by seq those just below the cut.

    Answers are looked through as well as prompts.
    """
    if not rows or not protected:
        return [], {}
    labels = [label_of(bench, row) for row in rows]
    has_labels = any(labels) and any(items.suite.label for items in protected)
    texts = {items.name: items.texts for items in protected}
    common: dict[str, Any] = {
        "allowed": allowed_texts(bench),
        "false_positive_rate": bench.project.screen.false_positive_rate,
        "labels": labels if has_labels else None,
        "protected_labels": {items.name: items.labels for items in protected} if has_labels else None,
    }
    prompts, answers = _scored(rows, texts, _encoder(bench), common)
    leaks = prompts.filter(prompts["is_leak"]).to_pylist()
    flagged = {line["row"] for line in leaks}
    # An answer names what it is about, so only copied text counts there; a row that leaks by its prompt is told once.
    copied = [line for line in answers.to_pylist() if line["kind"] != "reworded" and line["row"] not in flagged]
    found = [_leak(rows[line["row"]], line, texts) for line in leaks]
    found += [_leak(rows[line["row"]], {**line, "evidence": f"In the answer: {line['evidence']}"}, texts) for line in copied]
    gone = {finding.seq for finding in found}
    labelled = {items.name for items in protected if items.suite.label}
    doubtful = [line for line in prompts.filter(prompts["is_uncertain"]).to_pylist() if rows[line["row"]].seq not in gone]
    return found, {rows[line["row"]].seq: _doubt(rows[line["row"]], line, texts, labelled) for line in doubtful}


def allowed_texts(bench: Bench) -> list[str]:
    """What the plan may show of the rows it is about: other names of the same thing, which may lie near a protected text."""
    texts = {value for cell in load_cells(bench) for column in (cell.row or {}).values() for value in _texts_in(column)}
    return sorted(texts)


def conflict_findings(bench: Bench, rows: Sequence[Row]) -> list[Finding]:
    """Rows of one text and two labels: for people to settle, so nothing is dropped."""
    labels = [label_of(bench, row) for row in rows]
    lines = find_conflicts([prompt_text(row.record) for row in rows], labels).to_pylist()
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
        prompts=[prompt_text(row.record) for row in rows],
        # A person who changed an answer outranks the plan.
        expected=[None if row.how == "edited" else expected.get(row.cell or "") for row in rows],
        tables=tables,
        folder=bench.folder,
    ).to_pylist()
    return [
        Finding(rows[line["row"]].seq, "screen", f"check_{line['check']}_{line['kind']}", True, evidence=line["evidence"]) for line in lines
    ]


def _leak(row: Row, line: Mapping[str, Any], texts: Mapping[str, Sequence[str]]) -> Finding:
    shown = json.dumps(texts[line["suite"]][line["item"]], ensure_ascii=False)
    return Finding(
        row.seq, "screen", f"leak_{line['kind']}", True, item=f"{line['suite']}:{line['item']}", score=line["score"],
        evidence=f"protected: {shown}. {line['evidence']}",
    )  # fmt: skip


def _scored(
    rows: Sequence[Row], texts: Mapping[str, Sequence[str]], encode: Encoder | None, common: Mapping[str, Any]
) -> tuple[pa.Table, pa.Table]:
    """The scores of the prompts and the leaks of the answers; without embeddings the suites are indexed once for both."""
    prompts, answers = [prompt_text(row.record) for row in rows], [completion_text(row.record) for row in rows]
    if encode is not None:
        return score_leaks(prompts, texts, encode=encode, **common), find_leaks(answers, texts, **common)
    both = score_leaks([*prompts, *answers], texts, **{**common, "labels": common["labels"] and [*common["labels"], *common["labels"]]})
    if not both.num_rows:
        return both, both
    of_answers = both.slice(len(rows))
    of_answers = of_answers.set_column(0, "row", pa.array(range(len(rows)), pa.int64()))
    return both.slice(0, len(rows)), of_answers.filter(of_answers["is_leak"])


def _doubt(row: Row, line: Mapping[str, Any], texts: Mapping[str, Sequence[str]], labelled: Set[str]) -> Doubt:
    suite, item = line["suite"], line["item"]
    return Doubt(row.id, f"{suite}:{item}", prompt_text(row.record), texts[suite][item], suite in labelled)


def _encoder(bench: Bench) -> Encoder | None:
    """The kept vectors of dedup's model, or those of the screen's own; nothing where the project embeds nothing."""
    screen, dedup = bench.project.screen, bench.project.dedup
    if screen.model is not None and screen.model != dedup.model:
        return functools.partial(embed, model=screen.model)
    return functools.partial(vectors_of, bench) if dedup.semantic is not None or screen.model else None


def _shaping(bench: Bench) -> list[Any]:
    """What decides besides the section itself: the embedding model, and the judge with the money that it may spend."""
    project = bench.project
    model = project.screen.model or (project.dedup.model if project.dedup.semantic is not None else None)
    judge = project.models.leak_judge or project.models.judge
    return [model_digest(model) if model else "", *([leak_digest(judge), project.budget.usd] if project.screen.judge else [])]


def _untold(n: int) -> str:
    return f"{n:,} rows lie just below the cut; `screen: {{judge: true}}` asks the leak judge about them."


def _texts_in(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _tell_screen(bench: Bench, *notes: str) -> Summary:
    run = runs.latest_run(bench.db, "screen")
    assert run is not None
    kinds = json.loads(run["detail"])["kinds"]
    return Summary("screen", run["rows_in"], run["rows_out"], {"findings": kinds}, list(notes))
