"""Rows that share a span of words with protected items: one pass of compiled loops over all rows and all suites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from curation.dedup.rows import Rows, Texts, read_by, read_rows, spread
from curation.leakage.spans import ANCHOR, SHARED_BY, Span
from curation.leakage.wordchars import word_table

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
