"""Find rows that share an LSH band: runs of equal keys in a sorted array of (key, place).

A key and a place share one 64-bit number (key in the upper half), because sorting one array is faster than an indirect sort.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_32 = np.uint64(32)


@njit(nogil=True, cache=True)
def count_runs(packed):
    """Return (entries, runs) that `runs_of` will write, to size its output."""
    members, runs, start = 0, 0, 0
    for i in range(1, len(packed) + 1):
        if i == len(packed) or packed[i] >> _32 != packed[start] >> _32:
            if i - start > 1:
                members += i - start
                runs += 1
            start = i
    return members, runs


@njit(nogil=True, cache=True)
def runs_of(packed, first_bucket, out):
    """Convert sorted (key, place) to (place, bucket) for every key that at least two places have.

    Args:
        packed: sorted (key, place), uint64.
        first_bucket: number of the first bucket.
        out: (place, bucket), uint64, as many as `count_runs` returned.
    """
    at, bucket, start = 0, np.uint64(first_bucket), 0
    for i in range(1, len(packed) + 1):
        if i == len(packed) or packed[i] >> _32 != packed[start] >> _32:
            if i - start > 1:
                for j in range(start, i):
                    out[at] = ((packed[j] & np.uint64(0xFFFFFFFF)) << _32) | bucket
                    at += 1
                bucket += np.uint64(1)
            start = i


@njit(nogil=True, cache=True)
def pairs_in_runs(packed, whole, firsts, out, write):
    """Write the candidate pairs of each run: all pairs of a run of at most `whole` places, else each place with the first few.

    Args:
        packed: sorted (key, place), uint64.
        whole: size of the largest run that is paired completely.
        firsts: places that each member of a larger run is paired with.
        out: (later place, earlier place), uint64.
        write: False to count only.

    Returns:
        (pairs, places in runs larger than `whole`).
    """
    found, crowded, start = 0, 0, 0
    for i in range(1, len(packed) + 1):
        if i == len(packed) or packed[i] >> _32 != packed[start] >> _32:
            size = i - start
            crowded += size if size > whole else 0
            for j in range(start + 1, i):
                for k in range(start, j if size <= whole else min(j, start + firsts)):
                    if write:
                        out[found] = ((packed[j] & np.uint64(0xFFFFFFFF)) << _32) | (packed[k] & np.uint64(0xFFFFFFFF))
                    found += 1
            start = i
    return found, crowded


@njit(nogil=True, cache=True)
def mark_repeated(keys, places, shift, once, twice, out):
    """Write (key, place) of the keys that may occur twice, unsorted.

    A Bloom-like filter of two bits per slot: cheaper than sorting the keys of all rows, most of which are unique.

    Args:
        keys: 32-bit key of every row.
        places: rows to look at.
        shift: bits by which a key is shifted to its slot.
        once: bit set, one bit per slot: a key was seen.
        twice: bit set: a second key was seen.
        out: (key, index into `places`), uint64.

    Returns:
        The number of entries written.
    """
    once[:] = np.uint64(0)
    twice[:] = np.uint64(0)
    for place in places:
        slot = keys[place] >> shift
        bit = np.uint64(1) << np.uint64(slot & np.uint32(63))
        word = slot >> np.uint32(6)
        twice[word] |= once[word] & bit
        once[word] |= bit
    found = 0
    for i in range(len(places)):
        key = keys[places[i]]
        slot = key >> shift
        if twice[slot >> np.uint32(6)] >> np.uint64(slot & np.uint32(63)) & np.uint64(1):
            out[found] = (np.uint64(key) << _32) | np.uint64(i)
            found += 1
    return found
