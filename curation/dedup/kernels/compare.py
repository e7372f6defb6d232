"""Compare two rows: the Jaccard similarity of their shingle sets, and the edit distance of short ones. Both stop early.

A row's shingles are put into a hash table once; the rows it is compared with are looked up in it. Positions that share a slot are linked,
as in the compressors of the LZ77 family, and so is what follows from a match: the texts are compared from there on, not their shingles. The
comparison ends as soon as the similarity must be below the threshold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from curation.dedup.kernels.read import hash_shingles, prefetch, read_row, room_for

# Score of two rows whose signatures differ too much for a comparison.
UNLIKE = -2.0
# Code points compared together, and bytes of a cache line.
_STEP, _LINE = 16, 64
# Entries of a band by which signatures are loaded ahead of the comparisons.
_AHEAD = 16
_32, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
# Standard deviations below the floor at which the signatures of two long rows are rejected.
_DEVIATIONS = 4.5
_SEVENS, _EVEN, _FOUR = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0001000100010001)


class Scratch(NamedTuple):
    """Working memory of comparisons: a row whose shingles are in a hash table, and the row it is compared with."""

    own: Any
    """Code points of the row in the table."""
    other: Any
    """Code points of the other row."""
    foreign: Any
    """Shingle hashes of the other row."""
    hashes: Any
    """Shingle hash at each position of the row in the table, then those that a comparison adds."""
    latest: Any
    """Last position in each slot of the table, -1 for a free slot."""
    before: Any
    """Position before each one in the same slot, -1 for the first."""
    repeats: Any
    """(3, n) stretches that occurred before: where they begin, where they began before, and how many shingles they have."""
    covered: Any
    """1 for each position whose shingle the other row has."""
    state: Any
    """(place in the table, its shingles, its distinct shingles, mask of the table, stretches in `repeats`)."""


@njit(nogil=True, cache=True)
def new_scratch(most):
    """Allocate scratch for rows of up to `most` bytes; pages that are not used are never touched."""
    room, slots = room_for(most), mask_for(room_for(most)) + 1
    codes, hashes = np.empty((2, room), np.uint32), np.empty(3 * room, np.uint64)
    latest, before, repeats = np.empty(slots, np.int32), np.empty(2 * room, np.int32), np.empty((3, room), np.int32)
    state = np.array([-1, 0, 0, 0, 0])
    return Scratch(codes[0], codes[1], hashes[:room], hashes[room:], latest, before, repeats, np.empty(room, np.uint8), state)


@njit(nogil=True, cache=True)
def mask_for(count):
    """Return the size of a table for `count` shingles - 1: at least half of the slots stay empty."""
    mask = 15
    while mask < 2 * count:
        mask = mask * 2 + 1
    return mask


@njit(nogil=True, cache=True)
def fill_table(count, width, scratch):
    """Put the shingles of `scratch.own` into the table, each at its first position.

    Args:
        count: shingles of the row, repeated ones included; their hashes are in `scratch.hashes`.
        width: code points in a shingle.
        scratch: `Scratch` to fill.
    """
    own, _, _, hashes, latest, before, repeats, _, state = scratch
    mask, distinct, i, n = mask_for(count), count, 0, 0
    low = np.uint64(mask)
    latest[: mask + 1] = -1
    while i < count:
        at = last = latest[hashes[i] & low]
        while at >= 0 and hashes[at] != hashes[i]:
            at = before[at]
        if at < 0:
            before[i], latest[hashes[i] & low] = last, i
            i += 1
            continue
        run = 1 + equal_run(own, at + width, own, i + width, count - i - 1)
        repeats[0, n], repeats[1, n], repeats[2, n] = i, at, run
        distinct -= run
        i += run
        n += 1
    state[1], state[2], state[3], state[4] = count, distinct, mask, n


@njit(nogil=True, cache=True)
def jaccard(count, width, scratch, floor):
    """Return the Jaccard similarity of the row in the table and the other row, -1 as soon as it must be below the floor.

    Where a shingle is found, the code points behind it are compared with those behind its position in the table: as far as they are
    equal, no further shingle is looked up.

    Args:
        count: shingles of the other row, repeated ones included; their hashes are in `scratch.foreign`.
        width: code points in a shingle.
        scratch: `Scratch` with both rows.
        floor: least similarity of interest.
    """
    own, other, theirs, hashes, latest, before, repeats, covered, state = scratch
    size, distinct, low = state[1], state[2], np.uint64(state[3])
    covered[:size] = np.uint8(0)
    # With more foreign shingles neither the rest of this row nor the whole of the other can reach the floor.
    allowed = np.int64(min((count - floor * distinct) / (1.0 + floor), distinct * (1.0 - floor) / floor) + 1e-9)
    i, end, is_far = 0, size, False
    while i < count:
        value = theirs[i]
        slot = value & low
        at = latest[slot]
        while at >= 0 and hashes[at] != value:
            at = before[at]
        if at < 0:
            if end - size == allowed:
                is_far = True
                break
            hashes[end], before[end], latest[slot] = value, latest[slot], end
            end += 1
            i += 1
        elif at >= size:  # a foreign shingle again
            i += 1
        else:
            run = 1 + equal_run(own, at + width, other, i + width, min(size - at, count - i) - 1)
            for j in range(at, at + run):
                covered[np.uint64(j)] = np.uint8(1)
            i += run
    foreign = end - size
    for at in range(end - 1, size - 1, -1):
        latest[hashes[at] & low] = before[at]
    if is_far:
        return -1.0
    # A shingle counts at its first position. Backwards, so that a stretch that overlaps itself is carried to its beginning.
    for j in range(state[4] - 1, -1, -1):
        i, at = repeats[0, j], repeats[1, j]
        for k in range(repeats[2, j] - 1, -1, -1):
            covered[np.uint64(at + k)] |= covered[np.uint64(i + k)]
            covered[np.uint64(i + k)] = np.uint8(0)
    shared = 0
    for j in range(size):
        shared += covered[j]
    similarity = shared / (distinct + foreign)
    return similarity if similarity >= floor else -1.0


@njit(nogil=True, cache=True)
def equal_run(a, at, b, to, most):
    """Return how many code points are equal from a[at] and b[to] on.

    Args:
        a: code points.
        at: index into `a`.
        b: code points.
        to: index into `b`.
        most: code points to compare.
    """
    n = 0
    # Unsigned indices, which are not checked for being negative, compile to vector instructions.
    while n + _STEP <= most:
        differ = np.uint32(0)
        for i in range(_STEP):
            differ |= a[np.uint64(at + n + i)] ^ b[np.uint64(to + n + i)]
        if differ:
            break
        n += _STEP
    while n < most and a[np.uint64(at + n)] == b[np.uint64(to + n)]:
        n += 1
    return n


@njit(nogil=True, cache=True)
def may_be_alike(signatures, a, b):
    """Return True if two rows agree in as many signature bytes as rows at the threshold nearly always do.

    Args:
        signatures: (bytes of each bin, eight to a uint64; bytes that must agree).
        a: index of a row.
        b: index of the other.
    """
    words, least = signatures
    sums = np.uint64(0)
    for at in range(words.shape[1]):
        # Count equal bytes of two words without a branch ("SWAR"): 1 in each byte that agrees.
        differ = words[a, at] ^ words[b, at]
        sums += (~(((differ & _SEVENS) + _SEVENS) | differ | _SEVENS)) >> np.uint64(7)
    pairs = (sums & _EVEN) + ((sums >> np.uint64(8)) & _EVEN)
    # The product adds the four 16-bit sums up in the highest one.
    return np.int64((pairs * _FOUR) >> np.uint64(48)) >= least


@njit(nogil=True, cache=True)
def may_be_alike_long(a, b, floor):
    """Return True unless the signatures of two long rows show that they are less similar than the floor.

    Of the bins that are not empty in both, the share of equal ones estimates the similarity (one-permutation hashing: Li, Owen and
    Zhang, 2012). A pair at the floor is rejected about three times in a million.

    Args:
        a: bytes of one row.
        b: bytes of the other.
        floor: least similarity of interest.
    """
    used, equal = 0, 0
    for i in range(len(a)):
        used += (a[i] | b[i]) != 0
        equal += (a[i] == b[i]) & (a[i] != 0)
    return equal >= floor * used - _DEVIATIONS * np.sqrt(floor * (1 - floor) * used)


@njit(nogil=True, cache=True)
def load_signature(place, places):
    """Load the signature of a place into the cache. Among a million rows each is some hundred nanoseconds away.

    Args:
        place: a place that `compare_now` is about to read.
        places: `near.Places`.
    """
    words = places.signatures[0]
    size = 8 * words.shape[1]
    address = words.ctypes.data + places.which[place] * size
    for at in range(0, size, _LINE):
        prefetch(address + at)


@njit(nogil=True, cache=True)
def compare_now(place, other, places, scratch):
    """Return the similarity of two places, -1 below the floor and `UNLIKE` if their signatures already rule it out.

    Args:
        place: a place; its shingles stay in the table until another first place is passed.
        other: the place to compare it with.
        places: `near.Places`.
        scratch: `Scratch` with room for both.
    """
    # Nothing else is taken from `places` before: every access to an array of a NamedTuple changes a reference count.
    if not may_be_alike(places.signatures, places.which[place], places.which[other]):
        return UNLIKE
    return compare_texts(place, other, places, scratch)


@njit(nogil=True, cache=True)
def compare_texts(place, other, places, scratch):
    """Return the similarity of two places, -1 below the floor.

    Args:
        place: as for `compare_now`.
        other: the place to compare it with.
        places: `near.Places`.
        scratch: `Scratch` with room for both.
    """
    which, counts, rows, shingle, floor = places.which, places.counts, places.rows, places.shingle, places.floor
    if len(places.long.at):
        one, two = places.long.at[which[place]], places.long.at[which[other]]
        if one >= 0 and two >= 0 and not may_be_alike_long(places.long.bins[one], places.long.bins[two], floor):
            return -1.0
    state = scratch.state
    if state[0] != place:
        n = read_row(rows, which[place], scratch.own)
        fill_table(hash_shingles(scratch.own, n, shingle, scratch.hashes), shingle, scratch)
        state[0] = place
    # The similarity is at most the size of the smaller set over that of the larger.
    if counts[other] < floor * state[2]:
        return -1.0
    n = read_row(rows, which[other], scratch.other)
    return jaccard(hash_shingles(scratch.other, n, shingle, scratch.foreign), shingle, scratch, floor)


@njit(nogil=True, cache=True)
def leave_close(packed, whole, places):
    """Move those places of each key to the front that another place with the key may resemble, by their signatures.

    Args:
        packed: sorted (key, place), uint64; changed.
        whole: places of one key up to which they are looked at; more stay as they are.
        places: `near.Places`.

    Returns:
        The number of entries that are left.
    """
    signatures, which = places.signatures, places.which
    is_close, left, start = np.zeros(whole, np.bool_), 0, 0
    for i in range(1, len(packed) + 1):
        if i + _AHEAD < len(packed):
            load_signature(np.int64(packed[i + _AHEAD] & _LOW), places)
        if i < len(packed) and packed[i] >> _32 == packed[start] >> _32:
            continue
        size = i - start
        is_close[:] = False
        for j in range(1, size if size <= whole else 0):
            for k in range(j):
                # Of places that are all alike each is compared with one other only.
                if not (is_close[j] and is_close[k]) and may_be_alike(
                    signatures, which[packed[start + j] & _LOW], which[packed[start + k] & _LOW]
                ):
                    is_close[j] = is_close[k] = True
        for j in range(size):
            if size > whole or is_close[j]:
                packed[left] = packed[start + j]
                left += 1
        start = i
    return left


@njit(nogil=True, cache=True)
def close_pairs(packed, whole, firsts, places, out, write):
    """Write the pairs of the places that share a key, unless their signatures differ too much for a comparison.

    Args:
        packed: sorted (key, place), uint64.
        whole: places of one key up to which all pairs are written.
        firsts: places that each place of a larger group is paired with.
        places: `near.Places`.
        out: (later place, earlier place), uint64; written.
        write: False to count only, without a look at the signatures.

    Returns:
        (pairs with a common key, places in groups larger than `whole`, pairs written).
    """
    signatures, which = places.signatures, places.which
    found, crowded, written, start = 0, 0, 0, 0
    for i in range(1, len(packed) + 1):
        if write and i + _AHEAD < len(packed):
            load_signature(np.int64(packed[i + _AHEAD] & _LOW), places)
        if i < len(packed) and packed[i] >> _32 == packed[start] >> _32:
            continue
        size = i - start
        crowded += size if size > whole else 0
        if not write:
            few = min(size, firsts)
            found += size * (size - 1) // 2 if size <= whole else few * (few - 1) // 2 + (size - few) * few
        for j in range(start + 1, i if write else start):
            later = packed[j] & _LOW
            for k in range(start, j if size <= whole else min(j, start + firsts)):
                earlier = packed[k] & _LOW
                if may_be_alike(signatures, which[later], which[earlier]):
                    out[written] = later << _32 | earlier
                    written += 1
        start = i
    return found, crowded, written


@njit(nogil=True, cache=True)
def compare_pairs(start, stop, pairs, places, out):
    """Write the similarity of each pair of places, below 0 where it is less than the floor.

    Args:
        start: first pair.
        stop: end of the range.
        pairs: (n, 2) places, sorted, so that a row's table is built once.
        places: `near.Places`.
        out: similarity of each pair; written.
    """
    most = 1
    for i in range(start, stop):
        for side in range(2):
            most = max(most, places.rows.sizes[places.which[pairs[i, side]]])
    scratch = new_scratch(most)
    for i in range(start, stop):
        out[i] = compare_now(pairs[i, 0], pairs[i, 1], places, scratch)


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
