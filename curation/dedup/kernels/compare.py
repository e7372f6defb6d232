"""Compare two rows: the Jaccard similarity of their shingle sets, and the edit distance of short ones. Both stop early.

A row's shingles are put into an open-addressing hash table once; the rows it is compared with are looked up in it. The comparison ends
as soon as the similarity must be below the threshold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from curation.dedup.kernels.read import hash_shingles, read_row, room_for

_FREE, _ONE = np.uint64(0), np.uint64(1)
# Comparisons before the table of stamps (one byte each) is cleared.
_TURNS = 255
_SEVENS, _EVEN, _FOUR = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0001000100010001)


class Tables(NamedTuple):
    """Hash table of a row's shingles, and the working memory of comparisons with it."""

    values: Any
    """Shingle hash in each slot, 0 for a free one."""
    stamps: Any
    """Comparison in which each slot was last seen."""
    added: Any
    """Slots that the current comparison filled with shingles of the other row."""
    turn: Any
    """(1,) number of the current comparison."""


@njit(nogil=True, cache=True)
def mask_for(count, floor):
    """Return the table's size - 1: half of the slots stay empty, a quarter with the foreign shingles that `jaccard` adds."""
    mask, most = 15, max(4.0, 4.0 / (3.0 * floor)) * count
    while mask < most:
        mask = mask * 2 + 1
    return mask


@njit(nogil=True, cache=True)
def slot_of(value, table, mask):
    """Return the slot that holds a value, or the free slot where it belongs.

    Args:
        value: shingle hash.
        table: hash table.
        mask: size of the part in use - 1.
    """
    at = np.int64(value & np.uint64(mask))
    while table[at] != _FREE and table[at] != value:
        at = (at + 1) & mask
    return at


@njit(nogil=True, cache=True)
def fill_set(hashes, count, floor, tables):
    """Fill the table with the set of a row's shingles.

    Args:
        hashes: shingle hashes of the row.
        count: number of shingles, repeated ones included.
        floor: least similarity of interest.
        tables: `Tables` to fill.

    Returns:
        (distinct shingles, mask of the part of the table in use).
    """
    table = tables.values
    mask, distinct = mask_for(count, floor), 0
    tables.turn[0] = 0
    table[: mask + 1] = _FREE
    for i in range(count):
        value = hashes[i] | _ONE  # 63 bits identify a shingle, and none is 0, which marks a free slot
        at = slot_of(value, table, mask)
        distinct += table[at] == _FREE
        table[at] = value
    return distinct, mask


@njit(nogil=True, cache=True)
def jaccard(hashes, count, tables, distinct, mask, floor):
    """Return the Jaccard similarity of the row in the table and another row, -1 as soon as it must be below the floor.

    Args:
        hashes: shingle hashes of the other row.
        count: number of its shingles, repeated ones included.
        tables: `Tables` from `fill_set`.
        distinct: distinct shingles in the table.
        mask: mask of the table.
        floor: least similarity of interest.
    """
    table, stamps, added = tables.values, tables.stamps, tables.added
    tables.turn[0] = tables.turn[0] % _TURNS + 1
    if tables.turn[0] == 1:  # the first comparison of this row, or the count starts over
        stamps[: mask + 1] = 0
    turn, shared, foreign = np.uint8(tables.turn[0]), 0, 0
    # With more foreign shingles neither the rest of this row nor the whole of the other can reach the floor.
    allowed = np.int64(min((count - floor * distinct) / (1.0 + floor), distinct * (1.0 - floor) / floor) + 1e-9)
    for i in range(count):
        value = hashes[i] | _ONE
        at = slot_of(value, table, mask)
        if table[at] != _FREE:
            shared += stamps[at] != turn
        else:
            if foreign == allowed:
                shared = -1
                break
            table[at], added[foreign] = value, at
            foreign += 1
        stamps[at] = turn
    for i in range(foreign):
        table[added[i]] = _FREE
    similarity = shared / (distinct + foreign)
    return similarity if similarity >= floor else -1.0


@njit(nogil=True, cache=True)
def new_tables(longest, floor):
    """Allocate `Tables` for rows of up to `longest` shingles; pages that are not used are never touched."""
    size = mask_for(longest, floor) + 1
    return Tables(np.empty(size, np.uint64), np.empty(size, np.uint8), np.empty(size, np.int32), np.zeros(1, np.int64))


@njit(nogil=True, cache=True)
def may_be_alike(signatures, a, b):
    """Return True if two rows agree in as many signature bytes as rows at the threshold nearly always do.

    Args:
        signatures: (bytes of each bin, eight to a uint64; bytes that must agree).
        a: index of a row.
        b: index of the other.
    """
    words, least = signatures
    sums = _FREE
    for at in range(words.shape[1]):
        # Count equal bytes of two words without a branch ("SWAR"): 1 in each byte that agrees.
        differ = words[a, at] ^ words[b, at]
        sums += (~(((differ & _SEVENS) + _SEVENS) | differ | _SEVENS)) >> np.uint64(7)
    pairs = (sums & _EVEN) + ((sums >> np.uint64(8)) & _EVEN)
    # The product adds the four 16-bit sums up in the highest one.
    return np.int64((pairs * _FOUR) >> np.uint64(48)) >= least


@njit(nogil=True, cache=True)
def compare_pairs(start, stop, pairs, places, out):
    """Write the similarity of each pair of places, -1 below the floor.

    Args:
        start: first pair.
        stop: end of the range.
        pairs: (n, 2) places, sorted, so that a row's table is built once.
        places: `near.Places`.
        out: similarity of each pair; written.
    """
    which, counts, rows, floor = places.which, places.counts, places.rows, places.floor
    longest, most = 1, 1
    for i in range(start, stop):
        for side in range(2):
            longest = max(longest, counts[pairs[i, side]])
            most = max(most, rows.sizes[which[pairs[i, side]]])
    codes, hashes = np.empty(room_for(most), np.uint32), np.empty(room_for(most), np.uint64)
    tables = new_tables(longest, floor)
    distinct, mask, last = 0, 0, -1
    for i in range(start, stop):
        a, b = pairs[i, 0], pairs[i, 1]
        if not may_be_alike(places.signatures, which[a], which[b]):
            out[i] = -1.0
            continue
        if a != last:
            last = a
            n = read_row(rows, which[a], codes)
            distinct, mask = fill_set(hashes, hash_shingles(codes, n, places.shingle, hashes), floor, tables)
        if counts[b] < floor * distinct:
            out[i] = -1.0
            continue
        n = read_row(rows, which[b], codes)
        count = hash_shingles(codes, n, places.shingle, hashes)
        out[i] = jaccard(hashes, count, tables, distinct, mask, floor)


@njit(nogil=True, cache=True)
def edits_within(a, n, b, m, limit):
    """Return the Levenshtein distance of two short texts, -1 if it exceeds the limit.

    Args:
        a: code points of one text.
        n: their number.
        b: code points of the other.
        m: their number.
        limit: largest distance of interest.
    """
    if abs(n - m) > limit:
        return -1
    # Only a band of 2 * limit + 1 cells around the diagonal of the usual table can hold distances within the limit.
    far = limit + 1
    row = np.full(m + 1, far, np.int64)
    for j in range(min(m, limit) + 1):
        row[j] = j
    for i in range(1, n + 1):
        low, high = max(1, i - limit), min(m, i + limit)
        corner = row[low - 1]
        row[low - 1] = i if low == 1 and i <= limit else far
        least = row[low - 1]
        for j in range(low, high + 1):
            above = row[j]
            cost = min(corner + (a[i - 1] != b[j - 1]), above + 1, row[j - 1] + 1)
            corner = above
            row[j] = min(cost, far)
            least = min(least, row[j])
        if high < m:
            row[high + 1] = far
        if least > limit:
            return -1
    return row[m] if row[m] <= limit else -1
