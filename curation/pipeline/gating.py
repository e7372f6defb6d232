"""The stages that look at all rows together and find what must not go on: dedup, screen. Core: dedup/, leakage/, validate.py."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.checks import TableCheck
from curation.dedup import cluster_alarms, find_conflicts, find_exact, find_near, find_semantic
from curation.embed import embed, model_digest
from curation.leakage import find_leaks
from curation.pipeline.bench import Bench, ProtectedItems, Summary, load_cells, load_protected, open_bench
from curation.pipeline.deciding import rank_rows
from curation.pipeline.making import Progress
from curation.project import settings_digest
from curation.records import KINDS, completion_text, prompt_text
from curation.store import facts, hold_lock, records, runs
from curation.store.facts import Finding
from curation.store.records import Row
from curation.validate import check_rows, load_table


def dedup(folder: Path, *, progress: Progress | None = None) -> Summary:
    """Find copies, near copies and rewordings; the kept one is the approved, then the pushed, then the best. Core: dedup/."""
    with open_bench(folder) as bench, hold_lock(bench.db, "dedup"):
        ranks = rank_rows(bench)
        digest = settings_digest(bench.project.dedup, model_digest(bench.project.dedup.model), sorted(ranks.items()))
        if runs.is_current(bench.db, "dedup", digest):
            return _tell_dedup(bench, "nothing has changed since the last run; its findings stand")
        with runs.record_run(bench.db, "dedup", digest) as run:
            findings, alarms = list[Finding](), list[str]()
            for kind in KINDS:
                # A row that a person rewrote has gone on as its child, which must not fall as its copy.
                rows = [row for row in records.list_rows(bench.db, kind) if row.seq in ranks]
                found, alarm = _find_twins(bench, rows, ranks, progress)
                findings, alarms = findings + found, alarms + alarm
                run.rows_in += len(rows)
            facts.add_findings(bench.db, findings, run.number)
            copies = records.count_duplicates_by_id(bench.db)
            run.rows_out = run.rows_in - len({f.seq for f in findings})
            run.detail = {"kinds": Counter(f.kind for f in findings), "second_origins": sum(n for _, n in copies), "alarms": alarms}
        return _tell_dedup(bench, *alarms)


def screen(folder: Path, *, progress: Progress | None = None) -> Summary:
    """Find leaks of the protected sets, rows of one text and two labels, and rows that fail a check. Core: leakage, validate.py."""
    with open_bench(folder) as bench, hold_lock(bench.db, "screen"):
        protected = load_protected(bench)
        digest = settings_digest(bench.project.screen, [items.sha256 for items in protected], model_digest(bench.project.dedup.model))
        if runs.is_current(bench.db, "screen", digest):
            return _tell_screen(bench, "nothing has changed since the last run; its findings stand")
        with runs.record_run(bench.db, "screen", digest) as run:
            rows = [row for kind in KINDS for row in records.list_rows(bench.db, kind)]
            run.rows_in = len(rows)
            findings = leak_findings(bench, rows, protected) + check_findings(bench, rows)
            for kind in KINDS:
                findings += conflict_findings(bench, [row for row in rows if row.record.kind == kind])
            facts.add_findings(bench.db, findings, run.number)
            run.rows_out = run.rows_in - len({f.seq for f in findings if f.drops})
            run.detail = {"kinds": Counter(f.kind for f in findings)}
        return _tell_screen(bench)


def vectors_of(bench: Bench, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """float32 (texts, dimensions), L2-normalized: the kept vectors, made for texts that have none yet."""
    model = bench.project.dedup.model
    digest = model_digest(model)
    kept = facts.load_vectors(bench.db, digest, set(texts))
    missing = [text for text in dict.fromkeys(texts) if text not in kept]
    if missing:
        made = embed(missing, model=model)
        new = {text: vector.astype(np.float32).tobytes() for text, vector in zip(missing, made, strict=True)}
        facts.add_vectors(bench.db, digest, new)
        kept |= new
    return np.stack([np.frombuffer(kept[text], dtype=np.float32) for text in texts]) if texts else np.zeros((0, 0), dtype=np.float32)


def leak_findings(bench: Bench, rows: Sequence[Row], protected: Sequence[ProtectedItems]) -> list[Finding]:
    """Rows too close to a protected item, each with its evidence; answers are looked through as well as prompts."""
    if not rows or not protected:
        return []
    labels = [label_of(bench, row) for row in rows]
    has_labels = any(labels) and any(items.suite.label for items in protected)
    texts = {items.name: items.texts for items in protected}
    common: dict[str, Any] = {
        "allowed": allowed_texts(bench),
        "false_positive_rate": bench.project.screen.false_positive_rate,
        "labels": labels if has_labels else None,
        "protected_labels": {items.name: items.labels for items in protected} if has_labels else None,
    }
    prompts = find_leaks([prompt_text(r.record) for r in rows], texts, encode=functools.partial(vectors_of, bench), **common)
    answers = find_leaks([completion_text(r.record) for r in rows], texts, **common)
    flagged = set(prompts["row"].to_pylist())
    # An answer names what it is about, so only copied text counts there; a row that leaks by its prompt is told once.
    copied = [line for line in answers.to_pylist() if line["kind"] != "reworded" and line["row"] not in flagged]
    found = [_leak(rows[line["row"]], line, texts) for line in prompts.to_pylist()]
    return found + [_leak(rows[line["row"]], {**line, "evidence": f"In the answer: {line['evidence']}"}, texts) for line in copied]


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
    answers = [_checked_answer(row) for row in rows]
    lines = check_rows(
        answers,
        checks,
        prompts=[prompt_text(row.record) for row in rows],
        # A person who changed an answer outranks the plan.
        expected=[None if row.how == "edited" else expected.get(row.cell or "") for row in rows],
        tables=tables,
    ).to_pylist()
    return [
        Finding(rows[line["row"]].seq, "screen", f"check_{line['check']}_{line['kind']}", True, evidence=line["evidence"]) for line in lines
    ]


def label_of(bench: Bench, row: Row) -> str | None:
    """The record's class; for a pair what the answer meant to be better says."""
    if row.record.kind == "instruction":
        return row.record.label
    pattern = bench.project.records.label_pattern
    found = re.search(pattern, _checked_answer(row)) if pattern and row.better is not None else None
    return found.group(1) if found else None


def texts_for_dedup(bench: Bench, rows: Sequence[Row]) -> list[str]:
    """The text of each row that duplicates are looked for in, as the project chooses."""
    choice = bench.project.dedup.text
    if choice == "both":
        return [f"{prompt_text(row.record)}\n\n{completion_text(row.record)}" for row in rows]
    return [prompt_text(row.record) if choice == "prompt" else completion_text(row.record) for row in rows]


def _find_twins(bench: Bench, rows: Sequence[Row], ranks: Mapping[int, int], progress: Progress | None) -> tuple[list[Finding], list[str]]:
    """Exact, then near among what is left, then semantic among what is left after that: dearer steps see fewer rows."""
    settings, findings, alarms = bench.project.dedup, list[Finding](), list[str]()
    left = list(rows)
    for step in ("exact", "near", "semantic"):
        if len(left) < 2:
            break
        texts, labels = texts_for_dedup(bench, left), [label_of(bench, row) for row in left]
        common: dict[str, Any] = {"labels": labels if any(labels) else None, "rank": [ranks[row.seq] for row in left]}
        if step == "exact":
            table = find_exact(texts, **common)
        elif step == "near":
            table = find_near(texts, threshold=settings.near, shingle=settings.shingle, **common)
        else:
            vectors = vectors_of(bench, [prompt_text(row.record) for row in left])
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
    return f"A cluster of {line['size']} rows ({share:.0%} of all) looks alike; look before you believe it. It is kept as {text!r}."


def _leak(row: Row, line: Mapping[str, Any], texts: Mapping[str, Sequence[str]]) -> Finding:
    shown = json.dumps(texts[line["suite"]][line["item"]], ensure_ascii=False)
    return Finding(
        row.seq, "screen", f"leak_{line['kind']}", True, item=f"{line['suite']}:{line['item']}", score=line["score"],
        evidence=f"protected: {shown}. {line['evidence']}",
    )  # fmt: skip


def _texts_in(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _checked_answer(row: Row) -> str:
    if row.record.kind == "instruction":
        return row.record.completion.content
    return row.record.completions[row.better or 0].content


def _tell_dedup(bench: Bench, *notes: str) -> Summary:
    run = runs.latest_run(bench.db, "dedup")
    assert run is not None
    detail = json.loads(run["detail"])
    kinds = {step: detail["kinds"].get(step, 0) for step in ("exact", "near", "semantic")}
    counts = {**kinds, "identical_records": detail["second_origins"]}
    return Summary("dedup", run["rows_in"], run["rows_out"], counts, list(notes))


def _tell_screen(bench: Bench, *notes: str) -> Summary:
    run = runs.latest_run(bench.db, "screen")
    assert run is not None
    kinds = json.loads(run["detail"])["kinds"]
    return Summary("screen", run["rows_in"], run["rows_out"], {"findings": kinds}, list(notes))
