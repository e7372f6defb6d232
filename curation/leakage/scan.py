"""Rows that share a span of words with protected items: one pass of compiled loops over all rows and all suites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from curation.dedup.rows import Rows, Texts, keyed_rows, spread
from curation.leakage.spans import ANCHOR, SHARED_BY, Span
from curation.leakage.wordchars import word_table

Array = np.ndarray[Any, np.dtype[Any]]

ANCHORED, FRAMED = 1, 2


class _Grams(NamedTuple):
    """Windows of words, sorted by hash: the item and word each begins at, and how many words it has."""

    hash: Array
    item: Array
    place: Array
    width: Array


class SpanScanner:
    """Protected items by the word n-grams that anchor a shared span."""

    def __init__(self, items: Sequence[str], *, boilerplate: bool = True) -> None:
        """`boilerplate` False lets words that several items share open a span too."""
        self.words, self.starts = words_of(keyed_rows(items).rows)
        self.lengths = np.diff(self.starts)
        grams = _anchors(self.words, self.starts, np.minimum(self.lengths, ANCHOR))
        grams, frames = _without_frames(grams, self.lengths) if boilerplate else (grams, np.empty(0, np.uint64))
        # An item that is boilerplate all through (a copy in three suites) is found as a whole.
        whole = np.where(np.isin(np.arange(len(items)), grams.item), 0, self.lengths)
        grams = _together(grams, _anchors(self.words, self.starts, whole))
        distinct, first = np.unique(grams.hash, return_index=True)
        self.holders = np.append(first, len(grams.hash)).astype(np.int64)
        self.items, self.places, self.frames = grams.item, grams.place, len(distinct)
        self.slots, self.groups = hash_table(np.concatenate([distinct, np.setdiff1d(frames, distinct)]))
        self.widths = np.unique(np.append(grams.width, ANCHOR if len(frames) else grams.width[:1])).astype(np.int64)

    def scan(self, texts: Texts) -> dict[int, list[Span]]:
        """Row to the longest span it shares with each item it shares one with."""
        rows = keyed_rows(texts).rows
        return self.spans(rows, self.flags(rows))

    def flags(self, rows: Rows) -> Array:
        """What each row holds: `ANCHORED`, a window of an item, and `FRAMED`, words which several items share: boilerplate."""
        from curation.leakage.kernels.spans import mark_rows

        flags = np.zeros(len(rows), np.uint8)
        spread(mark_rows, len(rows), *self._common(rows), flags)
        return flags

    def spans(self, rows: Rows, flags: Array) -> dict[int, list[Span]]:
        """As `scan`, of rows whose flags are known."""
        from curation.leakage.kernels.spans import best_spans

        hit = np.flatnonzero(flags & ANCHORED)
        spans: dict[int, list[Span]] = {}
        if len(hit):
            found = best_spans(hit, *self._common(rows), self.holders, self.items, self.places, self.words, self.starts)
            shares = (found[:, 3] - found[:, 2]) / self.lengths[found[:, 1]]
            for (row, item, start, stop), share in zip(found.tolist(), shares.tolist(), strict=True):
                spans.setdefault(row, []).append(Span(item, start, stop, share))
        return spans

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


def hash_table(hashes: Array) -> tuple[Array, Array]:
    """(slots, groups) of an open table, at most a quarter full, that tells the place of each of these distinct hashes."""
    from curation.leakage.kernels.spans import fill_table

    size = 1 << max(10, int(4 * len(hashes)).bit_length())
    slots, groups = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
    fill_table(hashes, slots, groups)
    return slots, groups


def _anchors(words: Array, starts: Array, sizes: Array) -> _Grams:
    from curation.leakage.kernels.spans import item_grams

    room = len(words) + 1
    hashes, item, place = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int64)
    n = item_grams(words, starts, sizes.astype(np.int64), hashes, item, place)
    return _sorted(_Grams(hashes[:n], item[:n], place[:n], sizes[item[:n]]))


def _sorted(grams: _Grams) -> _Grams:
    order = np.lexsort((grams.place, grams.item, grams.hash))
    return _Grams(*(column[order] for column in grams))


def _together(one: _Grams, other: _Grams) -> _Grams:
    return _sorted(_Grams(*(np.concatenate(pair) for pair in zip(one, other, strict=True)))) if len(other.hash) else one


def _without_frames(grams: _Grams, lengths: Array) -> tuple[_Grams, Array]:
    """The windows that fewer than `SHARED_BY` long items hold, and the hashes of the others."""
    distinct, group = np.unique(grams.hash, return_inverse=True)
    long = (grams.width == ANCHOR) & (lengths[grams.item] > ANCHOR)
    pairs = np.unique(group[long].astype(np.int64) * (1 << 32) + grams.item[long])
    is_frame = np.bincount((pairs >> 32).astype(np.int64), minlength=len(distinct)) >= SHARED_BY
    kept = ~is_frame[group]
    return _Grams(*(column[kept] for column in grams)), distinct[is_frame]
