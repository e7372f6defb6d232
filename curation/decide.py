"""Compute verdicts from facts. Nothing is measured here, and thresholds are read only here, so moving one recomputes verdicts only.

Gates propose (`to_review` or `dropped`), annotators decide (`approved`, `rejected`, `disputed`). An override to drop outranks both.
An override to keep outranks the gates; with a choice (`curate keep --as`) it outranks the annotators too and settles any dispute.

An edit creates a new row. The row and its edited versions are in dispute (a `Family`) when two annotators edited the text differently,
when one annotator edited it and another rejected it, or when an annotator withdrew an edit that others had approved. No member goes
on before a data lead chooses one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from curation.records import Kind

Verdict = Literal["unscored", "dropped", "held", "to_review", "in_review", "approved", "rejected", "disputed", "edited"]
ACTIVE_VERDICTS: tuple[Verdict, ...] = ("approved", "in_review", "to_review", "held")
"""Verdicts of rows that may still leave in a snapshot; of a class over its cap the first in this order stay."""


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason of a verdict: the stage, the kind of finding, and the evidence in words."""

    stage: str
    kind: str
    evidence: str = ""
    twin: int | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """One person's annotation of one row, in canonical terms."""

    user: str
    says: Literal["approve", "reject", "edit", "first", "second", "neither", "tie"]
    edited: str | None = None
    simulated: bool = False


class Override(NamedTuple):
    """A data lead's decision on one row."""

    action: Literal["keep", "drop"]
    reason: str
    choice: str | None = None
    """For keep: "first", "second", "approve", "reject" or "edit:USER"; None leaves the verdict to the annotators."""

    @property
    def evidence(self) -> str:
        """The reason, with the choice in front."""
        return f"as {self.choice}: {self.reason}" if self.choice else self.reason


class Keep(NamedTuple):
    """An override to keep, as seen by a family."""

    number: int
    """Of two overrides the one with the higher number counts."""
    override: Override
    chosen: int
    """The row whose text is kept: the row itself, or its edited version."""


TWO_EDITS = "two annotators edited the text differently"
EDIT_AND_REJECT = "one annotator edited the text, another rejected the row"
WITHDRAWN = "the annotator withdrew the edit after others had approved it"


@dataclass(frozen=True, slots=True)
class Family:
    """A row and its edited versions while they are in dispute. One of them may be kept; a data lead chooses which."""

    members: frozenset[int]
    kept: int | None = None
    """The member that `curate keep` chose."""
    override: Override | None = None
    """The override that chose it."""
    why: str = TWO_EDITS
    kind: Literal["two_edits", "edit_and_reject"] = "two_edits"


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the verdict on one row depends on."""

    seq: int
    kind: Literal["instruction", "preference"]
    total: float | None
    """0 to 10; for a pair the total of its better candidate."""
    better: int | None = None
    """For a pair: canonical index of the response meant to be better."""
    choices: Mapping[str, int | None] = field(default_factory=dict)
    """For a pair: the judge's winner by order shown."""
    panel: Sequence[Mapping[str, int | None]] = ()
    """For a pair: the choices of each further judge."""
    drops: Sequence[Reason] = ()
    """Findings that drop the row."""
    notes: Sequence[Reason] = ()
    """Findings for annotators to review."""
    annotations: Sequence[Annotation] = ()
    override: Override | None = None
    edited_by: Sequence[str] = ()
    """For an edited row: the annotators who made this edit and support it."""
    taken_back: Reason | None = None
    """For an edited row that nobody supports any more: the reason."""
    needs_score: bool = True
    by_people: bool = False
    """For a pair without a known preference: annotators decide it, and the judges' choices have no effect."""
    family: Family | None = None
    """For a row in a dispute over an edit: its family."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with its reasons."""

    seq: int
    verdict: Verdict
    better: int | None
    reasons: tuple[Reason, ...]


def keep_rule(totals: Iterable[float], *, threshold: float, top_percent: float | None) -> Callable[[float], bool]:
    """Return the keep rule: a threshold on the total, or the best N percent of the given totals (ties are kept).

    Args:
        totals: of the group (0 to 10).
        threshold: lowest total that is kept; not used with `top_percent`.
        top_percent: percentage of the totals to keep, or None.
    """
    if top_percent is None:
        return lambda total: total >= threshold
    ranked = sorted(totals, reverse=True)
    cut = ranked[max(0, round(len(ranked) * top_percent / 100) - 1)] if ranked else 0.0
    return lambda total: total >= cut


def passes(facts: Facts, keeps: Callable[[float], bool]) -> bool:
    """Return whether a row passes the gates, whatever annotators said."""
    return _propose(facts, keeps).verdict == "to_review"


def is_only_below_cut(facts: Facts, keeps: Callable[[float], bool]) -> bool:
    """Return whether the score alone drops a row, whatever annotators and the data lead said."""
    return [reason.kind for reason in _propose(facts, keeps).reasons] == ["below_cut"]


def decide(facts: Facts, *, keeps: Callable[[float], bool], overlap: int, unseen: tuple[Verdict, Reason] | None = None) -> Decision:
    """Return the verdict on one row.

    Args:
        facts: all that the verdict depends on.
        keeps: the keep rule of the row's group, applied to its total (0 to 10).
        overlap: how many annotators must answer a row.
        unseen: for a row that people are not asked about, its verdict and why. What people object to counts all the same.
    """
    override, family = facts.override, facts.family
    if override is not None and override.action == "drop":
        return _decision(facts, "dropped", Reason("override", "drop", override.reason))
    if family is not None and family.kept not in (None, facts.seq):
        return _decision(facts, "dropped", Reason("override", "other_edit", "another version of this text was kept", family.kept))
    if family is not None and family.kept == facts.seq:
        override = family.override
    elif override is not None and (override.choice or "").startswith("edit:"):  # of an edit that is a row of its own already
        return _decision(facts, "edited", Reason("override", "keep", override.evidence))
    if override is not None and override.choice is not None:
        return _as_chosen(facts, override)
    is_kept = override is not None
    if facts.taken_back is not None and not is_kept:
        return _decision(facts, "dropped", facts.taken_back)
    proposal = _propose(facts, keeps)
    if family is not None and family.kept is None and proposal.verdict != "dropped":
        twin = min(family.members - {facts.seq}, default=None)
        return _decision(facts, "disputed", Reason("review", family.kind, family.why, twin), *facts.notes)
    if proposal.verdict in ("dropped", "unscored") and not is_kept:
        return proposal
    if unseen is None or len(facts.annotations) + len(facts.edited_by) >= overlap:
        return apply_annotations(facts, overlap)
    by_people = apply_annotations(facts, 1)
    return by_people if by_people.verdict in ("rejected", "disputed", "edited") else _decision(facts, *unseen, *facts.notes)


def edit_families(
    parents: Mapping[int, int],
    annotations: Mapping[int, Sequence[Annotation]],
    *,
    keeps: Mapping[int, Keep],
    contested: Collection[int] = (),
) -> dict[int, Family]:
    """Return the family of each row that is in a dispute over an edit, or whose dispute a data lead has settled.

    Args:
        parents: edited row to the row it was made from.
        annotations: by row.
        keeps: row to the override that keeps it; in a family the latest one counts.
        contested: edited rows that were withdrawn by their annotator after others had approved them.
    """
    out: dict[int, Family] = {}
    children: dict[int, list[int]] = {}
    for child, parent in sorted(parents.items()):
        children.setdefault(parent, []).append(child)
    for parent in sorted(children):
        said = annotations.get(parent, ())
        is_rejected = {"edit", "reject"} <= {o.says for o in said}
        chosen = parent in keeps and keeps[parent].override.choice is not None
        withdrawn = bool(set(children[parent]) & set(contested))
        if withdrawn or is_rejected or chosen or len({o.edited for o in said if o.says == "edit"}) > 1:
            members = frozenset({parent, *_descendants(parent, children)})
            # Without a choice it is not clear whether the row, its edit or the rejection is meant.
            counted = [keeps[seq] for seq in members & keeps.keys() if not (seq == parent and is_rejected and not chosen)]
            latest = max((keep for keep in counted if keep.chosen in members), key=lambda keep: keep.number, default=None)
            kept, by = (latest.chosen, latest.override) if latest else (None, None)
            why = WITHDRAWN if withdrawn else EDIT_AND_REJECT if is_rejected else TWO_EDITS
            family = Family(members, kept, by, why, "edit_and_reject" if is_rejected and not withdrawn else "two_edits")
            out |= dict.fromkeys(sorted(members), family)
    return out


def choices_of(kind: Kind, annotations: Iterable[Annotation]) -> list[str]:
    """Return what `curate keep --as` takes for a row of this kind with these annotations."""
    if kind == "preference":
        return ["first", "second", "reject"]
    return ["approve", "reject", *sorted({f"edit:{o.user}" for o in annotations if o.says == "edit" and o.edited is not None})]


def needs_choice(kind: Kind, verdict: str | None, annotations: Sequence[Annotation], overlap: int) -> bool:
    """Return whether a keep without a choice would leave the row's dispute open, or be ambiguous.

    Args:
        kind: of the row.
        verdict: as it is now.
        annotations: of the annotators on this row.
        overlap: how many annotators must answer a row.
    """
    if verdict != "disputed" or not annotations:
        return False
    said = [_canonical(o) for o in annotations]
    return kind == "preference" or {"edit", "reject"} <= set(said) or said.count("reject") >= overlap


def settle_panel(choices: Sequence[Mapping[str, int | None]]) -> int | None:
    """Return the answer (0 or 1) that more than half of the judges prefer in both orders, or None.

    A judge that ties, or whose choice changes with the order, votes for neither.

    Args:
        choices: for each judge, the winner by order shown.
    """
    # A judge votes only where its choice is the same in both orders.
    votes = [winners.pop() if len(winners := set(by_order.values())) == 1 else None for by_order in choices if len(by_order) == 2]
    return next((side for side in (0, 1) if votes.count(side) * 2 > len(votes)), None)


def shown_first(record_id: str) -> int:
    """Return which canonical completion of a pair is shown as A (0 or 1).

    It is derived from the id, so it is fixed and unrelated to the preference.
    """
    return hashlib.sha256(b"shown:" + bytes.fromhex(record_id)).digest()[0] & 1


def reasons_as_values(reasons: Sequence[Reason]) -> list[dict[str, Any]]:
    """Return reasons as plain values for the store, without empty fields."""
    names = [one.name for one in fields(Reason)]
    return [{name: value for name in names if (value := getattr(reason, name)) not in (None, "")} for reason in reasons]


def _descendants(parent: int, children: Mapping[int, Sequence[int]]) -> Iterator[int]:
    for child in children.get(parent, ()):
        yield child
        yield from _descendants(child, children)


def _propose(facts: Facts, keeps: Callable[[float], bool]) -> Decision:
    # Members of one dispute are similar by nature, so dedup does not choose between them.
    rivals = facts.family.members if facts.family else ()
    reasons = [reason for reason in facts.drops if not (reason.stage == "dedup" and reason.twin in rivals)]
    if facts.total is not None and not keeps(facts.total):
        reasons.insert(0, Reason("score", "below_cut", f"total {facts.total:.2f} of 10", score=facts.total))
    if facts.kind == "preference" and not facts.by_people:
        reasons += _judge_against_pair(facts)
    if reasons:
        return Decision(facts.seq, "dropped", facts.better, tuple(reasons))
    waits = facts.needs_score and (facts.total is None or (facts.kind == "preference" and len(facts.choices) < 2))
    return _decision(facts, "unscored" if waits else "to_review", *facts.notes)


def _judge_against_pair(facts: Facts) -> list[Reason]:
    judges = [given for given in (facts.choices, *facts.panel) if len(given) == 2]
    if not judges:
        return []
    winner = settle_panel(judges)
    if winner is None:
        shown = "; ".join(_choices_in_words(given) for given in judges)
        if len(judges) == 1:
            return [Reason("score", "flips", f"the judge's choice depends on the order shown: {shown}")]
        return [Reason("score", "flips", f"no answer is preferred in both orders by more than half of {len(judges)} judges: {shown}")]
    if facts.better is not None and winner != facts.better:
        by = "the judge prefers" if len(judges) == 1 else "most judges prefer"
        return [Reason("score", "judge_prefers_other", f"in both orders {by} the answer that was written as the worse one")]
    return []


def _choices_in_words(given: Mapping[str, int | None]) -> str:
    names = {0: "the first", 1: "the second", None: "neither"}
    return f"the first shown first, it took {names[given.get('ab')]}; the second shown first, {names[given.get('ba')]}"


def _as_chosen(facts: Facts, override: Override) -> Decision:
    """Return what the data lead chose, whatever gates and annotators say."""
    reason = Reason("override", "keep", override.evidence)
    if override.choice == "reject":
        return _decision(facts, "rejected", reason)
    better = {"first": 0, "second": 1}.get(override.choice or "", facts.better)
    return Decision(facts.seq, "approved", better, (reason, *facts.notes))


def apply_annotations(facts: Facts, overlap: int) -> Decision:
    """Return the verdict that the annotations of a row give, once `overlap` annotators have answered it."""
    annotations, is_kept = list(facts.annotations), facts.override is not None and facts.override.action == "keep"
    kept = Reason("override", "keep", facts.override.evidence if facts.override else "")
    refused = sum(_canonical(o) == "reject" for o in annotations) >= overlap
    if facts.family is not None and facts.family.kept == facts.seq:
        if not refused:
            return _decision(facts, "approved", kept, *facts.notes)
        annotations = [o for o in annotations if o.says != "edit"]
    answered = {o.user for o in annotations}
    # Whoever corrected a pair's better response prefers it.
    annotations += [Annotation(user, _as_meant(facts) or "approve") for user in facts.edited_by if user not in answered]
    edits = {o.edited for o in annotations if o.says == "edit"}
    said = {_canonical(o) for o in annotations}
    if len(edits) > 1:
        return _decision(facts, "disputed", Reason("review", "two_edits", TWO_EDITS))
    if edits and "reject" in said:
        evidence = ", ".join(f"{o.user}: {o.says}" for o in annotations)
        return _decision(facts, "disputed", Reason("review", "edit_and_reject", evidence))
    if edits:
        return _decision(facts, "edited", Reason("review", "edit", "an annotator edited the text; the edited row takes its place"))
    if len(annotations) < overlap:
        return _decision(facts, "in_review" if annotations else "to_review", *facts.notes)
    if len(said) > 1:
        if is_kept and not refused and _as_meant(facts) in said:
            return _decision(facts, "approved", kept, *facts.notes)
        evidence = ", ".join(f"{o.user}: {o.says}" for o in annotations)
        return _decision(facts, "disputed", Reason("review", "disagreement", evidence))
    verdict = said.pop()
    if verdict in ("reject", "tie"):
        return _decision(facts, "rejected", Reason("review", verdict, ", ".join(o.user for o in annotations)))
    better = {"first": 0, "second": 1}.get(verdict, facts.better)
    return Decision(facts.seq, "approved", better, (Reason("review", "approved", ", ".join(o.user for o in annotations)), *facts.notes))


def _as_meant(facts: Facts) -> Literal["approve", "first", "second"] | None:
    """Return the annotation that agrees with the row as it is; None for a pair without a better response."""
    if facts.kind == "instruction":
        return "approve"
    return None if facts.better is None else "first" if facts.better == 0 else "second"


def _canonical(annotation: Annotation) -> str:
    return "reject" if annotation.says == "neither" else annotation.says


def _decision(facts: Facts, verdict: Verdict, *reasons: Reason) -> Decision:
    return Decision(facts.seq, verdict, facts.better, tuple(reasons))
