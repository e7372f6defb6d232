"""Find edited copies: a long item contained in a row, or a row contained in an item, nearly letter for letter (rapidfuzz)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curation.dedup.arrow_text import Array
from curation.dedup.normalization import normalize

# Partial ratio (0 to 100) above which a long item counts as an edited copy.
EDITED = 90.0
# Characters above which an edited copy can be distinguished from two similar phrases.
LONG = 40

_LEXICAL = 0.25
# Least share of character n-grams in common at which two texts are compared letter by letter: one changed letter in ten leaves .6.
_SHARE = 0.4


class EditedCopies:
    """Protected texts, each with the ratio above which a row holds an edited copy of it."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.normal = texts, [normalize(text) for text in texts]
        self.cut = np.full(len(texts), EDITED)

    def calibrate(self, own: Array, nearest: Array, share: Array, *, rate: float) -> None:
        """Raise the cut of a suite's texts above the ratios that they reach with their nearest others.

        Args:
            own: texts of the suite.
            nearest: nearest other text of each, -1 for none.
            share: share of n-grams in common with it.
            rate: share of these pairs that may pass.
        """
        from rapidfuzz.fuzz import partial_ratio

        known = [place for place, unit in enumerate(own.tolist()) if nearest[place] >= 0 and len(self.texts[unit]) >= LONG]
        # Ratios below the least cut do not matter, and most are far below it.
        ratios = [
            partial_ratio(self.normal[own[place]], self.normal[nearest[place]], score_cutoff=EDITED) if share[place] >= _SHARE else 0.0
            for place in known
        ]
        if ratios:
            self.cut[own] = max(EDITED, float(np.quantile(ratios, 1 - rate, method="higher")) + 1e-9)

    def find(self, texts: Sequence[str], candidates: Array, lexical: Array, share: Array) -> tuple[Array, Array]:
        """Find, for each text, the candidate that one of the two is an edited copy of.

        Args:
            texts: pieces of rows.
            candidates: (texts, k) protected texts, -1 for none.
            lexical: (texts, k) their lexical similarity.
            share: (texts, k) their share of n-grams in common.

        Returns:
            (protected text or -1, ratio 0 to 100) of each text.
        """
        from rapidfuzz.fuzz import partial_ratio

        copied, ratio = np.full(len(texts), -1, np.int64), np.zeros(len(texts))
        # The two most similar candidates: letter comparison is the slowest step, and a copy is nearly always the first.
        ranked = np.argsort(-lexical, axis=1, kind="stable")[:, :2]
        likely = (candidates >= 0) & (lexical >= _LEXICAL) & (share >= _SHARE)
        for place in np.flatnonzero(np.take_along_axis(likely, ranked, axis=1).any(axis=1)).tolist():
            own = normalize(texts[place])
            for at in ranked[place].tolist():
                unit = int(candidates[place, at])
                if not likely[place, at] or min(len(texts[place]), len(self.texts[unit])) < LONG:
                    continue
                ratio[place] = partial_ratio(own, self.normal[unit], score_cutoff=self.cut[unit])
                if ratio[place]:
                    copied[place] = unit
                    break
        return copied, ratio


def edited_evidence(ratio: float) -> str:
    """Return the evidence for an edited copy, in words."""
    return f"{ratio:.0f} % of the shorter text agrees letter for letter"
