"""Rows beside texts that may be trained on: one leaks when it is nearer to a protected item than to all of those.

For suites whose items and allowed texts lie close together (official terms of one code): the allowed texts say where the
cut belongs, phrase by phrase, which no rate over the suite could.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from curation.dedup.text import normalize
from curation.leakage.copies import EDITED, LONG, edited_evidence
from curation.leakage.similarity import Array, Encoder, Resemblance, segments
from curation.leakage.spans import Span, SpanIndex, words

FLOOR = {True: 1.0, False: 0.4}
"""Least similarity (lexical plus dense, or lexical alone) at which two texts may say the same at all."""
OTHER_LABEL = 0.3
"""How much nearer than any allowed text an item of another label must be: the same words for another class are rarely it."""
_DOUBT = 0.15


class Beside(NamedTuple):
    """The item a row is nearest to, compared with the allowed texts."""

    item: int
    kind: str
    score: float
    evidence: str
    is_leak: bool
    is_uncertain: bool = False
    """No leak, but nearly as near to the item as to the nearest allowed text."""


class AllowedTexts:
    """Protected items and the texts that may be trained on, indexed once."""

    def __init__(
        self,
        items: Sequence[str],
        labels: Sequence[str | None],
        allowed: Sequence[str],
        *,
        encode: Encoder | None,
        known: Mapping[str, Array],
    ) -> None:
        self.items, self.labels, self.allowed = items, labels, allowed
        self.spans = SpanIndex(allowed)
        self.resemblance = Resemblance(items, allowed, encode=encode, known=known)
        self.cut = FLOOR[self.resemblance.dense]

    def cover(self, tokens: tuple[str, ...]) -> list[Span]:
        """What of a row stands in an allowed text."""
        return self.spans.spans(tokens)

    def judge(self, texts: Sequence[str], labels: Sequence[str | None]) -> list[Beside]:
        """The nearest item of each text."""
        pieces = [segments(text) for text in texts]
        to_items, to_allowed = self.resemblance.compare([piece for row in pieces for piece in row])
        out, stop = [], 0
        for text, label, row in zip(texts, labels, pieces, strict=True):
            start, stop = stop, stop + len(row)
            alike = to_items[start:stop]
            out.append(self._edited(text, alike) or self._in_other_words(label, row, alike, to_allowed[start:stop]))
        return out

    def _in_other_words(self, label: str | None, pieces: Sequence[str], to_items: Array, to_allowed: Array) -> Beside:
        demand = np.array([OTHER_LABEL if label is not None and own is not None and own != label else 0.0 for own in self.labels])
        margin = to_items - np.maximum(to_allowed, 0.0)[:, None] - demand
        ranked = np.where(to_items >= self.cut, margin, margin - 10)
        passing = [place > 0 and len(words(piece)) == 1 for place, piece in enumerate(pieces)]  # one word is no rewording
        ranked = np.where(np.array(passing)[:, None], -20.0, ranked)
        place, item = divmod(int(ranked.argmax()), ranked.shape[1])
        score = float(to_items[place, item])
        said = f"{shorten(pieces[place])!r} is like {shorten(self.items[item])!r}: {score:.2f}, cut {self.cut:.2f}"
        said = f"{said}; nearest allowed text {float(to_allowed[place]):.2f}" if self.allowed else said
        over = float(margin[place, item])
        return Beside(item, "reworded", score, said, score >= self.cut and over > 0, score >= self.cut and -_DOUBT < over <= 0)

    def _edited(self, text: str, to_items: Array) -> Beside | None:
        """An edited copy of a long item inside the row, or of a long row inside an item; short ones are too easily alike."""
        from rapidfuzz.fuzz import partial_ratio

        own = normalize(text)
        for item in np.argsort(-to_items.max(axis=0), kind="stable")[:5].tolist():
            if min(len(own), len(normalize(self.items[item]))) < LONG:
                continue
            ratio = partial_ratio(own, normalize(self.items[item]))
            if ratio < EDITED or self._allowed_ratio(own, text) >= ratio:
                continue
            return Beside(int(item), "edited", ratio / 50, edited_evidence(ratio), True)
        return None

    def _allowed_ratio(self, own: str, text: str) -> float:
        from rapidfuzz.fuzz import partial_ratio

        return partial_ratio(own, normalize(self.allowed[self.resemblance.nearest_allowed(text)])) if self.allowed else 0.0


def shorten(text: str, most: int = 100) -> str:
    """The beginning of a text, for evidence."""
    return text if len(text) <= most else text[: most - 1] + "…"
