"""Is the preferred answer better, or only longer, shinier, the same? What a preference set would teach beside what it should.

DPO takes whatever tells chosen from rejected. Length is the best known of these shortcuts (Singhal et al., "A Long Way to Go", 2023;
Park et al., 2024), markup and stock openings are others. Everything here is counted on the texts alone; no model is asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from curation.intervals import Estimate, Rate, mean

NEAR = 0.95
"""Similarity of the two answers (share of characters in common order) from which a pair hardly says which one is better, or why."""
TOLD_FROM = 20
"""Pairs that differ in a trait, below which no bias is claimed from it."""
OPENING_WORDS = 3
OPENINGS_SHOWN = 6

TRAITS: dict[str, re.Pattern[str]] = {
    "bullets": re.compile(r"(?m)^\s*[-*•]\s+\S"),
    "numbered list": re.compile(r"(?m)^\s*\d+[.)]\s+\S"),
    "heading": re.compile(r"(?m)^#{1,6}\s+\S"),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
    "code": re.compile(r"```|`[^`\n]+`"),
    "table": re.compile(r"(?m)^\s*\|.*\|\s*$"),
    "link": re.compile(r"https?://|\]\("),
    "emoji": re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]"),
    "exclamation": re.compile(r"!(?:\s|$)"),
    "stock opening": re.compile(
        r"^\s*(?:sure|certainly|of course|absolutely|great question|good question|i'd be happy|happy to help|here (?:is|are)|here's)\b",
        re.I,
    ),
    "stock ending": re.compile(r"(?:hope (?:this|that) helps|let me know if|feel free to ask|happy to help)[^\n]*\s*$", re.I),
    "as a model": re.compile(r"\bas an? (?:ai|large language|language) model\b|\bi(?:'m| am) (?:sorry|unable)\b|\bi can(?:'|no)t\b", re.I),
}
"""What an answer can wear; each is looked for in both answers of a pair."""


class Pair(NamedTuple):
    """The two answers of a pair."""

    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Trait:
    """How often each side wears a trait."""

    name: str
    chosen: Rate
    rejected: Rate
    decides: Rate
    """Of the pairs in which only one answer wears it, those in which the chosen one does: half, where it decides nothing."""

    @property
    def is_bias(self) -> bool:
        """Whether half lies outside the interval, on enough pairs to say so."""
        return self.decides.n >= TOLD_FROM and not self.decides.low <= 0.5 <= self.decides.high


@dataclass(frozen=True, slots=True)
class Opening:
    """The first words of answers, where the two sides differ most."""

    words: str
    chosen: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Hygiene:
    """A set of preference pairs, described."""

    pairs: int
    longer: Rate
    """Pairs in which the chosen answer is the longer one; answers of one length are left out."""
    difference: Estimate | None
    """Characters of the chosen answer less those of the rejected one, on average."""
    median_ratio: float | None
    """Median of chosen length over rejected length."""
    similarity: float | None
    """Median similarity of the two answers."""
    near_identical: tuple[int, ...]
    """Places of the pairs whose answers are NEAR or more alike, those that differ only in form included."""
    only_form: int
    """Pairs whose answers differ in case, punctuation or spacing only."""
    traits: tuple[Trait, ...]
    openings: tuple[Opening, ...] = ()

    @property
    def length_is_bias(self) -> bool:
        """Whether length alone tells which answer was chosen."""
        return self.longer.n >= TOLD_FROM and not self.longer.low <= 0.5 <= self.longer.high

    @property
    def biases(self) -> tuple[str, ...]:
        """Everything beside substance that goes along with being chosen."""
        length = ("longer" if self.longer.share > 0.5 else "shorter",) if self.length_is_bias else ()
        return (*length, *(trait.name for trait in self.traits if trait.is_bias))


def describe_pairs(pairs: Sequence[Pair], *, seed: int = 0) -> Hygiene:
    """Count what tells the chosen answers from the rejected ones."""
    from rapidfuzz.distance import Indel

    lengths = [(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    apart = [(a, b) for a, b in lengths if a != b]
    alike = [Indel.normalized_similarity(pair.chosen, pair.rejected) for pair in pairs]
    form = [_bare(pair.chosen) == _bare(pair.rejected) for pair in pairs]
    return Hygiene(
        pairs=len(pairs),
        longer=Rate(sum(a > b for a, b in apart), len(apart)),
        difference=mean([a - b for a, b in lengths], seed=seed),
        median_ratio=median(a / b for a, b in lengths if b) if any(b for _, b in lengths) else None,
        similarity=median(alike) if alike else None,
        near_identical=tuple(n for n, (share, same) in enumerate(zip(alike, form, strict=True)) if share >= NEAR or same),
        only_form=sum(form),
        traits=tuple(_trait(name, pattern, pairs) for name, pattern in TRAITS.items()),
        openings=_openings(pairs),
    )


def as_values(found: Hygiene) -> dict[str, Any]:
    """For the store and the manifest: the numbers behind the page."""
    return {
        "pairs": found.pairs,
        "longer_is_chosen": _rate(found.longer),
        "mean_length_difference": round(found.difference.value, 2) if found.difference else None,
        "median_length_ratio": round(found.median_ratio, 4) if found.median_ratio is not None else None,
        "median_similarity": round(found.similarity, 4) if found.similarity is not None else None,
        "near_identical": len(found.near_identical),
        "differ_in_form_only": found.only_form,
        "traits": {
            t.name: {"chosen": t.chosen.hits, "rejected": t.rejected.hits, "decides": _rate(t.decides)} for t in _worn(found.traits)
        },
        "biases": list(found.biases),
    }


def _trait(name: str, pattern: re.Pattern[str], pairs: Sequence[Pair]) -> Trait:
    worn = [(bool(pattern.search(pair.chosen)), bool(pattern.search(pair.rejected))) for pair in pairs]
    alone = [a for a, b in worn if a != b]
    return Trait(name, Rate(sum(a for a, _ in worn), len(worn)), Rate(sum(b for _, b in worn), len(worn)), Rate(sum(alone), len(alone)))


def _worn(traits: Iterable[Trait]) -> list[Trait]:
    return [trait for trait in traits if trait.chosen.hits or trait.rejected.hits]


def _openings(pairs: Sequence[Pair]) -> tuple[Opening, ...]:
    chosen, rejected = (Counter(filter(None, (_opening(pair[side]) for pair in pairs))) for side in (0, 1))
    differ = sorted(chosen.keys() | rejected.keys(), key=lambda words: (-abs(chosen[words] - rejected[words]), words))
    told = [Opening(words, chosen[words], rejected[words]) for words in differ[:OPENINGS_SHOWN]]
    return tuple(opening for opening in told if abs(opening.chosen - opening.rejected) > 1)


def _opening(text: str) -> str:
    return " ".join(text.split()[:OPENING_WORDS]).casefold()


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


def _rate(rate: Rate) -> dict[str, Any]:
    return {"hits": rate.hits, "of": rate.n, "share": round(rate.share, 4), "low": round(rate.low, 4), "high": round(rate.high, 4)}
