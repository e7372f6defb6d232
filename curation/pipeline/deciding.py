"""From all that is known to a verdict on every row. Nothing is measured here. Core: decide.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation import decide as rules
from curation.alarms import gate_alarms
from curation.decide import Decision, Facts, Family, Keep, Opinion, Override, Reason
from curation.pipeline.balancing import leave_out_over_cap
from curation.pipeline.bench import Bench, Summary, open_bench
from curation.pipeline.edits import Standing, standings
from curation.pipeline.facts_of_judging import judge_notes
from curation.pipeline.facts_of_pairs import hygiene_values, pair_hygiene
from curation.pipeline.judged import Choices, choices_by_seq
from curation.pipeline.keeping import better_candidate, keep_rules, tell_kept, total_of_rows
from curation.pipeline.opinions import opinions_by_seq
from curation.pipeline.sampling import Sample, draw, release, settle, unseen_verdict
from curation.pipeline.staleness import decide_inputs, stale_values
from curation.project import settings_digest
from curation.records import KINDS, Kind
from curation.store import facts, hold_lock, records, reviews, runs
from curation.store.records import Row

__all__ = ["GATES", "better_candidate", "decide", "decide_all", "decide_rows", "rank_rows"]

GATES = ("dedup", "screen")
"""The stages whose findings a verdict reads."""
WAIT_S = 600.0
"""How long a decision waits for another one to end; one over a million rows takes minutes."""
TAKEN_BACK = ("edited_again", "withdrawn")


def decide(folder: Path) -> Summary:
    """Compute every row's verdict from the facts, the thresholds and the overrides. Nothing is measured. Core: decide.py."""
    # One after the other: of two that run at once the slower one, which has read older facts, would write last.
    with open_bench(folder) as bench, hold_lock(bench.db, "decide", wait_s=WAIT_S):
        project = bench.project
        with runs.record_run(bench.db, "decide", settings_digest(project.score, project.review, project.balance)) as run:
            decided = decide_all(bench)
            decisions = decided.decisions
            facts.replace_verdicts(
                bench.db, ((d.seq, d.verdict, d.better, rules.reasons_as_values(d.reasons)) for d in decisions), run.number
            )
            verdicts = Counter(d.verdict for d in decisions)
            counts: dict[str, Any] = {name: n for name, n in verdicts.items()}
            run.rows_in, run.rows_out = len(decisions), len(decisions) - verdicts["dropped"] - verdicts["rejected"]
            pairs = pair_hygiene(bench, facts.verdicts_by_seq(bench.db))
            labels = records.labels_by_seq(bench.db)
            below = [d.verdict == "dropped" and any(reason.stage == "score" for reason in d.reasons) for d in decisions]
            alarms = [str(alarm) for alarm in gate_alarms("score", [labels.get(d.seq) for d in decisions], below)]
            counts |= {"review_sample": {k: s.as_values() for k, s in decided.samples.items()}} if decided.samples else {}
            hygiene = {"pairs": hygiene_values(pairs)} if pairs else {}
            run.detail = {**counts, "inputs": decide_inputs(bench), "gate_alarms": alarms, **hygiene}
        reasons = Counter(f"{d.reasons[0].stage}: {d.reasons[0].kind}" for d in decisions if d.verdict == "dropped")
        _, notes = tell_kept(bench)
        counts |= {"dropped_for": dict(reasons.most_common()), "alarms": alarms}
        samples = [f"Review sample, {kind}: {sample.sentence}." for kind, sample in decided.samples.items()]
        stale, warnings = stale_values(bench, ("score", *GATES))
        return Summary("decide", run.rows_in, run.rows_out, {**counts, **stale}, [*alarms, *notes, *samples, *warnings])


@dataclass(frozen=True)
class Decided:
    """What was decided, and by which samples."""

    decisions: list[Decision]
    samples: Mapping[Kind, Sample]
    """Of each kind what people were shown for all of them; empty where they look at every row, or at none."""


def decide_rows(bench: Bench) -> list[Decision]:
    """Return a decision for every row that stands for itself, in order."""
    return decide_all(bench).decisions


def decide_all(bench: Bench) -> Decided:
    """Return a decision for every row that stands for itself, in order, and the review samples behind them."""
    decisions, samples = list[Decision](), dict[Kind, Sample]()
    rows_of = {kind: records.list_rows(bench.db, kind) for kind in KINDS}
    everyone = [row for rows in rows_of.values() for row in rows]
    known = _known(bench, everyone)
    families = _families(known, everyone)
    for kind, rows in rows_of.items():
        # The best part is of the rows of this kind: a pair's worse answers are meant to score low and would fill the rest.
        totals = total_of_rows(bench, kind, rows)
        keeps = keep_rules(bench, rows, totals)

        def facts_of(row: Row, totals: Mapping[int, float] = totals) -> Facts:
            return _facts_of(known, row, total=totals.get(row.seq), family=families.get(row.seq))

        sample = draw(bench, kind, rows, lambda row, keeps=keeps: rules.passes(facts_of(row), keeps[row.seq]))  # type: ignore[misc]
        for row in rows:
            unseen = unseen_verdict(bench, row, sample)
            decisions.append(rules.decide(facts_of(row), keeps=keeps[row.seq], overlap=bench.project.review.overlap, unseen=unseen))
        samples |= {kind: sample} if sample else {}
    decisions = leave_out_over_cap(bench, decisions)
    if not samples:
        return Decided(decisions, samples)
    by_seq = {decision.seq: decision for decision in decisions}
    settled = {kind: settle(sample, by_seq) for kind, sample in samples.items()}
    return Decided(release(decisions, {row.seq: row.kind for row in everyone}, settled), settled)


@dataclass(frozen=True)
class _Known:
    """Everything that is known, by seq."""

    choices: Mapping[int, tuple[Choices, ...]]
    drops: Mapping[int, Sequence[Reason]]
    notes: Mapping[int, Sequence[Reason]]
    opinions: Mapping[int, Sequence[Opinion]]
    overrides: Mapping[int, facts.StoredOverride]
    standings: Mapping[int, Standing]
    is_judged: bool
    """Whether a judge scores the rows."""


def _known(bench: Bench, rows: Sequence[Row]) -> _Known:
    drops, notes = _findings_by_seq(bench)
    for seq, odd in judge_notes(bench).items():
        notes.setdefault(seq, []).extend(Reason("score", kind, evidence, score=points) for kind, points, evidence in odd)
    by_seq, overrides = {row.seq: row for row in rows}, facts.overrides_by_seq(bench.db)
    opinions = opinions_by_seq(bench, by_seq)
    made = standings(bench, by_seq, opinions)
    return _Known(choices_by_seq(bench), drops, notes, opinions, overrides, made, not bench.project.score.is_off)


def _facts_of(known: _Known, row: Row, *, total: float | None, family: Family | None) -> Facts:
    override, choices = known.overrides.get(row.seq), known.choices.get(row.seq, ())
    standing = known.standings.get(row.seq, Standing())
    by_people = row.kind == "preference" and row.better is None
    return Facts(
        seq=row.seq,
        kind=row.kind,
        total=total,
        better=row.better,
        choices=choices[0] if choices else {},
        panel=choices[1:],
        drops=known.drops.get(row.seq, ()),
        notes=known.notes.get(row.seq, ()),
        opinions=known.opinions.get(row.seq, ()),
        override=_override(override) if override else None,
        edited_by=standing.by,
        taken_back=standing.taken_back,
        needs_score=known.is_judged and row.how != "edited" and not by_people,
        by_people=by_people,
        family=family,
    )


def _families(known: _Known, rows: Sequence[Row]) -> dict[int, Family]:
    parents = {row.seq: row.parent for row in rows if row.how == "edited" and row.parent is not None}
    keeps = {seq: Keep(o.number, _override(o), o.chosen or seq) for seq, o in known.overrides.items() if o.action == "keep"}
    contested = {seq for seq, standing in known.standings.items() if standing.contested}
    return rules.edit_families(parents, known.opinions, keeps=keeps, contested=contested)


def _override(stored: facts.StoredOverride) -> Override:
    return Override(stored.action, stored.reason, stored.choice)


def rank_rows(bench: Bench) -> dict[int, int]:
    """Who is kept among duplicates, 0 first: approved, then seen by people, then the best score, then the earliest. A row
    that a person rewrote is out: its changed child goes on in its place."""
    verdicts, pushed = facts.verdicts_by_seq(bench.db), reviews.pushed_seqs(bench.db)
    rows_of = {kind: records.list_rows(bench.db, kind) for kind in KINDS}
    totals = {seq: total for kind, rows in rows_of.items() for seq, total in total_of_rows(bench, kind, rows).items()}
    rows = [row.seq for rows in rows_of.values() for row in rows if not _is_given_up(verdicts.get(row.seq, {}))]

    def place(seq: int) -> tuple[bool, bool, float, int]:
        return verdicts.get(seq, {}).get("verdict") != "approved", seq not in pushed, -totals.get(seq, 0.0), seq

    return {seq: n for n, seq in enumerate(sorted(rows, key=place))}


def _findings_by_seq(bench: Bench) -> tuple[dict[int, list[Reason]], dict[int, list[Reason]]]:
    drops: dict[int, list[Reason]] = {}
    notes: dict[int, list[Reason]] = {}
    for f in facts.latest_findings(bench.db, GATES):
        (drops if f.drops else notes).setdefault(f.seq, []).append(Reason(f.stage, f.kind, f.evidence, f.twin, f.score))
    return drops, notes


def _is_given_up(verdict: Mapping[str, Any]) -> bool:
    """A row that went on as its changed child, or a change that was taken back: nothing may fall as its copy."""
    return verdict.get("verdict") == "edited" or any(
        reason["stage"] == "review" and reason["kind"] in TAKEN_BACK for reason in verdict.get("reasons", ())
    )
