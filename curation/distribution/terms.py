"""The words that set texts apart: one group from many (class-based TF-IDF), or two sides from each other (log-odds).

Sources: Grootendorst 2022, BERTopic (c-TF-IDF); Monroe, Colaresi and Quinn 2008, Fightin' Words (log-odds with a Dirichlet
prior from both sides, over its standard error: a term must be sure to differ, not only rare on one side).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise

_WORD = re.compile(r"[^\W\d_][\w'-]*")
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2,}")
_PRIOR = 0.1
"""Weight of the prior, as a part of all terms."""
_SURE = 3.0
"""Standard errors by which a term must differ: with thousands of terms tested, 2 would name some by chance."""


def telling_terms(first: Iterable[str], second: Iterable[str], *, most: int = 10) -> tuple[list[str], list[str]]:
    """The terms surely more frequent in each of two sides, the surest first; a term counts once a text."""
    one, two = (Counter(term for text in side for term in set(_terms(text))) for side in (first, second))
    both = one + two
    total, n, m = sum(both.values()), sum(one.values()), sum(two.values())
    weight = _PRIOR * total
    scores = {}
    for term, everywhere in both.items():
        prior = _PRIOR * everywhere
        a, b = one[term] + prior, two[term] + prior
        odds = math.log(a / max(n + weight - a, 0.5)) - math.log(b / max(m + weight - b, 0.5))
        scores[term] = odds / math.sqrt(1 / a + 1 / b)
    ranked = sorted(scores, key=lambda term: (-scores[term], term))
    ours = [term for term in ranked if scores[term] >= _SURE]
    theirs = [term for term in reversed(ranked) if scores[term] <= -_SURE]
    return _without_repeats(ours, most), _without_repeats(theirs, most)


def distinctive_terms(groups: Sequence[Iterable[str]], *, most: int = 6) -> list[list[str]]:
    """For each group of texts the words and pairs of words that set it apart from the other groups (c-TF-IDF).

    A term counts once a text, so that one long text names nothing.
    """
    counts = [Counter(term for text in group for term in set(_terms(text))) for group in groups]
    everywhere = sum(counts, Counter[str]())
    mean = sum(everywhere.values()) / max(1, len(counts))
    named = []
    for count in counts:
        total = sum(count.values()) or 1
        least = 2 if max(count.values(), default=0) > 1 else 1
        score = {t: n / total * math.log1p(mean / everywhere[t]) for t, n in count.items() if n >= least}
        named.append(_without_repeats(sorted(score, key=lambda t: (-score[t], t)), most))
    return named


def _without_repeats(ranked: Sequence[str], most: int) -> list[str]:
    """The first terms none of whose words stands in one before it."""
    kept: list[str] = []
    for term in ranked:
        words = {_stem(word) for word in term.split()}
        if all(words.isdisjoint(_stem(word) for word in other.split()) for other in kept):
            kept.append(term)
        if len(kept) == most:
            break
    return kept


def _stem(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 else word


def _terms(text: str) -> list[str]:
    low = text.casefold()
    words = [word for word in _WORD.findall(_IDEOGRAPHS.sub(" ", low)) if len(word) > 1]
    common = _common_words()
    plain = [word for word in words if word not in common]
    pairs = [f"{a} {b}" for a, b in pairwise(words) if a not in common and b not in common]
    # Scripts written without spaces give no words: pairs of their characters carry most of the meaning.
    return plain + pairs + [run[i : i + 2] for run in _IDEOGRAPHS.findall(low) for i in range(len(run) - 1)]


@cache
def _common_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS) | {
        "don't",
        "i'm",
        "i've",
        "can't",
        "it's",
        "does",
        "did",
        "didn't",
        "doesn't",
        "isn't",
        "what's",
        "i'd",
    }
