"""Preference pairs from several scored answers to one prompt: a better and a worse one, a margin apart.

Pairs are chosen so that over the whole set the longer answer is the better one about as often as the worse one: DPO otherwise learns that
longer is better (Park et al. 2024, arXiv:2403.19159).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from curation.records import InstructionRecord, PairRecord, make_pair


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer to a prompt."""

    record: InstructionRecord
    total: float | None
    """Score by the judge, 0 to 10; None without a score."""

    @property
    def length(self) -> int:
        """Characters of the answer."""
        return len(self.record.completion.content)


@dataclass(frozen=True, slots=True)
class Pairing:
    """The pair made from a prompt's candidates, or the reason why there is none."""

    pair: PairRecord | None
    better: int | None
    """Canonical index of the better answer; None where nobody has decided."""
    reason: str = ""
    candidates: tuple[InstructionRecord, ...] = ()
    """The two answers, in canonical order."""
    gap: float = 0.0
    """Difference of their scores."""


def pair_candidates(prompts: Iterable[Sequence[Candidate]], *, margin: float, keeps: float = 0.0, by_people: bool = False) -> list[Pairing]:
    """Return one pair for each prompt, or the reason why it gives none.

    Prompts with the fewest possible pairs are decided first, so that the others can balance the set's length bias.

    Args:
        prompts: the candidates of each prompt.
        margin: least difference of the two scores (of 10 points).
        keeps: least score of the better answer.
        by_people: people will decide which answer is better; they are shown the two of the most similar length.
    """
    everything = [list(candidates) for candidates in prompts]
    # Prompts are visited from the least to the most choice; each choice moves the balance towards zero.
    options = [_list_options(c, margin=margin, keeps=keeps, by_people=by_people) for c in everything]
    chosen: dict[int, Pairing] = {}
    balance = 0  # pairs whose better answer is the longer one, minus the others
    for place in sorted(range(len(options)), key=lambda n: (len(options[n]), n)):
        if not options[place]:
            chosen[place] = Pairing(None, None, _explain_no_pair(everything[place], margin, keeps))
            continue
        high, low = min(options[place], key=lambda o: (abs(balance + _length_sign(*o)), -_gap(*o), _length_ratio(*o)))
        balance += 0 if by_people else _length_sign(high, low)
        pair, better = make_pair(high.record.prompt, high.record.completion.content, low.record.completion.content)
        both = (high.record, low.record) if better == 0 else (low.record, high.record)
        chosen[place] = Pairing(pair, None if by_people else better, "", both, 0.0 if by_people else _gap(high, low))
    return [chosen[place] for place in range(len(options))]


def _list_options(candidates: Sequence[Candidate], *, margin: float, keeps: float, by_people: bool) -> list[tuple[Candidate, Candidate]]:
    """Return (better, worse) of every possible pair, the widest gap first."""
    # Equal answers cannot form a pair; the last of equals stays, with its score.
    distinct = list({c.record.completion.content: c for c in candidates}.values())
    if by_people:
        return sorted(combinations(distinct, 2), key=lambda two: _length_ratio(*two))
    scored = sorted((c for c in distinct if c.total is not None), key=lambda c: -(c.total or 0.0))
    least_gap = max(margin, 1e-9)  # a margin of 0 still needs a difference
    return [(a, b) for a, b in combinations(scored, 2) if _gap(a, b) >= least_gap and (a.total or 0.0) >= keeps - 1e-9]


def _gap(high: Candidate, low: Candidate) -> float:
    return (high.total or 0.0) - (low.total or 0.0)


def _length_sign(high: Candidate, low: Candidate) -> int:
    """Return 1 when the better answer is longer by a tenth, -1 when the worse one is, else 0."""
    return (high.length > 1.1 * low.length) - (low.length > 1.1 * high.length)


def _length_ratio(high: Candidate, low: Candidate) -> float:
    return max(high.length, low.length) / max(1, min(high.length, low.length))


def _explain_no_pair(candidates: Sequence[Candidate], margin: float, keeps: float) -> str:
    totals = [c.total for c in candidates if c.total is not None]
    if len({c.record.completion.content for c in candidates}) < 2:
        return "fewer than two different answers"
    if len(totals) < 2:
        return "fewer than two of the answers were scored"
    if max(totals) < keeps:
        return f"the best answer has {max(totals):.1f} of 10, below the cut"
    return f"best and worst are {max(totals) - min(totals):.1f} points apart; the margin is {margin:g}"
