"""Gather what the judges' own words, and people's, say about the judges. Read-only. Core: score/."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from curation import report as page
from curation import score as scoring
from curation.pipeline.asking import is_simulated
from curation.pipeline.bench import Bench
from curation.pipeline.judged import Judged, judged_by, totals_together
from curation.pipeline.keeping import Kept, better_candidate, keep_rules, kept_rows, people_say, rule_in_words, selections_of
from curation.records import KINDS, PairRecord, candidates_of, record_id, whole_text
from curation.score import crosscheck, people
from curation.score.measures import Rate
from curation.store import facts, records, runs
from curation.store.records import Row

SHOWN = 40
"""Rows of a sort that the page writes out; the numbers count all of them."""

Verdicts = Mapping[int, Mapping[str, Any]]


def score_sets(bench: Bench) -> tuple[page.ScoreSet, ...]:
    """The totals of each kind, the rule that keeps, and what it keeps beside chance and beside length."""
    settings, first = bench.project.score, judged_by(bench)[0]
    candidates, out = candidates_by_id(bench), []
    for kind in KINDS:
        found = kept_rows(bench, kind)
        if not found.rows:
            continue
        seqs = [row.seq if kind == "instruction" else better_candidate(row, candidates) for row in found.rows]
        known = [first.values[seq] for seq in seqs if seq in first.totals]
        out.append(
            page.ScoreSet(
                kind=kind,
                totals=found.totals,
                threshold=settings.threshold if settings.top_percent is None else None if settings.top_by else found.cut,
                rule=rule_in_words(bench),
                kept=sum(found.kept),
                criteria={c: tuple(float(values[c]) for values in known) for c in settings.rubric},
                selections=selections_of(bench, found),
                groups=_groups(found) if settings.top_by else {},
                rubric_digest=scoring.rubric_digest(bench.project),
            )
        )
    return tuple(out)


def judge_quality(bench: Bench, verdicts: Verdicts) -> page.JudgeQuality:
    """Every check on every judge, and what they say together."""
    rows, judged = _scored_rows(bench), judged_by(bench)
    judges = tuple(_judge(bench, judge, rows, verdicts) for judge in judged)
    first, together = judges[0], totals_together(judged)
    held = first.against.table if first.against else None
    run = runs.latest_run(bench.db, "score")
    return page.JudgeQuality(
        pairs=first.order.pairs if first.order else 0,
        flipped=first.order.flipped.hits if first.order else 0,
        compared=held.n if held else 0,
        agreed=held.agreed.hits if held else 0,
        contradictions=first.overall_apart,
        panel=json.loads(run["detail"] or "{}").get("panel", "") if run else "",
        judges=judges,
        judges_apart=sum(scoring.spread(given) > scoring.DISAGREEMENT for given in together.values()),
        apart=_twins_apart(bench, {row.seq: row for row in rows}, judged[0].totals),
        odd=tuple(_odd({row.seq: row for row in rows}, judges))[:SHOWN],
    )


def judge_notes(bench: Bench) -> dict[int, list[tuple[str, float, str]]]:
    """What is odd about each row's scores, for people to look at: (kind, points, evidence)."""
    judged = judged_by(bench)
    first, together = judged[0], totals_together(judged)
    found = {seq: crosscheck.judge_findings(total, first.values[seq].get("overall"), together[seq]) for seq, total in first.totals.items()}
    return {seq: lines for seq, lines in found.items() if lines}


def tell_judges(bench: Bench) -> list[str]:
    """What a data lead should know of the judges right after scoring, in sentences."""
    return [notice.text for notice in page.judge_notices(judge_quality(bench, {})) if notice.level != "note"]


def candidates_by_id(bench: Bench) -> dict[str, int]:
    """Seq of each pair's answers, which are records of their own, by id."""
    return {row.id: row.seq for row in records.list_rows(bench.db, "instruction", role="candidate")}


def _judge(bench: Bench, judge: Judged, rows: Sequence[Row], verdicts: Verdicts) -> page.Judge:
    scored = [row for row in rows if row.seq in judge.totals]
    columns: dict[str, list[float]] = {"total": [judge.totals[row.seq] for row in scored]}
    columns |= {c: [float(judge.values[row.seq][c]) for row in scored] for c in bench.project.score.rubric}
    said = facts.rationales(bench.db, scoring.rubric_digest(bench.project, judge.spec))
    again = crosscheck.same_again(judge.values, facts.scores_by_seq(bench.db, scoring.again_digest(bench.project, judge.spec)))
    findings = [crosscheck.judge_findings(total, judge.values[seq].get("overall"), ()) for seq, total in judge.totals.items()]
    return page.Judge(
        name=judge.name,
        scored=len(scored),
        simulated=is_simulated(judge.spec),
        constant=crosscheck.find_constant(columns),
        length=crosscheck.length_sensitivity(columns, [len(row.completion) for row in scored]),
        rationales=crosscheck.check_rationales(said) if said else None,
        order=crosscheck.order_bias(judge.choices.values()) if judge.choices else None,
        own_agreement=crosscheck.own_agreement(_preferred(bench, judge), judge.totals) if judge.choices else None,
        again=again if again.n else None,
        overall_apart=sum(map(bool, findings)),
        against=_against(bench, judge, verdicts),
        pairs_against=_pairs_against(bench, judge, verdicts),
    )


def _against(bench: Bench, judge: Judged, verdicts: Verdicts) -> people.Against | None:
    rows = records.list_rows(bench.db, "instruction")
    keeps = keep_rules(bench, rows, judge.totals)
    settled = {row.seq: people_say(verdicts.get(row.seq, {}).get("verdict")) for row in rows if row.seq in judge.totals}
    seen = [row for row in rows if settled.get(row.seq) is not None]
    if not seen:
        return None
    return people.hold_against(
        judge.name,
        [judge.totals[row.seq] for row in seen],
        [bool(settled[row.seq]) for row in seen],
        kept=[keeps[row.seq](judge.totals[row.seq]) for row in seen],
        criteria={c: [float(judge.values[row.seq][c]) for row in seen] for c in bench.project.score.rubric},
        lengths=[len(row.completion) for row in seen],
    )


def _pairs_against(bench: Bench, judge: Judged, verdicts: Verdicts) -> Rate | None:
    """Pairs that people approved, by whether the judge prefers the answer that they do."""
    people_chose = {seq: v["better"] for seq, v in verdicts.items() if v["verdict"] == "approved" and v["better"] is not None}
    both = [(scoring.settle_panel([judge.choices[seq]]), better) for seq, better in people_chose.items() if seq in judge.choices]
    settled = [(winner, better) for winner, better in both if winner is not None]
    return Rate(sum(winner == better for winner, better in settled), len(settled)) if settled else None


def _preferred(bench: Bench, judge: Judged) -> Iterator[tuple[int, int]]:
    """(preferred, other) as seqs of the candidates, for each pair that the judge settled."""
    candidates = candidates_by_id(bench)
    for row in records.list_rows(bench.db, "preference"):
        winner = scoring.settle_panel([judge.choices[row.seq]]) if row.seq in judge.choices else None
        if winner is not None and isinstance(pair := row.record, PairRecord):
            seqs = [candidates.get(record_id(candidate), 0) for candidate in candidates_of(pair)]
            yield seqs[winner], seqs[1 - winner]


def _twins_apart(bench: Bench, rows: Mapping[int, Row], totals: Mapping[int, float]) -> tuple[page.Apart, ...]:
    """Rows that dedup found to say the same, prompt and answer alike, scored more than a step apart."""
    twins = [(f.seq, f.twin) for f in facts.latest_findings(bench.db, ("dedup",)) if f.twin in rows and f.seq in rows]
    same = [(a, b) for a, b in twins if b is not None and _answers_alike(rows[a], rows[b])]
    return tuple(
        page.Apart(
            row=rows[a].id, twin=rows[b].id, text=whole_text(rows[a].record), twin_text=whole_text(rows[b].record),
            total=totals[a], twin_total=totals[b],
        )
        for a, b, _ in crosscheck.find_apart(same, totals)
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


def _scored_rows(bench: Bench) -> list[Row]:
    """Every record a judge scores by itself, a pair's answers among them."""
    rows = records.list_rows(bench.db, "instruction") + records.list_rows(bench.db, "instruction", role="candidate")
    return list({row.seq: row for row in rows}.values())


def _groups(found: Kept) -> dict[str, tuple[int, int, float]]:
    lines: dict[str, list[tuple[float, bool]]] = {}
    for group, total, keep in zip(found.groups, found.totals, found.kept, strict=True):
        lines.setdefault(group or "planned by no cell", []).append((total, keep))
    return {
        group: (len(given), sum(keep for _, keep in given), min(total for total, keep in given if keep))
        for group, given in sorted(lines.items())
    }
