"""Gather what the judges' own words, and people's, say about the judges. Read-only. Core: score/."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from curation import judge as scoring
from curation import report as page
from curation.intervals import Rate
from curation.judge import diagnostics, validation
from curation.records import KINDS, PairRecord, candidates_of, record_id, whole_text
from curation.store import facts, records, runs
from curation.store.records import Row
from curation.views.runs import is_simulated
from curation.views.scores import (
    Judged,
    Kept,
    better_candidate,
    judged_by,
    keep_rules,
    kept_rows,
    people_say,
    rule_in_words,
    selections_of,
    totals_together,
)
from curation.workspace import Workspace

SHOWN = 40
"""Rows of a sort that the page writes out; the numbers count all of them."""

Verdicts = Mapping[int, Mapping[str, Any]]


def score_sets(workspace: Workspace) -> tuple[page.ScoreSet, ...]:
    """The totals of each kind, the rule that keeps, and what it keeps beside chance and beside length."""
    settings, first = workspace.project.score, judged_by(workspace)[0]
    candidates, out = candidates_by_id(workspace), []
    for kind in KINDS:
        found = kept_rows(workspace, kind)
        if not found.rows:
            continue
        seqs = [row.seq if kind == "instruction" else better_candidate(row, candidates) for row in found.rows]
        known = [first.values[seq] for seq in seqs if seq in first.totals]
        out.append(
            page.ScoreSet(
                kind=kind,
                totals=found.totals,
                threshold=settings.threshold if settings.top_percent is None else None if settings.top_by else found.cut,
                rule=rule_in_words(workspace),
                kept=sum(found.kept),
                criteria={c: tuple(float(values[c]) for values in known) for c in settings.rubric},
                selections=selections_of(workspace, found),
                groups=_groups(found) if settings.top_by else {},
                rubric_digest=scoring.rubric_digest(workspace.project),
            )
        )
    return tuple(out)


def judge_quality(workspace: Workspace, verdicts: Verdicts) -> page.JudgeQuality:
    """Every check on every judge, and what they say together."""
    rows, judged = _scored_rows(workspace), judged_by(workspace)
    judges = tuple(_judge(workspace, judge, rows, verdicts) for judge in judged)
    first, together = judges[0], totals_together(judged)
    held = first.against.table if first.against else None
    run = runs.latest_run(workspace.db, "score")
    return page.JudgeQuality(
        pairs=first.order.pairs if first.order else 0,
        flipped=first.order.flipped.hits if first.order else 0,
        compared=held.n if held else 0,
        agreed=held.agreed.hits if held else 0,
        contradictions=first.overall_apart,
        panel=json.loads(run["detail"] or "{}").get("panel", "") if run else "",
        judges=judges,
        judges_apart=sum(scoring.spread(given) > scoring.DISAGREEMENT for given in together.values()),
        apart=_twins_apart(workspace, {row.seq: row for row in rows}, judged[0].totals),
        odd=tuple(_odd({row.seq: row for row in rows}, judges))[:SHOWN],
    )


def judge_notes(workspace: Workspace) -> dict[int, list[tuple[str, float, str]]]:
    """What is odd about each row's scores, for people to look at: (kind, points, evidence)."""
    judged = judged_by(workspace)
    first, together = judged[0], totals_together(judged)
    found = {seq: diagnostics.judge_findings(total, first.values[seq].get("overall"), together[seq]) for seq, total in first.totals.items()}
    return {seq: lines for seq, lines in found.items() if lines}


def tell_judges(workspace: Workspace) -> list[str]:
    """What a data lead should know of the judges right after scoring, in sentences."""
    return [notice.text for notice in page.judge_notices(judge_quality(workspace, {})) if notice.level != "note"]


def candidates_by_id(workspace: Workspace) -> dict[str, int]:
    """Seq of each pair's answers, which are records of their own, by id."""
    return {row.id: row.seq for row in records.list_rows(workspace.db, "instruction", role="candidate")}


def _judge(workspace: Workspace, judge: Judged, rows: Sequence[Row], verdicts: Verdicts) -> page.Judge:
    scored = [row for row in rows if row.seq in judge.totals]
    columns: dict[str, list[float]] = {"total": [judge.totals[row.seq] for row in scored]}
    columns |= {c: [float(judge.values[row.seq][c]) for row in scored] for c in workspace.project.score.rubric}
    said = facts.rationales(workspace.db, scoring.rubric_digest(workspace.project, judge.spec))
    again = diagnostics.repeat_agreement(
        judge.values, facts.scores_by_seq(workspace.db, scoring.repeat_digest(workspace.project, judge.spec))
    )
    findings = [diagnostics.judge_findings(total, judge.values[seq].get("overall"), ()) for seq, total in judge.totals.items()]
    return page.Judge(
        name=judge.name,
        scored=len(scored),
        simulated=is_simulated(judge.spec),
        constant=diagnostics.find_constant(columns),
        length=diagnostics.length_sensitivity(columns, [len(row.completion) for row in scored]),
        rationales=diagnostics.check_rationales(said) if said else None,
        order=diagnostics.order_bias(judge.choices.values()) if judge.choices else None,
        own_agreement=diagnostics.self_agreement(_preferred(workspace, judge), judge.totals) if judge.choices else None,
        again=again if again.n else None,
        overall_apart=sum(map(bool, findings)),
        against=_against(workspace, judge, verdicts),
        pairs_against=_pairs_against(workspace, judge, verdicts),
    )


def _against(workspace: Workspace, judge: Judged, verdicts: Verdicts) -> validation.JudgeValidation | None:
    rows = records.list_rows(workspace.db, "instruction")
    keeps = keep_rules(workspace, rows, judge.totals)
    settled = {row.seq: people_say(verdicts.get(row.seq, {}).get("verdict")) for row in rows if row.seq in judge.totals}
    seen = [row for row in rows if settled.get(row.seq) is not None]
    if not seen:
        return None
    return validation.validate_judge(
        judge.name,
        [judge.totals[row.seq] for row in seen],
        [bool(settled[row.seq]) for row in seen],
        kept=[keeps[row.seq](judge.totals[row.seq]) for row in seen],
        criteria={c: [float(judge.values[row.seq][c]) for row in seen] for c in workspace.project.score.rubric},
        lengths=[len(row.completion) for row in seen],
    )


def _pairs_against(workspace: Workspace, judge: Judged, verdicts: Verdicts) -> Rate | None:
    """Pairs that people approved, by whether the judge prefers the answer that they do."""
    people_chose = {seq: v["better"] for seq, v in verdicts.items() if v["verdict"] == "approved" and v["better"] is not None}
    both = [(scoring.settle_panel([judge.choices[seq]]), better) for seq, better in people_chose.items() if seq in judge.choices]
    settled = [(winner, better) for winner, better in both if winner is not None]
    return Rate(sum(winner == better for winner, better in settled), len(settled)) if settled else None


def _preferred(workspace: Workspace, judge: Judged) -> Iterator[tuple[int, int]]:
    """(preferred, other) as seqs of the candidates, for each pair that the judge settled."""
    candidates = candidates_by_id(workspace)
    for row in records.list_rows(workspace.db, "preference"):
        winner = scoring.settle_panel([judge.choices[row.seq]]) if row.seq in judge.choices else None
        if winner is not None and isinstance(pair := row.record, PairRecord):
            seqs = [candidates.get(record_id(candidate), 0) for candidate in candidates_of(pair)]
            yield seqs[winner], seqs[1 - winner]


def _twins_apart(workspace: Workspace, rows: Mapping[int, Row], totals: Mapping[int, float]) -> tuple[page.Apart, ...]:
    """Rows that dedup found to say the same, prompt and answer alike, scored more than a step apart."""
    twins = [(f.seq, f.twin) for f in facts.latest_findings(workspace.db, ("dedup",)) if f.twin in rows and f.seq in rows]
    same = [(a, b) for a, b in twins if b is not None and _answers_alike(rows[a], rows[b])]
    return tuple(
        page.Apart(
            row=rows[a].id, twin=rows[b].id, text=whole_text(rows[a].record), twin_text=whole_text(rows[b].record),
            total=totals[a], twin_total=totals[b],
        )
        for a, b, _ in diagnostics.find_unequal_twins(same, totals)
    )  # fmt: skip


def _answers_alike(row: Row, twin: Row) -> bool:
    """Duplicates are found by their prompts; only where the answers are alike too should the totals be."""
    from rapidfuzz.distance import Indel

    return Indel.normalized_similarity(row.completion, twin.completion) >= 0.9


def _odd(rows: Mapping[int, Row], judges: Sequence[page.Judge]) -> Iterator[page.Odd]:
    for judge in judges:
        for line in judge.rationales.contradictions if judge.rationales else ():
            if line.row in rows:
                row = rows[line.row]
                yield page.Odd(
                    row=row.id,
                    text=whole_text(row.record),
                    judge=judge.name,
                    criterion=line.criterion,
                    score=line.score,
                    rationale=line.rationale,
                )


def _scored_rows(workspace: Workspace) -> list[Row]:
    """Every record a judge scores by itself, a pair's answers among them."""
    rows = records.list_rows(workspace.db, "instruction") + records.list_rows(workspace.db, "instruction", role="candidate")
    return list({row.seq: row for row in rows}.values())


def _groups(found: Kept) -> dict[str, tuple[int, int, float]]:
    lines: dict[str, list[tuple[float, bool]]] = {}
    for group, total, keep in zip(found.groups, found.totals, found.kept, strict=True):
        lines.setdefault(group or "planned by no cell", []).append((total, keep))
    return {
        group: (len(given), sum(keep for _, keep in given), min(total for total, keep in given if keep))
        for group, given in sorted(lines.items())
    }
