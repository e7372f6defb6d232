"""Words that a row and a protected item share in the same order: the longest such span, and where it lies in the row."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from curation.dedup.text import normalize

ANCHOR = 8
"""Words that must agree before a span of a longer item is looked at; shorter items must stand in the row whole."""
SHARED_BY = 3
"""An anchor that this many items hold is boilerplate ("choose the right answer from the following") and opens no span."""

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_TWO = re.compile(r"[^\W_][\W_]+[^\W_]")


class Span(NamedTuple):
    """Words start..stop of the row stand in the item too; share is their part of the item's words."""

    item: int
    start: int
    stop: int
    share: float


def words(text: str) -> tuple[str, ...]:
    """The words of a text as they are compared; each Chinese or Japanese sign is one."""
    return tuple(WORD.findall(normalize(text)))


def has_words(text: str) -> bool:
    """Whether a text has any word."""
    return WORD.search(text if text.isascii() else normalize(text)) is not None


def has_two_words(text: str) -> bool:
    """Whether a text has more words than one."""
    return _TWO.search(text) is not None if text.isascii() else len(words(text)) > 1


class SpanIndex:
    """Items by the word n-grams that anchor a shared span."""

    def __init__(self, items: Sequence[str]) -> None:
        self.items = [words(item) for item in items]
        holders: defaultdict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for item, tokens in enumerate(self.items):
            size = min(ANCHOR, len(tokens))
            for place in range(len(tokens) - size + 1) if size else ():
                holders[tokens[place : place + size]].append((item, place))
        self.holders = {gram: found for gram, found in holders.items() if not self._is_boilerplate(gram, found)}
        self.sizes = sorted({len(gram) for gram in self.holders})
        self.whole = {tokens: item for item, tokens in reversed(list(enumerate(self.items)))}

    def spans(self, row: tuple[str, ...]) -> list[Span]:
        """The longest span that the row shares with each item it shares one with."""
        best = {item: Span(item, 0, len(row), 1.0) for item in [self.whole.get(row)] if item is not None}
        for item, start, stop in self._matches(row):
            if item not in best or stop - start > best[item].stop - best[item].start:
                best[item] = Span(item, start, stop, (stop - start) / len(self.items[item]))
        return list(best.values())

    def _matches(self, row: tuple[str, ...]) -> Iterator[tuple[int, int, int]]:
        open_until: Counter[tuple[int, int]] = Counter()  # (item, row minus item place): a span already walked to there
        for size in self.sizes:
            for start in range(len(row) - size + 1):
                for item, place in self.holders.get(row[start : start + size], ()):
                    if start < open_until[item, start - place]:
                        continue
                    tokens, length = self.items[item], size
                    while start + length < len(row) and place + length < len(tokens) and row[start + length] == tokens[place + length]:
                        length += 1
                    open_until[item, start - place] = start + length
                    before = 0  # words of boilerplate that lead into the anchor belong to the span
                    while start > before < place and row[start - before - 1] == tokens[place - before - 1]:
                        before += 1
                    yield item, start - before, start + length

    def _is_boilerplate(self, gram: tuple[str, ...], found: Sequence[tuple[int, int]]) -> bool:
        return len(gram) == ANCHOR and len({item for item, _ in found if len(self.items[item]) > ANCHOR}) >= SHARED_BY
