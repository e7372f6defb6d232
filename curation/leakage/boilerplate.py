"""Words that several protected items share: a passage that many questions are asked about, a fixed instruction.

Such a frame says nothing of which item leaked, and it makes the items look like one another, so it is taken out of items and
rows before their likeness is measured. Items are still found whole or by any span that is theirs alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from curation.dedup.arrow_text import Rows, text_of
from curation.dedup.normalization import normalize
from curation.leakage.ngrams import ANCHOR, FRAMED, SHARED_BY, WORD, SpanScanner, readable_rows, words

_LEFT = 5
"""Words that must remain; a text that is frame all through is compared as it is."""


class Frames:
    """The windows of words that at least `SHARED_BY` items hold."""

    def __init__(self, items: Sequence[str], scanner: SpanScanner | None = None) -> None:
        self.scanner = scanner or SpanScanner(items)
        self.framed = np.flatnonzero(self.scanner.flags(readable_rows(items)) & FRAMED).tolist()
        """The items that hold such a window."""
        held = Counter(gram for place in self.framed for gram in set(_windows(words(items[place]))))
        self.windows = {gram for gram, n in held.items() if n >= SHARED_BY}

    def without(self, text: str) -> str:
        """The text without what several items share, normalized where something was taken out."""
        if not self.windows:
            return text
        own = normalize(text)
        found = list(WORD.finditer(own))
        framed = np.zeros(len(found), bool)
        for start, gram in enumerate(_windows(tuple(word.group() for word in found))):
            if gram in self.windows:
                framed[start : start + ANCHOR] = True
        if not framed.any() or len(found) - framed.sum() < _LEFT:
            return text
        kept, last = [], 0
        for word, is_framed in zip(found, framed.tolist(), strict=True):
            if is_framed:
                kept.append(own[last : word.start()])
                last = word.end()
        return re.sub(r"\s+", " ", "".join([*kept, own[last:]])).strip(" .,;:!?")


def rows_with(rows: Rows, changed: Mapping[int, str]) -> Rows:
    """The rows, some with another, normalized text."""
    texts = {row: text for row, text in changed.items() if text != text_of(rows, row)}
    if not texts:
        return rows
    which = np.array(list(texts), np.int64)
    bodies = [normalize(text).encode("utf-8", "surrogatepass") for text in texts.values()]
    beside = np.frombuffer(b"".join(bodies) or b"\0", np.uint8)
    addresses, sizes, is_normal = rows.addresses.copy(), rows.sizes.copy(), rows.is_normal.copy()
    sizes[which] = [len(body) for body in bodies]
    addresses[which] = beside.ctypes.data + np.cumsum(sizes[which]) - sizes[which]
    is_normal[which] = True
    return replace(rows, addresses=addresses, sizes=sizes, is_normal=is_normal, owners=(*rows.owners, beside))


def _windows(tokens: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [tokens[start : start + ANCHOR] for start in range(len(tokens) - ANCHOR + 1)]
