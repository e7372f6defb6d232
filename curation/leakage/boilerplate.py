"""Remove boilerplate: words that several protected items share, such as a passage with many questions or a fixed instruction.

Boilerplate does not identify an item, and it makes items look similar to one another, so it is removed from items and rows before their
similarity is measured. Items are still found whole, or by any span that is theirs alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from curation.dedup.arrow_text import Array, Rows, text_of, with_texts
from curation.dedup.normalization import normalize
from curation.leakage.ngrams import ANCHOR, HAS_BOILERPLATE, SHARED_BY, WORD, SpanScanner, readable_rows, words

# Words that must remain; a text that is boilerplate almost completely is compared unchanged.
_LEFT = 5


class Boilerplate:
    """The windows of `ANCHOR` words that at least `SHARED_BY` items hold."""

    def __init__(self, items: Sequence[str], scanner: SpanScanner | None = None) -> None:
        self.scanner = scanner or SpanScanner(items)
        self.holders = np.flatnonzero(self.scanner.flags(readable_rows(items)) & HAS_BOILERPLATE).tolist()
        """The items that hold one of the windows."""
        held = Counter(gram for place in self.holders for gram in set(_windows(words(items[place]))))
        self.windows = {gram for gram, n in held.items() if n >= SHARED_BY}

    def remove(self, text: str) -> str:
        """Return the text without boilerplate; it is normalized if something was removed."""
        if not self.windows:
            return text
        own = normalize(text)
        found = list(WORD.finditer(own))
        shared = np.zeros(len(found), bool)
        for start, gram in enumerate(_windows(tuple(word.group() for word in found))):
            if gram in self.windows:
                shared[start : start + ANCHOR] = True
        if not shared.any() or len(found) - shared.sum() < _LEFT:
            return text
        kept, last = [], 0
        for word, is_shared in zip(found, shared.tolist(), strict=True):
            if is_shared:
                kept.append(own[last : word.start()])
                last = word.end()
        return re.sub(r"\s+", " ", "".join([*kept, own[last:]])).strip(" .,;:!?")

    def remove_from(self, rows: Rows, flags: Array) -> Rows:
        """Return the rows without boilerplate; `flags` are those of the scanner."""
        changed = {}
        for row in np.flatnonzero(flags & HAS_BOILERPLATE).tolist():
            text = text_of(rows, row)
            if (shorter := self.remove(text)) != text:
                changed[row] = shorter
        return with_texts(rows, changed) if changed else rows


def _windows(tokens: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [tokens[start : start + ANCHOR] for start in range(len(tokens) - ANCHOR + 1)]
