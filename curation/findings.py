"""The gates and the kinds of findings and reasons they produce, with the words people see: the only such table.

To add a gate, add an entry to `GATES` (or kinds to an existing entry) and produce findings of these kinds in the gate's stage. The
decision, the funnel, the report, `status` and the refill read this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class FindingKind(StrEnum):
    """Kinds of findings and of a verdict's reasons; their values are stored. A check adds `check_NAME_FAILURE`."""

    BELOW_CUT = "below_cut"
    FLIPS = "flips"
    JUDGE_PREFERS_OTHER = "judge_prefers_other"
    OVERALL_DISAGREES = "overall_disagrees"
    JUDGES_APART = "judges_apart"
    EXACT = "exact"
    NEAR = "near"
    SEMANTIC = "semantic"
    EARLIER = "earlier"
    LEAK_EXACT = "leak_exact"
    LEAK_CONTAINED = "leak_contained"
    LEAK_SPAN = "leak_span"
    LEAK_EDITED = "leak_edited"
    LEAK_REWORDED = "leak_reworded"
    LEAK_JUDGED = "leak_judged"
    LEAK_UNSURE = "leak_unsure"
    LEAK_CLEARED = "leak_cleared"
    CONFLICT = "conflict"
    OVER_CAP = "over_cap"
    TOPIC = "topic"


K = FindingKind


@dataclass(frozen=True)
class Gate:
    """A stage that takes rows out or marks them."""

    stage: str
    kinds: Mapping[str, str]
    """Kind of finding to words for people."""
    stores_findings: bool = False
    """Whether the stage writes findings, which a decision reads; the others are computed by the decision itself."""
    in_run: bool = False
    """Whether `curate run` and `curate status` run the stage's command as a gate."""
    refills: bool = True
    """Whether the plan is asked again for the cell of a row that this gate dropped. A cap drops good rows, so none are."""
    checks: Mapping[str, str] = field(default_factory=dict)
    """For checks, whose kinds carry their name: failure to words."""


GATES = (
    Gate(
        "score",
        {
            K.BELOW_CUT: "below the cut",
            K.FLIPS: "judge's choice depends on the order",
            K.JUDGE_PREFERS_OTHER: "judge prefers the other response",
            K.OVERALL_DISAGREES: "overall score and criteria disagree",
            K.JUDGES_APART: "judges disagree",
        },
        in_run=True,
    ),
    Gate(
        "dedup",
        {
            K.EXACT: "exact duplicate",
            K.NEAR: "near-duplicate",
            K.SEMANTIC: "semantic duplicate",
            K.EARLIER: "duplicate of a released row",
        },
        stores_findings=True,
        in_run=True,
    ),
    Gate(
        "screen",
        {
            K.LEAK_EXACT: "equals protected text",
            K.LEAK_CONTAINED: "contains protected text",
            K.LEAK_SPAN: "shares a long span",
            K.LEAK_EDITED: "edited protected text",
            K.LEAK_REWORDED: "paraphrased protected text",
            K.LEAK_JUDGED: "leak, according to the leak judge",
            K.LEAK_UNSURE: "leak judge unsure",
            K.LEAK_CLEARED: "cleared by the leak judge",
            K.CONFLICT: "same text under two labels",
        },
        stores_findings=True,
        in_run=True,
        checks={
            "match": "forbidden text",
            "no_match": "required text missing",
            "not_json": "not JSON",
            "schema": "does not fit the schema",
            "timeout": "took too long",
            "unreadable": "key unreadable",
            "unexpected": "not the key that was asked for",
            "unknown_key": "unknown key",
            "not_required": "key not allowed",
            "mismatch": "differs from the table",
            "rejected": "rejected by the function",
            "exception": "raised an exception",
            "memory": "used too much memory",
            "crashed": "crashed",
        },
    ),
    Gate("balance", {K.OVER_CAP: "over its class's cap"}, refills=False),
)

FINDING_STAGES = tuple(gate.stage for gate in GATES if gate.stores_findings)
"""Stages whose findings a decision reads."""

RUN_GATES = tuple(gate.stage for gate in GATES if gate.in_run)
"""Gates that `curate run` runs, in order."""

NOT_REFILLED = frozenset(gate.stage for gate in GATES if not gate.refills)
"""Gates that drop rows without a fault, for which no others are requested."""

_LEAK, _CHECK = "leak_", "check_"
_OTHER_REASONS = {
    "held": "outside the review sample, which is still open",
    "drop": "force-dropped",
    "keep": "force-kept",
    "other_edit": "another edited version was kept",
    "edited_again": "edited again",
    "withdrawn": "edit withdrawn",
    "two_edits": "two different edits",
    "edit_and_reject": "edited and rejected",
    "disagreement": "annotators disagree",
    "reject": "rejected",
    "tie": "no preference",
    "edit": "edited",
    "outside_sample": "outside the review sample",
    "not_reviewed": "not reviewed",
    "no_preference": "no preference known",
    "released": "released by the review sample",
}
"""Reasons of verdicts that no gate gives, and verdicts whose name needs better words."""
_WORDS = {kind: words for gate in GATES for kind, words in gate.kinds.items()} | _OTHER_REASONS
_FAILURES = {failure: words for gate in GATES for failure, words in gate.checks.items()}


def is_leak(kind: str) -> bool:
    """Return whether a finding says that a row is too close to a protected item, or was checked for it."""
    return kind.startswith(_LEAK)


def is_check(kind: str) -> bool:
    """Return whether a finding comes from one of the project's checks."""
    return kind.startswith(_CHECK)


def check_kind(name: str, failure: str) -> str:
    """Return the kind of a finding of a check."""
    return f"{_CHECK}{name}_{failure}"


def words_of(kind: str) -> str:
    """Return a kind of finding, or of a verdict's reason, in words for people."""
    if not is_check(kind):
        return _WORDS.get(kind, kind.replace("_", " "))
    named = kind.removeprefix(_CHECK)
    failure = max((known for known in _FAILURES if named.endswith(f"_{known}")), key=len, default="")
    if not failure:
        return f"fails check {named.replace('_', ' ')}"
    return f"fails check {named.removesuffix(f'_{failure}')}: {_FAILURES[failure]}"
