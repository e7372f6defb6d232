"""Bags of character n-grams inside words, hashed into buckets, and the cosines of texts with their candidates."""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.dedup.kernels.read import PRIME, mix, read_row
from curation.leakage.kernels.words import row_room

BUCKETS = 1 << 20
_SHORTEST, _LONGEST = 3, 5


@njit(nogil=True, cache=True)
def bags_into(start, stop, addresses, sizes, is_normal, table, sequences, at, buckets, counts, filled):
    """Write each text's distinct buckets with their counts at its place; `filled` says how many."""
    most = row_room(sizes, start, stop)
    codes, padded, raw = np.empty(most, np.uint32), np.empty(most, np.uint32), np.empty(3 * most + 6, np.int32)
    places = np.full(_room_for(3 * most + 6), -1, np.int64)
    for row in range(start, stop):
        n = max(read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes), 0)
        found, begin = 0, 0
        for i in range(n + 1):
            if i < n and codes[i] != 32:
                continue
            if i > begin:
                padded[0], padded[i - begin + 1] = 32, 32
                padded[1 : i - begin + 1] = codes[begin:i]
                found += _grams_of_word(padded, i - begin + 2, raw[found:])
            begin = i + 1
        filled[row] = _count(raw, found, places, buckets[at[row] :], counts[at[row] :])


@njit(nogil=True, cache=True)
def _room_for(n):
    size = 64
    while size < 2 * n:
        size *= 2
    return size


@njit(nogil=True, cache=True)
def _count(raw, n, places, buckets, counts):
    """Distinct numbers and how often each is there; `places` is a table of -1 and left so."""
    mask, kept = _room_for(n) - 1, 0
    for i in range(n):
        slot = raw[i] & mask
        while places[slot] >= 0 and buckets[places[slot]] != raw[i]:
            slot = (slot + 1) & mask
        if places[slot] < 0:
            places[slot], buckets[kept], counts[kept] = kept, raw[i], 0
            kept += 1
        counts[places[slot]] += 1
    places[: mask + 1] = -1
    return kept


@njit(nogil=True, cache=True)
def _grams_of_word(word, n, out):
    found = 0
    for width in range(_SHORTEST, _LONGEST + 1):
        for i in range(max(n - width + 1, 1)):
            h = np.uint64(width)
            for k in range(i, min(i + width, n)):
                h = (h ^ np.uint64(word[k])) * PRIME
            out[found] = np.int32(mix(h) & np.uint64(BUCKETS - 1))
            found += 1
        if n <= width:
            break  # a word shorter than the window is one gram
    return found


@njit(nogil=True, cache=True)
def cosines_into(start, stop, which, at, numbers, values, item_at, item_numbers, item_values, candidates, weights, unknown, cosine,
                 share):  # fmt: skip
    """Cosine of some texts with their candidate items (-1 is none), and how many of the numbers of the poorer one both have.

    Item values are weighted and of unit length already.
    """
    scratch = np.zeros(len(weights), np.float32)
    for i in range(start, stop):
        begin, end = at[which[i]], at[which[i] + 1]
        norm = np.float64(0.0)
        for place in range(begin, end):
            value = values[place] * (weights[numbers[place]] or unknown)
            scratch[numbers[place]] = value
            norm += value * value
        for k in range(candidates.shape[1] if norm > 0 else 0):
            item = candidates[i, k]
            if item < 0:
                continue
            dot, both = np.float64(0.0), 0
            for place in range(item_at[item], item_at[item + 1]):
                held = scratch[item_numbers[place]]
                dot += item_values[place] * held
                both += held > 0
            cosine[i, k] = dot / np.sqrt(norm)
            share[i, k] = both / max(1, min(end - begin, item_at[item + 1] - item_at[item]))
        for place in range(begin, end):
            scratch[numbers[place]] = 0.0
