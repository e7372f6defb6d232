"""Leaks of the protected sets in the project's rows, prompts and answers, as findings. Core: leakage/."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curation.embed import embed
from curation.leakage import LeakScreen, OperatingPoint
from curation.leakage.features import Encoder
from curation.leakage.judge import Doubt
from curation.pipeline.bench import Bench, label_of, load_cells
from curation.pipeline.duplicates import vectors_of
from curation.pipeline.protecting import ProtectedItems
from curation.pipeline.screened import add_seen, find_seen, keys_of, screening_digest
from curation.store.facts import Finding
from curation.store.records import Row

_BATCH = 50_000


@dataclass(frozen=True)
class Leaks:
    """What the screen says of some rows."""

    findings: Sequence[Finding]
    doubts: Mapping[int, Doubt]
    """By seq the rows just below the cut."""
    points: Sequence[OperatingPoint]
    """Where each suite's cut lies; empty when no row had to be looked at, or texts that may be trained on decide."""
    digest: str
    """Of what decides besides the rows."""


def leak_findings(
    bench: Bench,
    rows: Sequence[Row],
    protected: Sequence[ProtectedItems],
    *,
    run: int | None = None,
    tell: Callable[[int], None] | None = None,
) -> Leaks:
    """Rows too close to a protected item, each with its evidence. Answers are looked through as well as prompts.

    A row that an earlier screen cleared, under the same suites, settings and code, is not looked at again as long as its text
    is the very same.

    Args:
        run: the screen's run, with which cleared rows are kept; rows just below the cut are then looked at again. Without one
            this is the last gate, for which they are cleared too.
        tell: called with the number of rows that are done.
    """
    if not rows or not protected:
        return Leaks([], {}, (), "")
    labels = [label_of(bench, row) for row in rows]
    has_labels = any(labels) and any(items.suite.label for items in protected)
    allowed = allowed_texts(bench)
    digest = screening_digest(bench, protected, allowed, has_labels=has_labels)
    keys = keys_of(digest, rows, labels if has_labels else None)
    unseen = np.flatnonzero(~find_seen(bench, digest, keys, with_doubts=run is None))
    found, doubts, points = list[Finding](), dict[int, Doubt](), tuple[OperatingPoint, ...]()
    if len(unseen):
        score = _scorer(bench, protected, allowed, has_labels=has_labels)
        points = score.points
        for start in range(0, len(unseen), _BATCH):
            batch = unseen[start : start + _BATCH].tolist()
            own = [labels[n] for n in batch] if has_labels else None
            some, doubtful = _found([rows[n] for n in batch], own, score, protected)
            found, doubts = found + some, doubts | doubtful
            if tell:
                tell(len(rows) - len(unseen) + start + len(batch))
    if run is not None:
        gone = {finding.seq for finding in found}
        clear = np.array([row.seq not in gone for row in rows])
        doubtful_rows = np.array([row.seq in doubts for row in rows])
        add_seen(bench, digest, keys[clear], doubtful=doubtful_rows[clear], run=run)
    return Leaks(found, doubts, points, digest.hex())


def allowed_texts(bench: Bench) -> list[str]:
    """What the plan may show of the rows it is about: other names of the same thing, which may lie near a protected text."""
    texts = {value for cell in load_cells(bench) for column in (cell.row or {}).values() for value in _texts_in(column)}
    return sorted(texts)


@dataclass(frozen=True)
class _Scorer:
    """The suites, indexed for prompts (with embeddings, where the project has them) and for answers (without)."""

    prompts: LeakScreen
    answers: LeakScreen

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        return self.prompts.operating_points


def _scorer(bench: Bench, protected: Sequence[ProtectedItems], allowed: Sequence[str], *, has_labels: bool) -> _Scorer:
    texts = {items.name: items.texts for items in protected}
    given: dict[str, Any] = {
        "allowed": allowed,
        "false_positive_rate": bench.project.screen.false_positive_rate,
        "protected_labels": {items.name: items.labels for items in protected} if has_labels else None,
    }
    encode = _encoder(bench)
    answers = LeakScreen(texts, **given)
    return _Scorer(answers if encode is None else LeakScreen(texts, encode=encode, **given), answers)


def _found(
    rows: Sequence[Row], labels: Sequence[str | None] | None, scorer: _Scorer, protected: Sequence[ProtectedItems]
) -> tuple[list[Finding], dict[int, Doubt]]:
    """Leaks among some rows, and those just below the cut."""
    texts = {items.name: items.texts for items in protected}
    asked, answered = zip(*(row.texts for row in rows), strict=True)
    prompts = scorer.prompts.score(asked, labels=labels)
    leaks = prompts.filter(prompts["is_leak"]).to_pylist()
    flagged = {line["row"] for line in leaks}
    # An answer names what it is about, so only copied text counts there; a row that leaks by its prompt is told once.
    copied = [line for line in _copied(answered, labels, scorer) if line["row"] not in flagged]
    found = [_leak(rows[line["row"]], line, texts) for line in leaks]
    found += [_leak(rows[line["row"]], {**line, "evidence": f"In the answer: {line['evidence']}"}, texts) for line in copied]
    gone, labelled = {finding.seq for finding in found}, {items.name for items in protected if items.suite.label}
    doubtful = [line for line in prompts.filter(prompts["is_uncertain"]).to_pylist() if rows[line["row"]].seq not in gone]
    return found, {row.seq: _doubt(row, line, texts, line["suite"] in labelled) for line in doubtful for row in [rows[line["row"]]]}


def _copied(texts: Sequence[str], labels: Sequence[str | None] | None, scorer: _Scorer) -> Iterator[dict[str, Any]]:
    answers = scorer.answers.score(texts, labels=labels, copies_only=True)
    # Beside texts that may be trained on rewordings are told all the same.
    yield from (line for line in answers.filter(answers["is_leak"]).to_pylist() if line["kind"] != "reworded")


def _leak(row: Row, line: Mapping[str, Any], texts: Mapping[str, Sequence[str]]) -> Finding:
    shown = json.dumps(texts[line["suite"]][line["item"]], ensure_ascii=False)
    return Finding(
        row.seq, "screen", f"leak_{line['kind']}", True, item=f"{line['suite']}:{line['item']}", score=line["score"],
        evidence=f"protected: {shown}. {line['evidence']}",
    )  # fmt: skip


def _doubt(row: Row, line: Mapping[str, Any], texts: Mapping[str, Sequence[str]], has_label: bool) -> Doubt:
    suite, item = line["suite"], line["item"]
    return Doubt(row.id, f"{suite}:{item}", row.prompt, texts[suite][item], has_label)


def _encoder(bench: Bench) -> Encoder | None:
    """The kept vectors of dedup's model, or those of the screen's own; nothing where the project embeds nothing."""
    screen, dedup = bench.project.screen, bench.project.dedup
    if screen.model is not None and screen.model != dedup.model:
        return functools.partial(embed, model=screen.model)
    return functools.partial(vectors_of, bench) if dedup.semantic is not None or screen.model else None


def _texts_in(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
