"""Rows that share a span of words with protected items: one pass of compiled loops over all rows and all suites."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from curation.dedup.arrow_text import Rows, Texts, read_by, read_rows, spread
from curation.dedup.normalization import normalize

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


BREAK, PART, SIGN = 0, 1, 2
"""Between words; part of a word; a word by itself (Chinese and Japanese signs)."""


@lru_cache(maxsize=1)
def word_table() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """BREAK, PART or SIGN for every code point."""
    every = "".join(map(chr, range(0xD800))) + "\0" * 0x800 + "".join(map(chr, range(0xE000, 0x110000)))
    table = np.zeros(0x110000, np.uint8)
    for found in re.finditer(r"[^\W_]+", every):
        table[found.start() : found.end()] = PART
    for first, last in ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF)):
        table[first : last + 1] = SIGN
    return table


Array = np.ndarray[Any, np.dtype[Any]]

ANCHORED, FRAMED = 1, 2


class _Grams(NamedTuple):
    """Windows of words, item by item: the item and word each begins at, and how many words it has."""

    hash: Array
    item: Array
    place: Array
    width: Array


class SpanScanner:
    """Protected items by the word n-grams that anchor a shared span."""

    def __init__(self, items: Sequence[str], *, boilerplate: bool = True) -> None:
        """`boilerplate` False lets words that several items share open a span too."""
        self.words, self.starts = words_of(readable_rows(items))
        self.lengths = np.diff(self.starts)
        grams = _anchors(self.words, self.starts, np.minimum(self.lengths, ANCHOR))
        group, n, _ = grouped(grams.hash)
        frames = np.empty(0, np.uint64)
        if boilerplate:
            shared = (_holders_of(group, n, grams, self.lengths) >= SHARED_BY)[group]
            frames, grams = np.unique(grams.hash[shared]), _Grams(*(column[~shared] for column in grams))
        # An item that is boilerplate all through (a copy in three suites) is found as a whole.
        left = np.bincount(grams.item, minlength=len(items)) == 0
        whole = _anchors(self.words, self.starts, np.where(left, self.lengths, 0))
        grams = _Grams(*(np.concatenate(pair) for pair in zip(grams, whole, strict=True)))
        self._index(grams, frames)

    def _index(self, grams: _Grams, frames: Array) -> None:
        from curation.leakage.kernels.spans import heads_of, order_by_group

        group, _, (self.slots, self.groups) = grouped(np.concatenate([grams.hash, frames]))
        group = group[: len(grams.hash)]
        self.frames = int(group.max(initial=-1)) + 1  # groups from here on are boilerplate
        self.holders = np.append(0, np.cumsum(np.bincount(group, minlength=self.frames))).astype(np.int64)
        order = order_by_group(group, self.holders)
        self.items, self.places = grams.item[order], grams.place[order]
        self.widths = np.unique(np.append(grams.width, ANCHOR) if len(frames) else grams.width).astype(np.int64)
        anchored = grams.width == ANCHOR
        self.bits = _bits(np.concatenate([grams.hash[anchored], frames]))
        first = self.starts[:-1][grams.item] + grams.place
        few, many = (grams.width > 1) & (grams.width < ANCHOR), grams.width > ANCHOR
        heads = [self.words[first[grams.width == 1]], heads_of(self.words, first[few]), heads_of(self.words, first[many])]
        room = max(map(len, heads))
        self.heads = np.stack([_bits(part, room=room) for part in heads])

    def scan(self, texts: Texts) -> dict[int, list[Span]]:
        """Row to the longest span it shares with each item it shares one with."""
        rows = readable_rows(texts)
        return self.spans(rows, self.flags(rows))

    def flags(self, rows: Rows) -> Array:
        """What each row holds: `ANCHORED`, a window of an item, and `FRAMED`, words which several items share: boilerplate."""
        from curation.leakage.kernels.spans import mark_rows

        flags = np.zeros(len(rows), np.uint8)
        spread(mark_rows, len(rows), *self._common(rows), ANCHOR, self.bits, self.heads, flags)
        return flags

    def spans(self, rows: Rows, flags: Array) -> dict[int, list[Span]]:
        """As `scan`, of rows whose flags are known."""
        spans: dict[int, list[Span]] = {}
        found = self.table(rows, flags)
        shares = (found[:, 3] - found[:, 2]) / self.lengths[found[:, 1]]
        for (row, item, start, stop), share in zip(found.tolist(), shares.tolist(), strict=True):
            spans.setdefault(row, []).append(Span(item, start, stop, share))
        return spans

    def table(self, rows: Rows, flags: Array) -> Array:
        """As `spans`, as lines of row, item, first word and word after the last."""
        from curation.leakage.kernels.spans import best_spans

        hit = np.flatnonzero(flags & ANCHORED)
        if not len(hit):
            return np.empty((0, 4), np.int64)
        return np.asarray(best_spans(hit, *self._common(rows), self.holders, self.items, self.places, self.words, self.starts))

    def _common(self, rows: Rows) -> tuple[Any, ...]:
        return (*rows.arguments, word_table(), self.widths, self.slots, self.groups, self.frames)


def words_of(rows: Rows) -> tuple[Array, Array]:
    """Hashes of the words of all rows, one after another, and where each row's begin."""
    from curation.leakage.kernels.words import words_into

    at = np.append(0, np.cumsum(rows.sizes + rows.sizes // 2 + 2)).astype(np.int64)
    out, counts = np.empty(int(at[-1]), np.uint64), np.zeros(len(rows), np.int64)
    spread(words_into, len(rows), *rows.arguments, word_table(), at, out, counts)
    starts = np.append(0, np.cumsum(counts)).astype(np.int64)
    return out[np.repeat(at[:-1] - starts[:-1], counts) + np.arange(starts[-1])], starts


def grouped(hashes: Array) -> tuple[Array, int, tuple[Array, Array]]:
    """(the group of each hash, how many there are, the table that tells the group of a hash: open, at most a quarter full)."""
    from curation.leakage.kernels.spans import group_hashes

    size = 1 << max(10, int(4 * len(hashes)).bit_length())
    slots, groups = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
    group = np.empty(len(hashes), np.int64)
    n = group_hashes(hashes, slots, groups, group)
    return group, n, (slots, groups)


def readable_rows(texts: Texts) -> Rows:
    """Rows that the loops can read; those whose marks may combine normalized by Python."""
    from curation.leakage.kernels.words import check_rows

    return read_by(check_rows, read_rows(texts)).rows


def _anchors(words: Array, starts: Array, sizes: Array) -> _Grams:
    from curation.leakage.kernels.spans import item_grams

    room = len(words) + 1
    hashes, item, place = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int64)
    n = item_grams(words, starts, sizes.astype(np.int64), hashes, item, place)
    return _Grams(hashes[:n], item[:n], place[:n], sizes[item[:n]])


def _holders_of(group: Array, n: int, grams: _Grams, lengths: Array) -> Array:
    """How many long items hold each group."""
    from curation.leakage.kernels.spans import count_holders

    long = (grams.width == ANCHOR) & (lengths[grams.item] > ANCHOR)
    return np.asarray(count_holders(group[long], grams.item[long], n))


def _bits(hashes: Array, *, room: int | None = None) -> Array:
    from curation.leakage.kernels.spans import set_bits

    bits = np.zeros(1 << max(7, int(12 * (len(hashes) if room is None else room) // 64).bit_length()), np.uint64)
    set_bits(hashes, bits)
    return bits
