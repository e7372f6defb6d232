"""From facts to verdicts. Nothing here measures; thresholds are read here and nowhere else, so that moving a cut
recomputes verdicts and nothing more.

Machines propose (`to_review` or `dropped`), people decide (`approved`, `rejected`, `disputed`). An override to
drop outranks both; one to keep outranks the machines only, so that two rejections still win. Where two people changed one
text in two ways, an override to keep chooses among the text and its changes, and settles the dispute. A changed row whose maker
changed the text again makes room for the newer one, unless others approved it: then that is a dispute too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from curation.score.panel import settle_panel

Verdict = Literal["unscored", "dropped", "to_review", "in_review", "approved", "rejected", "disputed", "edited"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why: the stage, what was seen, and the evidence in words."""

    stage: str
    kind: str
    evidence: str = ""
    twin: int | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one person said of one row, in canonical terms."""

    user: str
    says: Literal["approve", "reject", "edit", "first", "second", "neither", "tie"]
    edited: str | None = None
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """A row that people changed in two ways, and the changed rows: one of them may go on, and a data lead says which."""

    members: frozenset[int]
    kept: int | None = None
    """The member that `curate keep` chose."""
    why: str = "two people changed the text differently"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a verdict on one row depends on."""

    seq: int
    kind: Literal["instruction", "preference"]
    total: float | None
    """0 to 10; for a pair the total of its better candidate."""
    better: int | None = None
    """For a pair: the canonical index its maker meant to be better."""
    choices: Mapping[str, int | None] = field(default_factory=dict)
    """For a pair: the judge's winner by order shown."""
    panel: Sequence[Mapping[str, int | None]] = ()
    """For a pair: the same of each further judge that was asked."""
    drops: Sequence[Reason] = ()
    """Findings that take the row out."""
    notes: Sequence[Reason] = ()
    """Findings that people should look at."""
    opinions: Sequence[Opinion] = ()
    override: tuple[str, str] | None = None
    """(keep or drop, reason)."""
    edited_by: Sequence[str] = ()
    """For a row that an edit made: everybody who made that edit and stands by it."""
    taken_back: Reason | None = None
    """For a row that an edit made and that nobody stands by any more: why."""
    needs_score: bool = True
    by_people: bool = False
    """For a pair of which nobody has said who is better: people will, and what the judge chose is told, not heeded."""
    family: Family | None = None
    """For a row in such a dispute, on either side of the change."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with its reasons."""

    seq: int
    verdict: Verdict
    better: int | None
    reasons: tuple[Reason, ...]


def keep_rule(totals: Iterable[float], *, threshold: float, top_percent: float | None) -> Callable[[float], bool]:
    """The rule that keeps: a threshold on the total, or the best N % of the totals given (ties are kept)."""
    if top_percent is None:
        return lambda total: total >= threshold
    ranked = sorted(totals, reverse=True)
    cut = ranked[max(0, round(len(ranked) * top_percent / 100) - 1)] if ranked else 0.0
    return lambda total: total >= cut


def decide(facts: Facts, *, keeps: Callable[[float], bool], overlap: int) -> Decision:
    """The verdict on one row."""
    if facts.override is not None and facts.override[0] == "drop":
        return _decision(facts, "dropped", Reason("override", "drop", facts.override[1]))
    family = facts.family
    if family is not None and family.kept not in (None, facts.seq):
        return _decision(facts, "dropped", Reason("override", "other_edit", "of two changes to one text another was kept", family.kept))
    if facts.taken_back is not None and not (facts.override and facts.override[0] == "keep"):
        return _decision(facts, "dropped", facts.taken_back)
    proposal = _propose(facts, keeps)
    if family is not None and family.kept is None and proposal.verdict != "dropped":
        twin = min(family.members - {facts.seq})
        return _decision(facts, "disputed", Reason("review", "two_edits", family.why, twin), *facts.notes)
    if proposal.verdict in ("dropped", "unscored") and not (facts.override and facts.override[0] == "keep"):
        return proposal
    return _hear(facts, overlap)


def edit_families(
    parents: Mapping[int, int],
    opinions: Mapping[int, Sequence[Opinion]],
    *,
    keeps: Mapping[int, int],
    contested: Collection[int] = (),
) -> dict[int, Family]:
    """For each row in a dispute of two edits, the whole of it.

    Args:
        parents: changed row to the row it was made from.
        opinions: by row.
        keeps: row to the number of the override that keeps it; the latest decides.
        contested: changed rows that their makers took back and others approved.
    """
    out: dict[int, Family] = {}
    children: dict[int, list[int]] = {}
    for child, parent in sorted(parents.items()):
        children.setdefault(parent, []).append(child)
    for parent in sorted(children):
        told = {"why": "its maker took the change back after others had approved it"} if set(children[parent]) & set(contested) else {}
        if told or len({o.edited for o in opinions.get(parent, ()) if o.says == "edit"}) > 1:
            members = frozenset({parent, *_descendants(parent, children)})
            kept = max(members & keeps.keys(), key=lambda seq: keeps[seq], default=None)
            out |= dict.fromkeys(sorted(members), Family(members, kept, **told))
    return out


def shown_first(record_id: str) -> int:
    """Which canonical completion of a pair is shown as A (0 or 1): derived from the id, so it is fixed and unrelated to
    who is better."""
    return hashlib.sha256(b"shown:" + bytes.fromhex(record_id)).digest()[0] & 1


def reasons_as_values(reasons: Sequence[Reason]) -> list[dict[str, Any]]:
    """For the store."""
    names = [one.name for one in fields(Reason)]
    return [{name: value for name in names if (value := getattr(reason, name)) not in (None, "")} for reason in reasons]


def _descendants(parent: int, children: Mapping[int, Sequence[int]]) -> Iterator[int]:
    for child in children.get(parent, ()):
        yield child
        yield from _descendants(child, children)


def _propose(facts: Facts, keeps: Callable[[float], bool]) -> Decision:
    # Rivals of one dispute are alike by nature; which of them goes on is not for dedup to say.
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


def _hear(facts: Facts, overlap: int) -> Decision:
    opinions, is_kept = list(facts.opinions), facts.override is not None and facts.override[0] == "keep"
    refused = sum(_canonical(o) == "reject" for o in opinions) >= overlap
    if facts.family is not None and facts.family.kept == facts.seq:
        if not refused:
            return _decision(facts, "approved", Reason("override", "keep", facts.override[1] if facts.override else ""), *facts.notes)
        opinions = [o for o in opinions if o.says != "edit"]
    answered = {o.user for o in opinions}
    opinions += [Opinion(user, "approve") for user in facts.edited_by if user not in answered]
    edits = {o.edited for o in opinions if o.says == "edit"}
    if len(edits) > 1:
        return _decision(facts, "disputed", Reason("review", "two_edits", "two people changed the text differently"))
    if edits:
        return _decision(facts, "edited", Reason("review", "edit", "a person changed the text; the changed row goes on"))
    said = {_canonical(o) for o in opinions}
    if len(opinions) < overlap:
        return _decision(facts, "in_review" if opinions else "to_review", *facts.notes)
    if len(said) > 1:
        if is_kept and not refused and _as_meant(facts) in said:
            return _decision(facts, "approved", Reason("override", "keep", facts.override[1] if facts.override else ""), *facts.notes)
        evidence = ", ".join(f"{o.user}: {o.says}" for o in opinions)
        return _decision(facts, "disputed", Reason("review", "disagreement", evidence))
    verdict = said.pop()
    if verdict in ("reject", "tie"):
        return _decision(facts, "rejected", Reason("review", verdict, ", ".join(o.user for o in opinions)))
    better = {"first": 0, "second": 1}.get(verdict, facts.better)
    return Decision(facts.seq, "approved", better, (Reason("review", "approved", ", ".join(o.user for o in opinions)), *facts.notes))


def _as_meant(facts: Facts) -> str:
    """What a person says who agrees with the row as it is."""
    return "approve" if facts.kind == "instruction" else {0: "first", 1: "second"}.get(facts.better if facts.better is not None else -1, "")


def _canonical(opinion: Opinion) -> str:
    return "reject" if opinion.says == "neither" else opinion.says


def _decision(facts: Facts, verdict: Verdict, *reasons: Reason) -> Decision:
    return Decision(facts.seq, verdict, facts.better, tuple(reasons))
