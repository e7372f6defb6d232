"""Whether a judge can be believed, from what it said itself: no person and no second model is needed.

Each check is simple and says what it is. None of them proves a judge right; each can show that it is wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curation.intervals import Estimate, Rate, mean, spearman
from curation.judge.rubric import DISAGREEMENT

ALL_ALIKE = 10
"""Rows from which scores that never change are an alarm."""
CEILING = 0.9
"""Share of the rows with one and the same total above which the scores tell next to nothing apart."""

_NOT = r"(?:\b(?:no|not|never|without|nothing|hardly|barely|free of|isn't|aren't|doesn't|don't|is not|does not)\s+(?:\w+\s+){0,2}?)"
_BAD = (
    r"(?:wrong|incorrect\w*|inaccura\w+|false\w*|mistak\w+|errors?|erroneous\w*|misleading|missing|lacks?|lacking|fails?|failed|irrelevant"
    r"|off[- ](?:topic|brief|subject)|unclear|confus\w+|invent\w+|hallucinat\w+|contradict\w*|poor\w*|vague\w*|incomplete\w*|breaks?"
    r"|useless|careless|awkward\w*|differs?)"
)
_GOOD = (
    r"(?:correct\w*|accurate\w*|right\w*|true|clear\w*|complete\w*|fits?|fitting|match(?:es)?|good|excellent\w*|useful\w*|helpful\w*"
    r"|precise\w*|natural\w*|concise\w*|sound|well|easy|gains?)"
)
_CUE = re.compile(rf"(?P<not>{_NOT})?\b(?:(?P<bad>{_BAD})|(?P<good>{_GOOD}))\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A rationale that says one thing beside a score that says another."""

    row: int
    criterion: str
    score: int
    rationale: str


@dataclass(frozen=True, slots=True)
class RationaleCheck:
    """Whether scores follow from what was written before them."""

    read: int
    """Rationales in which a cue was found."""
    given: int
    follows: Estimate | None
    """Rank correlation of cue and score over the set. Where it is not clearly above 0, single contradictions mean nothing."""
    contradictions: tuple[Contradiction, ...] = ()


@dataclass(frozen=True, slots=True)
class OrderBias:
    """What the order of a pair does to the judge."""

    pairs: int
    flipped: Rate
    """Pairs whose winner changed with the order, a tie in one of them included."""
    first: Estimate | None
    """Share of choices that fell on the answer shown first: 0.5 where the order does nothing; resampled by pair."""


def polarity(rationale: str) -> int | None:
    """1 where a rationale only praises, -1 where it only finds fault, 0 where it does both, None where no cue is found.

    A list of English words with negation before them, nothing more: it reads "no error" and "not correct", and misses irony,
    other languages, and whatever is said in other words.
    """
    signs = {(-1 if cue["bad"] else 1) * (-1 if cue["not"] else 1) for cue in _CUE.finditer(rationale)}
    return None if not signs else signs.pop() if len(signs) == 1 else 0


def check_rationales(given: Iterable[tuple[int, str, int, str]], *, seed: int = 0) -> RationaleCheck:
    """Hold rationales against their scores.

    A 4 or 5 after nothing but fault, or a 1 or 2 after nothing but praise, is a contradiction. It is told only where cue and
    score go together over the whole set: if they do not, either the words are not read right here or the judge's reasons are no
    reasons, and then one row says nothing.

    Args:
        given: (row, criterion, score, rationale).
    """
    entries = [entry for entry in given if entry[3].strip()]
    signs = [polarity(rationale) for *_, rationale in entries]
    known = [(entry, sign) for entry, sign in zip(entries, signs, strict=True) if sign is not None]
    follows = spearman([sign for _, sign in known], [entry[2] for entry, _ in known], seed=seed)
    if follows is None or follows.low <= 0:
        return RationaleCheck(len(known), len(entries), follows)
    wrong = [entry for entry, sign in known if (sign < 0 and entry[2] >= 4) or (sign > 0 and entry[2] <= 2)]
    return RationaleCheck(len(known), len(entries), follows, tuple(Contradiction(*entry) for entry in wrong))


def length_sensitivity(columns: Mapping[str, Sequence[float]], lengths: Sequence[int], *, seed: int = 0) -> dict[str, Estimate]:
    """Rank correlation of each column (total, criteria) with the answer's length; columns that never change are left out.

    Not a bias by itself: longer answers may be better ones. Beside what people say it becomes one.
    """
    found = {name: spearman(values, [float(n) for n in lengths], seed=seed) for name, values in columns.items()}
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def find_constant(columns: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Columns that tell nothing apart: each with the share of its commonest value."""
    shares = {name: Counter(values).most_common(1)[0][1] / len(values) for name, values in columns.items() if len(values) >= ALL_ALIKE}
    return {name: share for name, share in shares.items() if share >= CEILING}


def find_apart(twins: Iterable[tuple[int, int]], totals: Mapping[int, float]) -> list[tuple[int, int, float]]:
    """(row, twin, points) of rows that say the same and were scored more than a step apart, the widest first."""
    pairs = {(min(pair), max(pair)) for pair in twins if pair[0] in totals and pair[1] in totals and pair[0] != pair[1]}
    apart = [(a, b, abs(totals[a] - totals[b])) for a, b in pairs]
    return sorted((line for line in apart if line[2] > DISAGREEMENT), key=lambda line: (-line[2], line))


def order_bias(choices: Iterable[Mapping[str, int | None]], *, seed: int = 0) -> OrderBias:
    """How often the order decides, from pairs judged in both orders. Choices as canonical indexes by order shown."""
    both = [given for given in choices if given.keys() == {"ab", "ba"}]
    # Answer 0 stands first in "ab", answer 1 in "ba".
    firsts = [[winner == (order == "ba") for order, winner in given.items() if winner is not None] for given in both]
    shares = [sum(first) / len(first) for first in firsts if first]
    return OrderBias(len(both), Rate(sum(len(set(given.values())) > 1 for given in both), len(both)), mean(shares, seed=seed))


def own_agreement(choices: Iterable[tuple[int, int]], totals: Mapping[int, float]) -> Rate:
    """Of pairs the judge settled, how often the answer it prefers also got the higher total from it; equal totals are left out.

    Args:
        choices: (seq of the preferred candidate, seq of the other).
    """
    told = [totals[won] > totals[lost] for won, lost in choices if won in totals and lost in totals and totals[won] != totals[lost]]
    return Rate(sum(told), len(told))


def same_again(first: Mapping[int, Mapping[str, int]], second: Mapping[int, Mapping[str, int]]) -> Rate:
    """Of the scores given twice for the same criterion of the same row, those that are equal."""
    twice = [first[seq][c] == value for seq, given in second.items() if seq in first for c, value in given.items() if c in first[seq]]
    return Rate(sum(twice), len(twice))


def judge_findings(total: float, overall: int | None, totals: Sequence[float]) -> list[tuple[str, float, str]]:
    """What is odd about the scores of one row, as (kind, points, evidence).

    Args:
        total: the judge's own, 0 to 10.
        overall: its overall impression, 1 to 5.
        totals: of all judges.
    """
    found = list[tuple[str, float, str]]()
    if overall is not None and (apart := abs((overall - 1) / 4 * 10 - total)) > DISAGREEMENT:
        found.append(("overall_disagrees", apart, f"overall {overall} of 5, criteria {total:.1f} of 10"))
    if len(totals) > 1 and (wide := max(totals) - min(totals)) > DISAGREEMENT:
        found.append(("judges_apart", wide, "totals " + ", ".join(f"{t:.1f}" for t in totals)))
    return found


def as_values(estimate: Estimate | None) -> dict[str, Any] | None:
    """For the store."""
    if estimate is None:
        return None
    return {"value": round(estimate.value, 4), "low": round(estimate.low, 4), "high": round(estimate.high, 4), "n": estimate.n}
