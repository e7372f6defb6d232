"""Find rows that translate a protected item into another language, with the embeddings of a multilingual model.

Translations share no words with an item, so embeddings are the only evidence, and the language of a text moves its embedding. Therefore
a cosine counts in standard deviations of the row's own cosines with all items of the suite, taken about the items' mean: what
the row's language and format add to all of them alike drops out. The crowding of an item is subtracted as in `calibration`, and the cut is
where the chosen share of the items would pass with their nearest other item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from curation.dedup.arrow_text import Array
from curation.distribution.profile import UNKNOWN, find_languages
from curation.leakage.calibration import CROWD, ENOUGH
from curation.leakage.features import Encoder, gist

# Share of a suite's items above which their language is a language of the suite.
_OWN_LANGUAGE = 0.05
# Characters of a row that are compared at a time; windows overlap by half.
_WINDOW, _WINDOWS = 1_000, 32
_BLOCK = 2_048


class TranslationMatch(NamedTuple):
    """The item that a row in another language is nearest to."""

    item: int
    margin: float
    """Standard deviations above the suite's cut; below 0 a leak is possible."""
    cosine: float
    language: str
    piece: str


class _Suite(NamedTuple):
    places: Array
    """Place of each unit in the list of all units."""
    mean: Array
    unit: Array
    crowding: Array
    """In standard deviations."""
    cut: float
    loose: float
    languages: frozenset[str]


class TranslationDetector:
    """The protected items of the suites that are large enough to calibrate."""

    def __init__(self, texts: Sequence[str], owners: Array, suites: Sequence[str], *, encode: Encoder, rate: float) -> None:
        """Embed and calibrate the items.

        Args:
            texts: the items, long ones in pieces.
            owners: item of each text.
            suites: suite of each text.
            encode: embeds texts of many languages.
            rate: share of hard negatives that may pass.
        """
        self.owners, self.encode = owners, encode
        names = np.array(suites)
        places = (np.flatnonzero(names == name) for name in dict.fromkeys(suites))
        self.suites = [
            self._calibrate([texts[place] for place in own.tolist()], own, rate)
            for own in places
            if len(np.unique(owners[own])) >= ENOUGH
        ]  # fmt: skip

    def find(self, texts: Sequence[str], *, without: Sequence[int] | None = None) -> dict[int, TranslationMatch]:
        """Return, for each text in a language that a suite does not have, its nearest item if a leak is at least possible.

        Args:
            texts: the rows.
            without: an item to ignore for each row, to measure the hardest other item.
        """
        if not self.suites:
            return {}
        languages = find_languages(texts)["language"].to_pylist()
        foreign = [row for row, own in enumerate(languages) if own != UNKNOWN and any(own not in s.languages for s in self.suites)]
        pieces = [(row, piece) for row in foreign for piece in _windows(texts[row])]
        found: dict[int, TranslationMatch] = {}
        for start in range(0, len(pieces), _BLOCK):
            block = pieces[start : start + _BLOCK]
            vectors = self.encode([gist(piece) for _, piece in block])
            for suite in self.suites:
                cosine = _unit(vectors - suite.mean) @ suite.unit.T
                evidence = _standardized(cosine) - suite.crowding
                if without is not None:
                    ignored = np.array([without[row] for row, _ in block])
                    evidence[self.owners[suite.places][None, :] == ignored[:, None]] = -np.inf
                for place, at in enumerate(evidence.argmax(axis=1).tolist()):
                    (row, piece), over = block[place], float(evidence[place, at])
                    known = found.get(row)
                    if languages[row] in suite.languages or over <= suite.loose or (known and known.margin >= over - suite.cut):
                        continue
                    item = int(self.owners[suite.places[at]])
                    found[row] = TranslationMatch(item, over - suite.cut, float(cosine[place, at]), languages[row], piece)
        return found

    def _calibrate(self, texts: Sequence[str], places: Array, rate: float) -> _Suite:
        vectors = self.encode([gist(text) for text in texts])
        mean = vectors.mean(axis=0)
        unit = _unit(vectors - mean)
        cosine, owners = unit @ unit.T, self.owners[places]
        is_own = (owners[:, None] == owners[None, :]) | (cosine > _SAME)
        nearest = np.sort(np.where(is_own, 0.0, cosine), axis=1)[:, -CROWD:]
        standard = _standardized(cosine, is_own)
        # Half the mean cosine of the three nearest others, in the unit of the standardized cosines.
        spread = np.mean([np.std(line[~own]) for line, own in zip(cosine, is_own, strict=True)])
        crowding = nearest.mean(axis=1) / (2 * spread)
        hardest = np.where(is_own, -np.inf, standard - crowding).max(axis=1)
        hardest = hardest[np.isfinite(hardest)]
        cut, loose = (float(np.quantile(hardest, 1 - share, method="higher")) for share in (rate, min(10 * rate, 0.5)))
        counts = Counter(find_languages(texts)["language"].to_pylist())
        own = frozenset(language for language, n in counts.items() if n >= _OWN_LANGUAGE * len(texts))
        return _Suite(places, mean, unit, crowding, cut, loose, own)


# Cosine about the mean above which two items are the same text.
_SAME = 0.999


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))


def _standardized(cosine: Array, without: Array | None = None) -> Array:
    """Return the cosines of each line in standard deviations from the line's mean; `without` marks those that do not count."""
    counted = cosine if without is None else np.where(without, np.nan, cosine)
    mean, spread = np.nanmean(counted, axis=1, keepdims=True), np.nanstd(counted, axis=1, keepdims=True)
    return np.asarray((cosine - mean) / np.maximum(spread, 1e-6))


def _windows(text: str) -> list[str]:
    return [text[at : at + _WINDOW] for at in range(0, max(1, len(text) - _WINDOW // 2), _WINDOW // 2)][:_WINDOWS]
