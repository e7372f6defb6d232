"""The few protected items whose rare words a row has most of, window by window, so that the time is linear in the row."""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.leakage.kernels.spans import look_up
from curation.leakage.kernels.words import row_parts

WINDOW, STRIDE = 160, 80
"""Parts of words in a window, and from one window to the next."""


@njit(nogil=True, cache=True)
def shortlist_into(start, stop, addresses, sizes, is_normal, table, chars, slots, groups, rarity, unknown, holders, items, weights, n_items,
                   best, score, begin, end):  # fmt: skip
    """For each row its `best.shape[1]` nearest items by cosine over parts of words, with the bytes of the window that is near."""
    most = 1
    for row in range(start, stop):
        most = max(most, sizes[row])
    parts, first, last = np.empty(most + 1, np.uint64), np.empty(most + 1, np.int64), np.empty(most + 1, np.int64)
    seen, times = np.empty(WINDOW, np.int64), np.zeros(len(rarity), np.int32)
    total, touched = np.zeros(n_items, np.float32), np.empty(n_items, np.int64)
    for row in range(start, stop):
        n = row_parts(addresses[row], sizes[row], is_normal[row], table, chars, parts, first, last)
        own = best[row], score[row], begin[row], end[row]  # a view costs more than the addition it would stand beside
        from_part, least = 0, np.float32(0.0)
        while from_part < n:
            to_part = min(from_part + WINDOW, n)
            n_seen, norm, n_touched = 0, 0.0, 0
            for i in range(from_part, to_part):
                group = look_up(parts[i], slots, groups)
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
                    item = items[at]
                    if total[item] == 0.0:
                        touched[n_touched] = item
                        n_touched += 1
                    total[item] += np.float32(value * weights[at])
            norm = np.sqrt(norm)
            for i in range(n_touched):
                item = touched[i]
                value = np.float32(total[item] / norm)
                total[item] = 0.0
                if value > least:
                    _keep(*own, item, value, first[from_part], last[to_part - 1])
                    least = own[1][-1]
            if to_part == n:
                break
            from_part += STRIDE


@njit(nogil=True, cache=True)
def _keep(best, score, begin, end, item, value, low, high):
    """Insert a candidate where it belongs; an item that stands already keeps its better window."""
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
