"""How alike two rows are: the Jaccard similarity of their shingle sets, and the edits between short ones. Both give up early."""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.dedup.kernels.read import hash_shingles, read_row


@njit(nogil=True, cache=True)
def place_of(value, table, stamps, turn, mask):
    """The slot that holds the value this turn, or the free one where it belongs."""
    at = np.int64(value & np.uint64(mask))
    while stamps[at] == turn and table[at] != value:
        at = (at + 1) & mask
    return at


@njit(nogil=True, cache=True)
def fill_set(hashes, count, table, stamps, turn):
    """Put the shingles of a row into the table as this turn's set; gives (distinct ones, mask of the part in use)."""
    mask, distinct = 15, 0
    while mask < 2 * count:
        mask = mask * 2 + 1
    for i in range(count):
        at = place_of(hashes[i], table, stamps, turn, mask)
        if stamps[at] != turn:
            stamps[at], table[at] = turn, hashes[i]
            distinct += 1
    return distinct, mask


@njit(nogil=True, cache=True)
def jaccard(hashes, count, own, distinct, mask, turn, other, other_turn, floor):
    """Shared over all of this turn's own set and a second row's shingles; -1 as soon as it must lie under the floor."""
    table, stamps, seen = own
    other_table, other_stamps = other
    allowed = distinct * (1.0 - floor) / floor + 1e-9  # more strangers than this and the rest cannot make up for them
    other_mask = 15
    while other_mask < 2 * count:
        other_mask = other_mask * 2 + 1
    shared, strange = 0, 0
    for i in range(count):
        at = place_of(hashes[i], table, stamps, turn, mask)
        if stamps[at] == turn:
            if seen[at] != other_turn:
                seen[at] = other_turn
                shared += 1
            continue
        at = place_of(hashes[i], other_table, other_stamps, other_turn, other_mask)
        if other_stamps[at] != other_turn:
            other_stamps[at], other_table[at] = other_turn, hashes[i]
            strange += 1
            if strange > allowed:
                return -1.0
    similarity = shared / (distinct + strange)
    return similarity if similarity >= floor else -1.0


@njit(nogil=True, cache=True)
def new_set(longest):
    """(table, stamps, seen) with room for the set of the longest row; memory that no row needs is never touched."""
    size = 16
    while size < 2 * longest + 2:
        size *= 2
    return np.empty(size, np.uint64), np.zeros(size, np.int64), np.zeros(size, np.int64)


@njit(nogil=True, cache=True)
def compare_pairs(start, stop, pairs, which, counts, addresses, sizes, is_normal, table, sequences, width, floor, out):
    """The similarity of each pair of places (sorted, so that a row's set is built once), or -1 under the floor."""
    longest, most = 1, 1
    for i in range(start, stop):
        for side in range(2):
            longest = max(longest, counts[pairs[i, side]])
            most = max(most, sizes[which[pairs[i, side]]])
    codes, hashes = np.empty(most + most // 2 + 16, np.uint32), np.empty(most + most // 2 + 16, np.uint64)
    own, (other_table, other_stamps, _) = new_set(longest), new_set(longest)
    turn, other_turn, distinct, mask, last = 0, 0, 0, 0, -1
    for i in range(start, stop):
        a, b = pairs[i, 0], pairs[i, 1]
        if a != last:
            row, last, turn = which[a], a, turn + 1
            n = read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes)
            distinct, mask = fill_set(hashes, hash_shingles(codes, n, width, hashes), own[0], own[1], turn)
        other_turn += 1
        if counts[b] < floor * distinct:
            out[i] = -1.0
            continue
        row = which[b]
        n = read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes)
        count = hash_shingles(codes, n, width, hashes)
        out[i] = jaccard(hashes, count, own, distinct, mask, turn, (other_table, other_stamps), other_turn, floor)


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
