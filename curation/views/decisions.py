"""A decision for every row, computed from stored facts and the rules in decide.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curation import decide as rules
from curation.decide import Annotation, Decision, Facts, Family, Keep, Override, Reason
from curation.records import KINDS, Kind
from curation.store import facts, records, reviews
from curation.store.records import Row
from curation.views.annotations import Standing, opinions_by_seq, standings
from curation.views.classes import leave_out_over_cap
from curation.views.judge_diagnostics import judge_notes
from curation.views.review_sample import Sample, draw, release, settle, unseen_verdict
from curation.views.runs import GATES
from curation.views.scores import Choices, choices_by_seq, keep_rules, total_of_rows
from curation.workspace import Workspace

TAKEN_BACK = ("edited_again", "withdrawn")


@dataclass(frozen=True)
class Decided:
    """What was decided, and by which samples."""

    decisions: list[Decision]
    samples: Mapping[Kind, Sample]
    """Of each kind what people were shown for all of them; empty where they look at every row, or at none."""


def decide_rows(workspace: Workspace) -> list[Decision]:
    """Return a decision for every row that stands for itself, in order."""
    return decide_all(workspace).decisions


def decide_all(workspace: Workspace) -> Decided:
    """Return a decision for every row that stands for itself, in order, and the review samples behind them."""
    decisions, samples = list[Decision](), dict[Kind, Sample]()
    rows_of = {kind: records.list_rows(workspace.db, kind) for kind in KINDS}
    everyone = [row for rows in rows_of.values() for row in rows]
    known = _known(workspace, everyone)
    families = _families(known, everyone)
    for kind, rows in rows_of.items():
        # The best part is of the rows of this kind: a pair's worse answers are meant to score low and would fill the rest.
        totals = total_of_rows(workspace, kind, rows)
        keeps = keep_rules(workspace, rows, totals)

        def facts_of(row: Row, totals: Mapping[int, float] = totals) -> Facts:
            return _facts_of(known, row, total=totals.get(row.seq), family=families.get(row.seq))

        sample = draw(workspace, kind, rows, lambda row, keeps=keeps: rules.passes(facts_of(row), keeps[row.seq]))  # type: ignore[misc]
        for row in rows:
            unseen = unseen_verdict(workspace, row, sample)
            decisions.append(rules.decide(facts_of(row), keeps=keeps[row.seq], overlap=workspace.project.review.overlap, unseen=unseen))
        samples |= {kind: sample} if sample else {}
    decisions = leave_out_over_cap(workspace, decisions)
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
    opinions: Mapping[int, Sequence[Annotation]]
    overrides: Mapping[int, facts.StoredOverride]
    standings: Mapping[int, Standing]
    is_judged: bool
    """Whether a judge scores the rows."""


def _known(workspace: Workspace, rows: Sequence[Row]) -> _Known:
    drops, notes = _findings_by_seq(workspace)
    for seq, odd in judge_notes(workspace).items():
        notes.setdefault(seq, []).extend(Reason("score", kind, evidence, score=points) for kind, points, evidence in odd)
    by_seq, overrides = {row.seq: row for row in rows}, facts.overrides_by_seq(workspace.db)
    opinions = opinions_by_seq(workspace, by_seq)
    made = standings(workspace, by_seq, opinions)
    return _Known(choices_by_seq(workspace), drops, notes, opinions, overrides, made, not workspace.project.score.is_off)


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


def rank_rows(workspace: Workspace) -> dict[int, int]:
    """Who is kept among duplicates, 0 first: approved, then seen by people, then the best score, then the earliest. A row
    that a person rewrote is out: its changed child goes on in its place."""
    verdicts, pushed = facts.verdicts_by_seq(workspace.db), reviews.pushed_seqs(workspace.db)
    rows_of = {kind: records.list_rows(workspace.db, kind) for kind in KINDS}
    totals = {seq: total for kind, rows in rows_of.items() for seq, total in total_of_rows(workspace, kind, rows).items()}
    rows = [row.seq for rows in rows_of.values() for row in rows if not _is_given_up(verdicts.get(row.seq, {}))]

    def place(seq: int) -> tuple[bool, bool, float, int]:
        return verdicts.get(seq, {}).get("verdict") != "approved", seq not in pushed, -totals.get(seq, 0.0), seq

    return {seq: n for n, seq in enumerate(sorted(rows, key=place))}


def _findings_by_seq(workspace: Workspace) -> tuple[dict[int, list[Reason]], dict[int, list[Reason]]]:
    drops: dict[int, list[Reason]] = {}
    notes: dict[int, list[Reason]] = {}
    for f in facts.latest_findings(workspace.db, GATES):
        (drops if f.drops else notes).setdefault(f.seq, []).append(Reason(f.stage, f.kind, f.evidence, f.twin, f.score))
    return drops, notes


def _is_given_up(verdict: Mapping[str, Any]) -> bool:
    """A row that went on as its changed child, or a change that was taken back: nothing may fall as its copy."""
    return verdict.get("verdict") == "edited" or any(
        reason["stage"] == "review" and reason["kind"] in TAKEN_BACK for reason in verdict.get("reasons", ())
    )
