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
    """Write each text's buckets, sorted and distinct, with their counts at its place; `filled` says how many."""
    most = row_room(sizes, start, stop)
    codes, padded, raw = np.empty(most, np.uint32), np.empty(most, np.uint32), np.empty(3 * most + 6, np.int32)
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
        grams = np.sort(raw[:found])
        kept = at[row]
        for i in range(found):
            if i and grams[i] == grams[i - 1]:
                counts[kept - 1] += 1
            else:
                buckets[kept], counts[kept] = grams[i], 1
                kept += 1
        filled[row] = kept - at[row]


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
def cosines_into(start, stop, at, buckets, values, item_at, item_buckets, item_values, candidates, weights, out):
    """Cosine of each text with its candidate items (-1 is none); item values are weighted and of unit length already."""
    scratch = np.zeros(BUCKETS, np.float32)
    for row in range(start, stop):
        norm = np.float64(0.0)
        for i in range(at[row], at[row + 1]):
            value = values[i] * weights[buckets[i]]
            scratch[buckets[i]] = value
            norm += value * value
        for k in range(candidates.shape[1]):
            item = candidates[row, k]
            dot = np.float64(0.0)
            if item >= 0 and norm > 0:
                for i in range(item_at[item], item_at[item + 1]):
                    dot += item_values[i] * scratch[item_buckets[i]]
                dot /= np.sqrt(norm)
            out[row, k] = dot
        for i in range(at[row], at[row + 1]):
            scratch[buckets[i]] = 0.0
