"""Propose, for every row, the few protected items it could paraphrase; the time is linear in the text.

Items are indexed by the parts of their words ("hasClose" has two), weighted by TF-IDF. A part that many items hold proposes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from curation.dedup.arrow_text import Array, Rows, spread
from curation.leakage.ngrams import grouped, readable_rows, word_table

# A word part that more than this share of the items holds (and more than `_AT_LEAST` items) proposes none of them.
_COMMON = 0.1
_AT_LEAST = 50
# Weight of a part that no item holds, relative to that of the rarest known part: it does not identify an item.
_UNKNOWN = 0.3


class Candidates(NamedTuple):
    """The nearest items of each row, best first; all arrays are (rows, candidates)."""

    item: Array
    """-1 for none."""
    score: Array
    """Cosine."""
    begin: Array
    """First byte of the window of the row that is near the item."""
    end: Array


class PartIndex(NamedTuple):
    """Items by the parts of their words, as `kernels.shortlist` reads it."""

    slots: Array
    """Hash table: the hash of a part in each slot, and its group in `groups`."""
    groups: Array
    rarity: Array
    """Weight of each group."""
    unknown: float
    """Weight of a part that is in no group."""
    holders: Array
    """Items of group g are items[holders[g]:holders[g + 1]], with their weights."""
    items: Array
    weights: Array
    n_items: int


class Shortlist:
    """An index of items by the parts of their words."""

    def __init__(self, items: Sequence[str]) -> None:
        parts, starts = _parts_of(readable_rows(items))
        owner = np.repeat(np.arange(len(items)), np.diff(starts))
        group, n, (slots, table) = grouped(parts)
        pairs, times = np.unique(group.astype(np.int64) * (1 << 32) + owner, return_counts=True)
        groups, owners = pairs >> 32, pairs & 0xFFFFFFFF
        held_by = np.bincount(groups, minlength=n)
        rarest = np.log((1 + len(items)) / 2) + 1
        rarity = np.log((1 + len(items)) / (1 + held_by)) + 1
        values = (1 + np.log(times)) * rarity[groups]
        norms = np.sqrt(np.bincount(owners, values**2, minlength=len(items)))
        is_specific = held_by[groups] <= max(_AT_LEAST, _COMMON * len(items))
        holders = np.append(0, np.cumsum(np.bincount(groups[is_specific], minlength=n))).astype(np.int64)
        weights = (values / norms[owners])[is_specific].astype(np.float32)
        own = owners[is_specific].astype(np.int32)
        self.index = PartIndex(slots, table, rarity, float(_UNKNOWN * rarest), holders, own, weights, len(items))

    def find(self, rows: Rows, *, most: int) -> Candidates:
        """Return the `most` nearest items of each row."""
        from curation.leakage.kernels.shortlist import shortlist_into

        shape = (len(rows), most)
        found = Candidates(np.full(shape, -1, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
        spread(shortlist_into, len(rows), rows.raw, word_table(), self.index, found)
        return found


def _parts_of(rows: Rows) -> tuple[Array, Array]:
    """Return the hashes of the word parts of all rows, one row after another, and the offset of each row."""
    from curation.leakage.kernels.words import parts_into

    at = np.append(0, np.cumsum(rows.sizes + 1)).astype(np.int64)
    out, counts = np.empty(int(at[-1]), np.uint64), np.zeros(len(rows), np.int64)
    spread(parts_into, len(rows), rows.raw, word_table(), at, out, counts)
    starts = np.append(0, np.cumsum(counts)).astype(np.int64)
    return out[np.repeat(at[:-1] - starts[:-1], counts) + np.arange(starts[-1])], starts
