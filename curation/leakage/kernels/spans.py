"""The longest span of words that a row shares with each protected item, found by rolling hashes of word n-grams."""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.dedup.kernels.read import PRIME, mix
from curation.leakage.kernels.words import row_room, row_words

_MEMORY = 256
"""Diagonals remembered, so that a span is walked once and a row that repeats itself stays linear."""


@njit(nogil=True, cache=True)
def roll(words, n, size, out):
    """Hashes of the windows of `size` words; gives their number."""
    if n < size:
        return 0
    h, top = np.uint64(0), np.uint64(1)
    for i in range(size):
        h = h * PRIME + words[i]
        top = top * PRIME if i else top
    salt = mix(np.uint64(size))
    out[0] = mix(h ^ salt)
    for i in range(size, n):
        h = (h - words[i - size] * top) * PRIME + words[i]
        out[i - size + 1] = mix(h ^ salt)
    return n - size + 1


@njit(nogil=True, cache=True)
def item_grams(words, starts, sizes, out, item, place):
    """The windows that anchor each item, with the item and the word they begin at; gives their number."""
    n = 0
    for i in range(len(starts) - 1):
        count = roll(words[starts[i] : starts[i + 1]], starts[i + 1] - starts[i], sizes[i], out[n:]) if sizes[i] else 0
        for k in range(count):
            item[n + k], place[n + k] = i, k
        n += count
    return n


@njit(nogil=True, cache=True)
def fill_table(hashes, slots, groups):
    """Open addressing: where each of the distinct hashes stands."""
    mask = np.uint64(len(slots) - 1)
    for g in range(len(hashes)):
        at = hashes[g] & mask
        while groups[at] >= 0:
            at = (at + np.uint64(1)) & mask
        slots[at], groups[at] = hashes[g], g


@njit(nogil=True, cache=True)
def look_up(h, slots, groups):
    """The group of a hash, or -1."""
    mask = np.uint64(len(slots) - 1)
    at = h & mask
    while groups[at] >= 0:
        if slots[at] == h:
            return np.int64(groups[at])
        at = (at + np.uint64(1)) & mask
    return np.int64(-1)


@njit(nogil=True, cache=True)
def mark_rows(start, stop, addresses, sizes, is_normal, table, sequences, chars, widths, slots, groups, frames, flags):
    """Flag the rows that hold an anchor (bit 1) or a window of boilerplate (bit 2)."""
    most = row_room(sizes, start, stop)
    codes, words, grams = np.empty(most, np.uint32), np.empty(most, np.uint64), np.empty(most, np.uint64)
    for row in range(start, stop):
        n = row_words(addresses[row], sizes[row], is_normal[row], table, sequences, chars, codes, words)
        for width in widths:
            count = roll(words, n, width, grams)
            for i in range(count):
                group = look_up(grams[i], slots, groups)
                if group >= 0:
                    flags[row] |= 2 if group >= frames else 1


@njit(nogil=True, cache=True)
def best_spans(which, addresses, sizes, is_normal, table, sequences, chars, widths, slots, groups, frames, holders, items, places,
               item_words, item_starts):  # fmt: skip
    """(row, item, first word, word after the last) of the longest span that each of these rows shares with each item."""
    most = row_room(sizes, 0, len(sizes))
    codes, words, grams = np.empty(most, np.uint32), np.empty(most, np.uint64), np.empty(most, np.uint64)
    n_items = len(item_starts) - 1
    begins, lengths, touched = np.zeros(n_items, np.int64), np.zeros(n_items, np.int64), np.empty(n_items, np.int64)
    memory, until = np.full(_MEMORY, -1, np.int64), np.zeros(_MEMORY, np.int64)
    out, n_out = np.empty((1024, 4), np.int64), 0
    for row in which:
        n = row_words(addresses[row], sizes[row], is_normal[row], table, sequences, chars, codes, words)
        memory[:] = -1
        n_touched = 0
        for width in widths:
            for start in range(roll(words, n, width, grams)):
                group = look_up(grams[start], slots, groups)
                if group < 0 or group >= frames:
                    continue
                for at in range(holders[group], holders[group + 1]):
                    item, place = items[at], places[at]
                    own = item_words[item_starts[item] : item_starts[item + 1]]
                    key = item * np.int64(1 << 40) + start - place + (1 << 39)
                    slot = mix(np.uint64(key)) & np.uint64(_MEMORY - 1)
                    if lengths[item] == len(own) or (memory[slot] == key and start < until[slot]):
                        continue
                    length = width
                    while start + length < n and place + length < len(own) and words[start + length] == own[place + length]:
                        length += 1
                    memory[slot], until[slot] = key, start + length
                    before = 0  # words of boilerplate that lead into the anchor belong to the span
                    while start > before and place > before and words[start - before - 1] == own[place - before - 1]:
                        before += 1
                    if lengths[item] == 0:
                        touched[n_touched] = item
                        n_touched += 1
                    if length + before > lengths[item]:
                        begins[item], lengths[item] = start - before, length + before
        if n_out + n_touched > len(out):
            grown = np.empty((2 * (n_out + n_touched), 4), np.int64)
            grown[:n_out] = out[:n_out]
            out = grown
        for k in range(n_touched):
            item = touched[k]
            out[n_out, 0], out[n_out, 1], out[n_out, 2], out[n_out, 3] = row, item, begins[item], begins[item] + lengths[item]
            lengths[item] = 0
            n_out += 1
    return out[:n_out]
