"""Bags of character n-grams, hashed into buckets, and the cosines of texts with their candidate items.

The n-grams are those of scikit-learn's `char_wb` analyzer (inside words, padded with a space), of 3 to 5 code points.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.dedup.kernels.read import PRIME, mix, read_row, room_for
from curation.leakage.kernels.words import longest_in

# Hash buckets: with a million, two n-grams of a suite rarely share one, and the weights take 8 MB.
BUCKETS = 1 << 20
_SHORTEST, _LONGEST = 3, 5


@njit(nogil=True, cache=True)
def bags_into(start, stop, rows, at, buckets, counts, filled):
    """Write the distinct buckets of each text with their counts.

    Args:
        start: first row.
        stop: end of the range.
        rows: `RowBytes`.
        at: offset of each row in `buckets` and `counts`.
        buckets: bucket numbers; written.
        counts: occurrences of each; written.
        filled: distinct buckets of each row; written.
    """
    most = room_for(longest_in(rows.sizes, start, stop))
    codes, padded, raw = np.empty(most, np.uint32), np.empty(most, np.uint32), np.empty(3 * most + 6, np.int32)
    places = np.full(_room_for(3 * most + 6), -1, np.int64)
    for row in range(start, stop):
        n = max(read_row(rows, row, codes), 0)
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
    """Count the distinct numbers of raw[:n]; `places` is a hash table filled with -1, and is restored."""
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
            break  # a word shorter than the window is a single n-gram
    return found


@njit(nogil=True, cache=True)
def cosines_into(start, stop, which, bags, items, candidates, cosine, share):
    """Compute the cosine of some texts with their candidate items, and the share of the n-grams in common.

    Args:
        start: first index into `which`.
        stop: end of the range.
        which: indices of texts.
        bags: `features.Bags` of the texts.
        items: `features.WeightedBags` of the items, of unit length.
        candidates: (n, k) items of each text, -1 for none.
        cosine: (n, k); written.
        share: (n, k) n-grams in common over those of the text or item that has fewer; written.
    """
    weights, scratch = items.weights, np.zeros(len(items.weights), np.float32)
    for i in range(start, stop):
        begin, end = bags.at[which[i]], bags.at[which[i] + 1]
        norm = np.float64(0.0)
        for place in range(begin, end):
            value = bags.times[place] * (weights[bags.numbers[place]] or items.unknown)
            scratch[bags.numbers[place]] = value
            norm += value * value
        for k in range(candidates.shape[1] if norm > 0 else 0):
            item = candidates[i, k]
            if item < 0:
                continue
            dot, both = np.float64(0.0), 0
            for place in range(items.at[item], items.at[item + 1]):
                held = scratch[items.numbers[place]]
                dot += items.unit[place] * held
                both += held > 0
            cosine[i, k] = dot / np.sqrt(norm)
            share[i, k] = both / max(1, min(end - begin, items.at[item + 1] - items.at[item]))
        # Clear only what this text set: the scratch is as long as the vocabulary.
        for place in range(begin, end):
            scratch[bags.numbers[place]] = 0.0
