"""Propose, for every row, the few protected items that it could be a rewording of: cheap, and linear in the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from curation.dedup.arrow_text import Rows, spread
from curation.leakage.ngrams import grouped, readable_rows, word_table

Array = np.ndarray[Any, np.dtype[Any]]

_COMMON = 0.1
"""A part of a word that more of the items hold (and more than `_AT_LEAST`) points to none of them."""
_AT_LEAST = 50
_UNKNOWN = 0.3
"""Weight, beside that of the rarest known one, of a part that no item holds: it says little of which item is meant."""


class Candidates(NamedTuple):
    """For each row its nearest items, best first: the item (-1 for none), the cosine, and the bytes of the window that is near."""

    item: Array
    score: Array
    begin: Array
    end: Array


class Shortlist:
    """Items by the parts of their words."""

    def __init__(self, items: Sequence[str]) -> None:
        parts, starts = _parts_of(readable_rows(items))
        owner = np.repeat(np.arange(len(items)), np.diff(starts))
        group, n, (self.slots, self.groups) = grouped(parts)
        pairs, times = np.unique(group.astype(np.int64) * (1 << 32) + owner, return_counts=True)
        groups, owners = pairs >> 32, pairs & 0xFFFFFFFF
        held_by = np.bincount(groups, minlength=n)
        rarest = np.log((1 + len(items)) / 2) + 1
        self.rarity = np.log((1 + len(items)) / (1 + held_by)) + 1
        self.unknown = _UNKNOWN * rarest
        values = (1 + np.log(times)) * self.rarity[groups]
        norms = np.sqrt(np.bincount(owners, values**2, minlength=len(items)))
        telling = held_by[groups] <= max(_AT_LEAST, _COMMON * len(items))
        self.holders = np.append(0, np.cumsum(np.bincount(groups[telling], minlength=n))).astype(np.int64)
        self.items, self.weights = owners[telling].astype(np.int32), (values / norms[owners])[telling].astype(np.float32)
        self.n_items = len(items)

    def find(self, rows: Rows, *, most: int) -> Candidates:
        """The `most` nearest items of each row."""
        from curation.leakage.kernels.shortlist import shortlist_into

        shape = (len(rows), most)
        found = Candidates(np.full(shape, -1, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
        addresses, sizes, is_normal, table, _ = rows.arguments
        spread(
            shortlist_into, len(rows), addresses, sizes, is_normal, table, word_table(), self.slots, self.groups, self.rarity, self.unknown,
            self.holders, self.items, self.weights, self.n_items, *found,
        )  # fmt: skip
        return found


def _parts_of(rows: Rows) -> tuple[Array, Array]:
    from curation.leakage.kernels.words import parts_into

    at = np.append(0, np.cumsum(rows.sizes + 1)).astype(np.int64)
    out, counts = np.empty(int(at[-1]), np.uint64), np.zeros(len(rows), np.int64)
    addresses, sizes, is_normal, table, _ = rows.arguments
    spread(parts_into, len(rows), addresses, sizes, is_normal, table, word_table(), at, out, counts)
    starts = np.append(0, np.cumsum(counts)).astype(np.int64)
    return out[np.repeat(at[:-1] - starts[:-1], counts) + np.arange(starts[-1])], starts
