"""The longest span of words that a row shares with each protected item, found by rolling hashes of word n-grams."""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.dedup.kernels.read import PRIME, mix
from curation.leakage.kernels.words import ascii_letters, row_room, row_words

_HALF, _WORD, _IN_WORD = np.uint64(32), np.uint64(6), np.uint64(63)
_MEMORY = 256
"""Diagonals remembered, so that a span is walked once and a row that repeats itself stays linear."""


@njit(nogil=True, cache=True)
def roll(words, n, size, out):
    """Hashes of the windows of `size` words; gives their number.

    Hashes of words are spread over all 64 bits, and so is what is added up from them: it needs no mixing of its own.
    """
    if n < size:
        return 0
    h, top = np.uint64(0), np.uint64(1)
    for i in range(size):
        h = h * PRIME + words[i]
        top = top * PRIME if i else top
    salt = mix(np.uint64(size))
    out[0] = h ^ salt
    for i in range(size, n):
        h = (h - words[i - size] * top) * PRIME + words[i]
        out[i - size + 1] = h ^ salt
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
def group_hashes(hashes, slots, groups, out):
    """Open addressing: the group of each hash in the order in which they first come; gives the number of groups."""
    mask, n = np.uint64(len(slots) - 1), 0
    for i in range(len(hashes)):
        at = hashes[i] & mask
        while groups[at] >= 0 and slots[at] != hashes[i]:
            at = (at + np.uint64(1)) & mask
        if groups[at] < 0:
            slots[at], groups[at] = hashes[i], n
            n += 1
        out[i] = groups[at]
    return n


@njit(nogil=True, cache=True)
def count_holders(groups, items, n):
    """How many items hold each group; the items stand in order."""
    last, held = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    for i in range(len(groups)):
        if last[groups[i]] != items[i]:
            last[groups[i]] = items[i]
            held[groups[i]] += 1
    return held


@njit(nogil=True, cache=True)
def order_by_group(groups, begins):
    """The places of each group's members, one group after another; `begins` is where each group's are to stand."""
    at, order = begins.copy(), np.empty(len(groups), np.int64)
    for i in range(len(groups)):
        order[at[groups[i]]] = i
        at[groups[i]] += 1
    return order


@njit(nogil=True, cache=True)
def head_of(words, at):
    """A hash of two words in a row."""
    return words[at] * PRIME + words[at + 1]


@njit(nogil=True, cache=True)
def heads_of(words, places):
    """The heads of windows that begin at some places."""
    out = np.empty(len(places), np.uint64)
    for i in range(len(places)):
        out[i] = head_of(words, places[i])
    return out


@njit(nogil=True, cache=True)
def set_bits(hashes, bits):
    """Two bits for each hash, so that most of what is not there can be told without a look at the table."""
    mask = np.uint64(64 * len(bits) - 1)
    for h in hashes:
        for at in (h & mask, (h >> _HALF) & mask):
            bits[at >> _WORD] |= np.uint64(1) << (at & _IN_WORD)


@njit(nogil=True, cache=True)
def has_bits(h, bits):
    """Whether a hash may be among those that were set."""
    mask = np.uint64(64 * len(bits) - 1)
    at = h & mask
    if not (bits[at >> _WORD] >> (at & _IN_WORD)) & np.uint64(1):
        return False
    at = (h >> _HALF) & mask
    return bool((bits[at >> _WORD] >> (at & _IN_WORD)) & np.uint64(1))


@njit(nogil=True, cache=True)
def gram(words, at, size):
    """The hash of one window, as `roll` gives it."""
    h = np.uint64(0)
    for i in range(at, at + size):
        h = h * PRIME + words[i]
    return h ^ mix(np.uint64(size))


@njit(nogil=True, cache=True)
def mark_rows(start, stop, addresses, sizes, is_normal, table, sequences, chars, widths, slots, groups, frames, anchor, bits, heads,
              flags):  # fmt: skip
    """Flag the rows that hold an anchor (bit 1) or a window of boilerplate (bit 2).

    `anchor`: the width of most windows; `bits` tell which may be there. Windows of other widths are few, and are looked at where
    their first two words (for the narrowest, all of them) stand, which `heads` tell.
    """
    most = row_room(sizes, start, stop)
    words, grams = np.empty(most, np.uint64), np.empty(most, np.uint64)
    letters, held = ascii_letters(table, chars), (heads[0].any(), heads[1].any(), heads[2].any())
    top, salt = np.uint64(1), mix(np.uint64(anchor))
    for _ in range(anchor - 1):
        top *= PRIME
    for row in range(start, stop):
        n = row_words(addresses[row], sizes[row], is_normal[row], table, sequences, chars, letters, words)
        h, found = np.uint64(0), np.uint8(0)
        for i in range(n):
            h = (h - words[i - anchor] * top if i >= anchor else h) * PRIME + words[i]
            if i >= anchor - 1:
                whole = h ^ salt
                if has_bits(whole, bits):
                    group = look_up(whole, slots, groups)
                    if group >= 0:
                        found |= np.uint8(2 if group >= frames else 1)
        if held[0] or held[1] or held[2]:
            found |= _other_widths(words, n, widths, anchor, slots, groups, heads, held, grams)
        flags[row] = found


@njit(nogil=True, cache=True)
def _other_widths(words, n, widths, anchor, slots, groups, heads, held, grams):
    """1 if the words hold a window of another width than the anchors'."""
    singles, pairs, longer = heads[0], heads[1], heads[2]  # a view costs more than the look through it
    long = False
    for i in range(n):
        if held[0] and has_bits(words[i], singles) and look_up(gram(words, i, 1), slots, groups) >= 0:
            return np.uint8(1)
        if i + 1 == n:
            break
        head = head_of(words, i)
        long |= held[2] and has_bits(head, longer)
        if has_bits(head, pairs):
            for width in widths:
                if 1 < width < anchor and i + width <= n and look_up(gram(words, i, width), slots, groups) >= 0:
                    return np.uint8(1)
    for width in widths:
        if long and width > anchor:
            for i in range(roll(words, n, width, grams)):
                if look_up(grams[i], slots, groups) >= 0:
                    return np.uint8(1)
    return np.uint8(0)


@njit(nogil=True, cache=True)
def best_spans(which, addresses, sizes, is_normal, table, sequences, chars, widths, slots, groups, frames, holders, items, places,
               item_words, item_starts):  # fmt: skip
    """(row, item, first word, word after the last) of the longest span that each of these rows shares with each item."""
    most = row_room(sizes, 0, len(sizes))
    words, grams = np.empty(most, np.uint64), np.empty(most, np.uint64)
    n_items, letters = len(item_starts) - 1, ascii_letters(table, chars)
    begins, lengths, touched = np.zeros(n_items, np.int64), np.zeros(n_items, np.int64), np.empty(n_items, np.int64)
    memory, until = np.full(_MEMORY, -1, np.int64), np.zeros(_MEMORY, np.int64)
    out, n_out = np.empty((1024, 4), np.int64), 0
    for row in which:
        n = row_words(addresses[row], sizes[row], is_normal[row], table, sequences, chars, letters, words)
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
