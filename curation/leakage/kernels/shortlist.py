"""Find the few protected items whose rare word parts a row has most of.

A row is read in overlapping windows, so the time is linear in its length and a short item inside a long row is found.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.leakage.kernels.spans import look_up
from curation.leakage.kernels.words import longest_in, row_parts

# Word parts in a window, and from one window to the next.
WINDOW, STRIDE = 160, 80


@njit(nogil=True, cache=True)
def shortlist_into(start, stop, rows, chars, index, found):
    """Write the nearest items of each row by cosine over word parts, with the byte range of the window that is near.

    Args:
        start: first row.
        stop: end of the range.
        rows: `RowBytes`.
        chars: class of each code point (`ngrams.word_table`).
        index: `candidates.PartIndex` of the items.
        found: `candidates.Candidates`, best first; written.
    """
    rarity, unknown, holders = index.rarity, index.unknown, index.holders
    most = max(1, longest_in(rows.sizes, start, stop))
    parts, first, last = np.empty(most + 1, np.uint64), np.empty(most + 1, np.int64), np.empty(most + 1, np.int64)
    seen, times = np.empty(WINDOW, np.int64), np.zeros(len(rarity), np.int32)
    total, touched = np.zeros(index.n_items, np.float32), np.empty(index.n_items, np.int64)
    for row in range(start, stop):
        n = row_parts(rows, row, chars, parts, first, last)
        # Views of this row's candidates: creating one per update costs more than the update.
        own = found.item[row], found.score[row], found.begin[row], found.end[row]
        from_part, least = 0, np.float32(0.0)
        while from_part < n:
            to_part = min(from_part + WINDOW, n)
            n_seen, norm, n_touched = 0, 0.0, 0
            for i in range(from_part, to_part):
                group = look_up(parts[i], index.slots, index.groups)
                if group < 0:
                    norm += unknown * unknown
                    continue
                if times[group] == 0:
                    seen[n_seen] = group
                    n_seen += 1
                times[group] += 1
            for i in range(n_seen):
                group = seen[i]
                value = (1.0 + np.log(np.float64(times[group]))) * rarity[group]
                times[group] = 0
                norm += value * value
                for at in range(holders[group], holders[group + 1]):
                    item = index.items[at]
                    if total[item] == 0.0:
                        touched[n_touched] = item
                        n_touched += 1
                    total[item] += np.float32(value * index.weights[at])
            norm = np.sqrt(norm)
            for i in range(n_touched):
                item = touched[i]
                value = np.float32(total[item] / norm)
                total[item] = 0.0
                if value > least:
                    _keep(own, item, value, first[from_part], last[to_part - 1])
                    least = own[1][-1]
            if to_part == n:
                break
            from_part += STRIDE


@njit(nogil=True, cache=True)
def _keep(own, item, value, low, high):
    """Insert a candidate at its place; an item that is listed keeps its better window."""
    best, score, begin, end = own
    size = len(best)
    if value <= score[size - 1]:
        return
    at = size - 1
    for k in range(size):
        if best[k] == item:
            if score[k] >= value:
                return
            at = k
            break
    while at > 0 and score[at - 1] < value:
        best[at], score[at], begin[at], end[at] = best[at - 1], score[at - 1], begin[at - 1], end[at - 1]
        at -= 1
    best[at], score[at], begin[at], end[at] = item, value, low, high
