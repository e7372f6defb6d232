"""Rows that share a band: runs of equal keys in a sorted array of (key, place), both in one 64-bit number."""

from __future__ import annotations

import numpy as np
from numba import njit

_32 = np.uint64(32)


@njit(nogil=True, cache=True)
def count_runs(packed):
    """(entries, runs) that `runs_of` will give."""
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
    """From sorted (key, place) to (place, bucket) for every key that at least two places have."""
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
    """(later place, earlier place) of each run: every pair of a run of up to `whole`, else each place with the first few.

    Gives (pairs, places in runs that were too large for every pair); writes them when asked to.
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
    """(key, place) of the keys that may occur twice, in no order: two bits a slot are cheaper than sorting them all."""
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
