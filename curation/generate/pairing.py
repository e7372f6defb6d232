"""Preference pairs from several judged answers to one prompt: a better and a worse one, apart by a margin, not told apart by length."""

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
    """What the judge gave it, 0 to 10; None where it gave nothing."""

    @property
    def length(self) -> int:
        """Characters of the answer."""
        return len(self.record.completion.content)


@dataclass(frozen=True, slots=True)
class Pairing:
    """The pair made from a prompt's candidates, or why there is none."""

    pair: PairRecord | None
    better: int | None
    """Canonical index of the better answer; None where nobody has said."""
    reason: str = ""
    candidates: tuple[InstructionRecord, ...] = ()
    """The two answers, in canonical order."""
    gap: float = 0.0
    """Points between them."""


def pair_candidates(prompts: Iterable[Sequence[Candidate]], *, margin: float, keeps: float = 0.0, by_people: bool = False) -> list[Pairing]:
    """One pair for each prompt, or the reason why it gives none.

    Of the pairs that are apart by the margin the ones are taken whose longer answer is, over the whole set, as often the worse
    as the better one: a model must not learn that longer is better. Prompts with the fewest choices are settled first.

    Args:
        margin: points of 10 by which the better answer must be ahead.
        keeps: total that the better answer must reach.
        by_people: people will say which is better; the two that differ most in length-independent wording are shown to them.
    """
    everything = [list(candidates) for candidates in prompts]
    options = [_options(c, margin=margin, keeps=keeps, by_people=by_people) for c in everything]
    chosen: dict[int, Pairing] = {}
    lean = 0  # longer-is-better pairs ahead of the others
    for place in sorted(range(len(options)), key=lambda n: (len(options[n]), n)):
        if not options[place]:
            chosen[place] = Pairing(None, None, _why_none(everything[place], margin, keeps))
            continue
        best = min(options[place], key=lambda o: (abs(lean + _leaning(*o)), -_gap(*o), _stretch(*o)))
        lean += 0 if by_people else _leaning(*best)
        chosen[place] = _pairing(*best, by_people=by_people)
    return [chosen[place] for place in range(len(options))]


def _options(candidates: Sequence[Candidate], *, margin: float, keeps: float, by_people: bool) -> list[tuple[Candidate, Candidate]]:
    """(better, worse) of every pair that may be made, the widest gap first."""
    distinct = list({c.record.completion.content: c for c in candidates}.values())
    if by_people:
        return sorted(combinations(distinct, 2), key=lambda two: _stretch(*two))
    judged = sorted((c for c in distinct if c.total is not None), key=lambda c: -(c.total or 0.0))
    return [
        (high, low) for high, low in combinations(judged, 2) if _gap(high, low) >= max(margin, 1e-9) and (high.total or 0.0) >= keeps - 1e-9
    ]


def _gap(high: Candidate, low: Candidate) -> float:
    return (high.total or 0.0) - (low.total or 0.0)


def _leaning(high: Candidate, low: Candidate) -> int:
    """1 when the better answer is the longer one by a tenth, -1 when the worse one is, else 0."""
    return (high.length > 1.1 * low.length) - (low.length > 1.1 * high.length)


def _stretch(high: Candidate, low: Candidate) -> float:
    return max(high.length, low.length) / max(1, min(high.length, low.length))


def _pairing(high: Candidate, low: Candidate, *, by_people: bool) -> Pairing:
    record, better = make_pair(high.record.prompt, high.record.completion.content, low.record.completion.content)
    both = (high.record, low.record) if better == 0 else (low.record, high.record)
    return Pairing(record, None if by_people else better, "", both, 0.0 if by_people else _gap(high, low))


def _why_none(candidates: Sequence[Candidate], margin: float, keeps: float) -> str:
    totals = [c.total for c in candidates if c.total is not None]
    if len({c.record.completion.content for c in candidates}) < 2:
        return "fewer than two different answers"
    if len(totals) < 2:
        return "fewer than two of the answers were judged"
    if max(totals) < keeps:
        return f"the best answer has {max(totals):.1f} of 10, below the cut"
    return f"best and worst are {max(totals) - min(totals):.1f} points apart; the margin is {margin:g}"
