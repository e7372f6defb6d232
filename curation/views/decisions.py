"""A verdict for every row, computed from the state of the project by the rules in `curation.decide`.

Rows about which nothing is known but their score are decided in groups: the rules read no id, so equal facts have one decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curation import decide as rules
from curation.decide import Decision, Facts, Family, Keep, Override, Reason, Verdict
from curation.findings import FINDING_STAGES
from curation.records import KINDS, Kind
from curation.store import facts
from curation.store.records import Row
from curation.views.annotations import EditStatus, edit_statuses
from curation.views.classes import leave_out_over_cap
from curation.views.judge_diagnostics import judge_notes
from curation.views.review_sample import Sample, draw, release, settle, unseen_verdict
from curation.views.scores import groups_of, rules_by_group, totals_of
from curation.views.state import ProjectState

TAKEN_BACK = ("edited_again", "withdrawn")
"""Kinds of reasons of an edited row that its annotator no longer supports."""


@dataclass(frozen=True)
class Decided:
    """The decisions on all rows, and the review samples they rest on."""

    decisions: list[Decision]
    """In order of kind and seq."""
    samples: Mapping[Kind, Sample]
    """For each kind of which annotators see a sample; empty where they see every row, or none."""


def decide_all(state: ProjectState) -> Decided:
    """Decide every row from stored facts. Nothing is measured and nothing is written."""
    decisions, samples = list[Decision](), dict[Kind, Sample]()
    known = _load_known(state)
    families = _families(state, known)
    for kind in KINDS:
        found, sample = _decide_kind(state, kind, known, families)
        decisions += found
        samples |= {kind: sample} if sample else {}
    decisions = leave_out_over_cap(state, decisions)
    if not samples:
        return Decided(decisions, samples)
    by_seq = {decision.seq: decision for decision in decisions}
    settled = {kind: settle(sample, by_seq) for kind, sample in samples.items()}
    return Decided(release(decisions, {row.seq: row.kind for row in state.row_by_seq.values()}, settled), settled)


@dataclass(frozen=True)
class _Known:
    """Facts that single rows have besides their score, by seq."""

    drops: Mapping[int, Sequence[Reason]]
    notes: Mapping[int, Sequence[Reason]]
    edits: Mapping[int, EditStatus]
    special: frozenset[int]
    """Rows that have any fact besides their score and their kind."""


def _load_known(state: ProjectState) -> _Known:
    drops: dict[int, list[Reason]] = {}
    notes: dict[int, list[Reason]] = {}
    for f in state.findings(*FINDING_STAGES):
        (drops if f.drops else notes).setdefault(f.seq, []).append(Reason(f.stage, f.kind, f.evidence, f.twin, f.score))
    for seq, odd in judge_notes(state).items():
        notes.setdefault(seq, []).extend(Reason("score", kind, evidence, score=points) for kind, points, evidence in odd)
    edits = edit_statuses(state)
    special = frozenset().union(drops, notes, edits, state.annotations, state.overrides, state.choices)
    return _Known(drops, notes, edits, special)


def _families(state: ProjectState, known: _Known) -> dict[int, Family]:
    parents = {row.seq: row.parent for row in state.row_by_seq.values() if row.how == "edited" and row.parent is not None}
    keeps = {seq: Keep(o.number, _override(o), o.chosen or seq) for seq, o in state.overrides.items() if o.action == "keep"}
    contested = {seq for seq, status in known.edits.items() if status.contested}
    return rules.edit_families(parents, state.annotations, keeps=keeps, contested=contested)


def _decide_kind(state: ProjectState, kind: Kind, known: _Known, families: Mapping[int, Family]) -> tuple[list[Decision], Sample | None]:
    # The best N percent are of the rows of this kind: a pair's worse responses are meant to score low and would fill the rest.
    totals, groups = totals_of(state, kind), groups_of(state, kind)
    keeps, overlap = rules_by_group(state, groups, totals), state.project.review.overlap
    alike: dict[tuple[object, ...], list[Row]] = {}
    for row in state.rows[kind]:
        seq = row.seq
        is_special = seq in known.special or seq in families
        key: tuple[object, ...] = (seq,) if is_special else (totals.get(seq), groups[seq], row.better, row.how == "edited")
        alike.setdefault(key, []).append(row)
    facts_of = {key: _facts_of(state, known, rows[0], totals.get(rows[0].seq), families) for key, rows in alike.items()}
    passing = {row.seq for key, rows in alike.items() if rules.passes(facts_of[key], keeps[groups[rows[0].seq]]) for row in rows}
    sample = draw(state, kind, passing)
    decisions = []
    for key, rows in alike.items():
        made: dict[tuple[Verdict, Reason] | None, Decision] = {}
        for row in rows:
            unseen = unseen_verdict(state.project.review.mode, row, sample)
            if unseen not in made:
                made[unseen] = rules.decide(facts_of[key], keeps=keeps[groups[row.seq]], overlap=overlap, unseen=unseen)
            found = made[unseen]
            decisions.append(Decision(row.seq, found.verdict, found.better, found.reasons))
    return sorted(decisions, key=lambda decision: decision.seq), sample


def _facts_of(state: ProjectState, known: _Known, row: Row, total: float | None, families: Mapping[int, Family]) -> Facts:
    override, choices = state.overrides.get(row.seq), state.choices.get(row.seq, ())
    edit = known.edits.get(row.seq, EditStatus())
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
        annotations=state.annotations.get(row.seq, ()),
        override=_override(override) if override else None,
        edited_by=edit.by,
        taken_back=edit.taken_back,
        needs_score=not state.project.score.is_off and row.how != "edited" and not by_people,
        by_people=by_people,
        family=families.get(row.seq),
    )


def _override(stored: facts.StoredOverride) -> Override:
    return Override(stored.action, stored.reason, stored.choice)


def rank_rows(state: ProjectState) -> dict[int, int]:
    """Return the rank of each row among duplicates, 0 first: approved, then shown to annotators, then best score, then oldest.

    A row whose edited version takes its place, and an edit that was taken back, have no rank: nothing may be dropped as their duplicate.
    """
    verdicts = state.verdicts
    totals = {seq: total for kind in KINDS for seq, total in totals_of(state, kind).items()}
    given_up = {seq for seq, verdict in verdicts.items() if verdict == "edited"}
    given_up |= facts.seqs_with_reason(state.db, "review", TAKEN_BACK)

    def place(seq: int) -> tuple[bool, bool, float, int]:
        return verdicts.get(seq) != "approved", seq not in state.pushed, -totals.get(seq, 0.0), seq

    return {seq: n for n, seq in enumerate(sorted(state.row_by_seq.keys() - given_up, key=place))}
