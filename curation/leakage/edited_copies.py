"""Edited copies: a long item that stands in a row, or a row in the item, nearly letter for letter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curation.dedup.normalization import normalize

Array = np.ndarray[Any, np.dtype[Any]]

EDITED = 90.0
"""Partial ratio from which a long item counts as copied and edited."""
LONG = 40
"""Characters from which an edited copy can be told from two phrases that are alike."""

_LEXICAL = 0.25
_SHARE = 0.4
"""Least share of character n-grams in common at which two texts are compared letter for letter: one letter in ten changed
leaves at least .6 of them."""


class Copies:
    """Protected texts, and for each the share of letters in common from which a row holds a copy of it."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.normal = texts, [normalize(text) for text in texts]
        self.cut = np.full(len(texts), EDITED)

    def calibrate(self, own: Array, fellow: Array, share: Array, *, rate: float) -> None:
        """Set the cut of a suite's texts above what they have in common with their nearest others (-1 for none), but for a rate."""
        from rapidfuzz.fuzz import partial_ratio

        told = [place for place, unit in enumerate(own.tolist()) if fellow[place] >= 0 and len(self.texts[unit]) >= LONG]
        # Below the least cut it does not matter how alike they are, and most are far below it.
        ratios = [
            partial_ratio(self.normal[own[place]], self.normal[fellow[place]], score_cutoff=EDITED) if share[place] >= _SHARE else 0.0
            for place in told
        ]
        if ratios:
            self.cut[own] = max(EDITED, float(np.quantile(ratios, 1 - rate, method="higher")) + 1e-9)

    def find(self, texts: Sequence[str], candidates: Array, lexical: Array, share: Array) -> tuple[Array, Array]:
        """For each text the protected one of its candidates that it holds an edited copy of, or the reverse (-1 for none), and the
        share of letters in common."""
        from rapidfuzz.fuzz import partial_ratio

        copied, ratio = np.full(len(texts), -1, np.int64), np.zeros(len(texts))
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
    """What is said of an edited copy."""
    return f"{ratio:.0f} % of the shorter of the two agrees letter for letter"
