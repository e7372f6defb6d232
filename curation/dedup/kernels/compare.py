"""How alike two rows are: the Jaccard similarity of their shingle sets, and the edits between short ones. Both give up early."""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.dedup.kernels.read import hash_shingles, read_row

_FREE, _ONE = np.uint64(0), np.uint64(1)
_TURNS = 255
_SEVENS, _EVEN, _FOUR = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0001000100010001)


@njit(nogil=True, cache=True)
def mask_for(count, floor):
    """One less than the slots that keep a set of this size half empty, and with the strangers that `jaccard` bears a quarter."""
    mask, most = 15, max(4.0, 4.0 / (3.0 * floor)) * count
    while mask < most:
        mask = mask * 2 + 1
    return mask


@njit(nogil=True, cache=True)
def place_of(value, table, mask):
    """The slot that holds the value, or the free one (0) where it belongs."""
    at = np.int64(value & np.uint64(mask))
    while table[at] != _FREE and table[at] != value:
        at = (at + 1) & mask
    return at


@njit(nogil=True, cache=True)
def fill_set(hashes, count, floor, tables):
    """Make the first table the set of a row's shingles; gives (distinct ones, mask of the part in use)."""
    table, _, _, turns = tables
    mask, distinct, turns[0] = mask_for(count, floor), 0, 0
    table[: mask + 1] = _FREE
    for i in range(count):
        value = hashes[i] | _ONE  # 63 bits tell shingles apart, and none is 0
        at = place_of(value, table, mask)
        distinct += table[at] == _FREE
        table[at] = value
    return distinct, mask


@njit(nogil=True, cache=True)
def jaccard(hashes, count, tables, distinct, mask, floor):
    """Shared over all of the set in the tables and a second row's shingles; -1 as soon as it must lie under the floor."""
    table, stamps, strangers, turns = tables
    turns[0] = turns[0] % _TURNS + 1
    if turns[0] == 1:  # the first turn of this set, or of a new count
        stamps[: mask + 1] = 0
    turn, shared, strange = np.uint8(turns[0]), 0, 0
    # With more strangers the rest cannot make up for them: neither what is left of this row nor the whole of the other.
    allowed = np.int64(min((count - floor * distinct) / (1.0 + floor), distinct * (1.0 - floor) / floor) + 1e-9)
    for i in range(count):
        value = hashes[i] | _ONE
        at = place_of(value, table, mask)
        if table[at] != _FREE:
            shared += stamps[at] != turn
        else:
            if strange == allowed:
                shared = -1
                break
            table[at], strangers[strange] = value, at
            strange += 1
        stamps[at] = turn
    for i in range(strange):
        table[strangers[i]] = _FREE
    similarity = shared / (distinct + strange)
    return similarity if similarity >= floor else -1.0


@njit(nogil=True, cache=True)
def new_tables(longest, floor):
    """(set of a row, in which turn each slot was seen, slots of strangers, turn) with room for the longest row; unused memory is
    never touched.
    """
    size = mask_for(longest, floor) + 1
    return np.empty(size, np.uint64), np.empty(size, np.uint8), np.empty(size, np.int32), np.zeros(1, np.int64)


@njit(nogil=True, cache=True)
def may_be_alike(signatures, a, b):
    """Whether two rows agree in as many bytes as rows at the threshold nearly always do; rows of no bytes may be anything."""
    words, least = signatures
    sums = _FREE
    for at in range(words.shape[1]):
        differ = words[a, at] ^ words[b, at]
        sums += (~(((differ & _SEVENS) + _SEVENS) | differ | _SEVENS)) >> np.uint64(7)  # 1 in each byte that agrees
    pairs = (sums & _EVEN) + ((sums >> np.uint64(8)) & _EVEN)
    return np.int64((pairs * _FOUR) >> np.uint64(48)) >= least


@njit(nogil=True, cache=True)
def compare_pairs(start, stop, pairs, which, counts, rows, width, floor, signatures, out):
    """The similarity of each pair of places (sorted, so that a row's set is built once), or -1 under the floor."""
    addresses, sizes, is_normal, table, sequences = rows
    longest, most = 1, 1
    for i in range(start, stop):
        for side in range(2):
            longest = max(longest, counts[pairs[i, side]])
            most = max(most, sizes[which[pairs[i, side]]])
    codes, hashes = np.empty(most + most // 2 + 16, np.uint32), np.empty(most + most // 2 + 16, np.uint64)
    tables = new_tables(longest, floor)
    distinct, mask, last = 0, 0, -1
    for i in range(start, stop):
        a, b = pairs[i, 0], pairs[i, 1]
        if not may_be_alike(signatures, which[a], which[b]):
            out[i] = -1.0
            continue
        if a != last:
            row, last = which[a], a
            n = read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes)
            distinct, mask = fill_set(hashes, hash_shingles(codes, n, width, hashes), floor, tables)
        if counts[b] < floor * distinct:
            out[i] = -1.0
            continue
        row = which[b]
        n = read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes)
        count = hash_shingles(codes, n, width, hashes)
        out[i] = jaccard(hashes, count, tables, distinct, mask, floor)


@njit(nogil=True, cache=True)
def edits_within(a, n, b, m, limit):
    """The Levenshtein distance of two short texts, or -1 when it is over the limit: a band of the usual table."""
    if abs(n - m) > limit:
        return -1
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
