"""Find the longest span of words that a row shares with each protected item, by rolling hashes of word n-grams.

A bit filter rejects most windows before the hash table is read. Only rows with a hit are walked a second time for their spans.

The shortlist of a row is the few protected items whose rare word parts it has most of. A row is read in overlapping windows, so the time is
linear in its length and a short item inside a long row is found.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.dedup.kernels.read import PRIME, mix, room_for
from curation.leakage.kernels.words import ascii_letters, longest_in, room_for_parts, room_for_words, row_parts, row_words

_HALF, _WORD, _IN_WORD = np.uint64(32), np.uint64(6), np.uint64(63)
# Diagonals (row position - item position) that are remembered, so that a span is walked once and a row that repeats itself takes
# linear time.
_MEMORY = 256

# Word parts in a window, and from one window to the next.
WINDOW, STRIDE = 160, 80
# Items that are looked at together.
_FEW = np.uint64(64)


@njit(nogil=True, cache=True)
def roll(words, n, size, out):
    """Write the rolling hash of every window of `size` words.

    Args:
        words: word hashes.
        n: number of words.
        size: words in a window.
        out: 64-bit hashes; written.

    Returns:
        The number of windows.
    """
    # Word hashes are uniform over 64 bits, and so are their polynomial sums: they need no mixing.
    if n < size:
        return 0
    h, top = np.uint64(0), np.uint64(1)
    for i in range(size):
        h = h * PRIME + words[i]
        top = top * PRIME if i else top
    # The width is part of the hash, because windows of all widths are in one table.
    salt = mix(np.uint64(size))
    out[0] = h ^ salt
    for i in range(size, n):
        h = (h - words[i - size] * top) * PRIME + words[i]
        out[i - size + 1] = h ^ salt
    return n - size + 1


@njit(nogil=True, cache=True)
def item_grams(words, starts, sizes, out, item, place):
    """Write the windows that anchor each item.

    Args:
        words: word hashes of all items, one item after another.
        starts: offset of each item in `words`, and the end.
        sizes: words in a window of each item, 0 for no windows.
        out: hash of each window; written.
        item: item of each window; written.
        place: word each window begins at; written.

    Returns:
        The number of windows.
    """
    n = 0
    for i in range(len(starts) - 1):
        count = roll(words[starts[i] : starts[i + 1]], starts[i + 1] - starts[i], sizes[i], out[n:]) if sizes[i] else 0
        for k in range(count):
            item[n + k], place[n + k] = i, k
        n += count
    return n


@njit(nogil=True, cache=True)
def look_up(h, slots, groups):
    """Return the group of a hash, or -1.

    Args:
        h: 64-bit hash.
        slots: hash in each slot of the table.
        groups: group in each slot, -1 for a free one.
    """
    mask = np.uint64(len(slots) - 1)
    at = h & mask
    while groups[at] >= 0:
        if slots[at] == h:
            return np.int64(groups[at])
        at = (at + np.uint64(1)) & mask
    return np.int64(-1)


@njit(nogil=True, cache=True)
def group_hashes(hashes, slots, groups, out):
    """Number the distinct hashes in the order in which they first occur (open addressing).

    Args:
        hashes: 64-bit hashes.
        slots: hash in each slot; written.
        groups: group in each slot, -1 for a free one; written.
        out: group of each hash; written.

    Returns:
        The number of groups.
    """
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
    """Count the items that hold each group.

    Args:
        groups: group of each window.
        items: item of each window, ascending.
        n: number of groups.
    """
    last, held = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    for i in range(len(groups)):
        if last[groups[i]] != items[i]:
            last[groups[i]] = items[i]
            held[groups[i]] += 1
    return held


@njit(nogil=True, cache=True)
def order_by_group(groups, begins):
    """Return the indices of the members of each group, one group after another; `begins` holds the offset of each group."""
    at, order = begins.copy(), np.empty(len(groups), np.int64)
    for i in range(len(groups)):
        order[at[groups[i]]] = i
        at[groups[i]] += 1
    return order


@njit(nogil=True, cache=True)
def head_of(words, at):
    """Return a hash of two consecutive words."""
    return words[at] * PRIME + words[at + 1]


@njit(nogil=True, cache=True)
def heads_of(words, places):
    """Return the hash of the first two words of the windows that begin at the given places."""
    out = np.empty(len(places), np.uint64)
    for i in range(len(places)):
        out[i] = head_of(words, places[i])
    return out


@njit(nogil=True, cache=True)
def three_of(words, at):
    """Return a hash of three consecutive words."""
    return (words[at] * PRIME + words[at + 1]) * PRIME + words[at + 2]


@njit(nogil=True, cache=True)
def threes_of(words, starts, size):
    """Return the hashes of three consecutive words of the items that have `size` words or more."""
    out, n = np.empty(len(words), np.uint64), 0
    for item in range(len(starts) - 1):
        if starts[item + 1] - starts[item] >= size:
            for at in range(starts[item], starts[item + 1] - 2):
                out[n] = three_of(words, at)
                n += 1
    return out[:n]


@njit(nogil=True, cache=True)
def set_bits(hashes, bits):
    """Set two bits for each hash (a Bloom filter), so that most misses are found without reading the table."""
    mask = np.uint64(64 * len(bits) - 1)
    for h in hashes:
        for at in (h & mask, (h >> _HALF) & mask):
            bits[at >> _WORD] |= np.uint64(1) << (at & _IN_WORD)


@njit(nogil=True, cache=True)
def has_bits(h, bits):
    """Return True if a hash may be among those that were set."""
    mask = np.uint64(64 * len(bits) - 1)
    at = h & mask
    if not (bits[at >> _WORD] >> (at & _IN_WORD)) & np.uint64(1):
        return False
    at = (h >> _HALF) & mask
    return bool((bits[at >> _WORD] >> (at & _IN_WORD)) & np.uint64(1))


@njit(nogil=True, cache=True)
def gram(words, at, size):
    """Return the hash of one window, as `roll` computes it.

    Args:
        words: word hashes.
        at: first word.
        size: words in the window.
    """
    h = np.uint64(0)
    for i in range(at, at + size):
        h = h * PRIME + words[i]
    return h ^ mix(np.uint64(size))


@njit(nogil=True, cache=True)
def mark_rows(start, stop, rows, chars, index, flags):
    """Flag the rows that hold an anchor (bit 1) or a window of boilerplate (bit 2).

    Windows of the anchor's width are looked up one by one. Windows of other widths (whole short items, whole boilerplate items)
    are few, and are looked up only where their first two words, or their only word, pass a filter.

    Args:
        start: first row.
        stop: end of the range.
        rows: `RowBytes`.
        chars: class of each code point.
        index: `ngrams.WindowIndex`.
        flags: uint8 of each row; written.
    """
    most, anchor, slots, groups = room_for(longest_in(rows.sizes, start, stop)), index.anchor, index.slots, index.groups
    words, grams = np.empty(most, np.uint64), np.empty(most, np.uint64)
    letters, held = ascii_letters(rows.table, chars), (index.heads[0].any(), index.heads[1].any(), index.heads[2].any())
    bits, threes, boilerplate, scratch = index.bits, index.threes, index.boilerplate, room_for_words(rows.sizes, start, stop)
    for row in range(start, stop):
        n = row_words(rows, row, chars, letters, scratch, words)
        at, found = 0, np.uint8(0)
        # As Wu and Manber skip characters: no window that holds three words which no item has one after another is an item's, so
        # most words are never looked up.
        while at + anchor <= n:
            if not has_bits(three_of(words, at + anchor - 3), threes):
                at += anchor - 2
            elif not has_bits(three_of(words, at + 2), threes):
                at += 3
            else:
                whole = gram(words, at, anchor)
                if has_bits(whole, bits):
                    group = look_up(whole, slots, groups)
                    if group >= 0:
                        found |= np.uint8(2 if group >= boilerplate else 1)
                at += 1
        if held[0] or held[1] or held[2]:
            found |= _other_widths(words, n, index, held, grams)
        flags[row] = found


@njit(nogil=True, cache=True)
def _other_widths(words, n, index, held, grams):
    """Return 1 if the words hold a window of another width than the anchors'."""
    # Creating a view costs more than a look-up in it.
    singles, pairs, longer, few = index.heads[0], index.heads[1], index.heads[2], index.heads[3]
    widths, anchor, slots, groups = index.widths, index.anchor, index.slots, index.groups
    long = False
    for i in range(n):
        if held[0] and has_bits(words[i], singles) and look_up(gram(words, i, 1), slots, groups) >= 0:
            return np.uint8(1)
        if i + 1 == n:
            break
        head = head_of(words, i)
        long |= held[2] and has_bits(head, longer)
        if has_bits(head, pairs):
            h = words[i]
            for k in range(1, min(anchor - 1, n - i)):
                h = h * PRIME + words[i + k]
                whole = h ^ mix(np.uint64(k + 1))
                if has_bits(whole, few) and look_up(whole, slots, groups) >= 0:
                    return np.uint8(1)
    for width in widths:
        if long and width > anchor:
            for i in range(roll(words, n, width, grams)):
                if look_up(grams[i], slots, groups) >= 0:
                    return np.uint8(1)
    return np.uint8(0)


@njit(nogil=True, cache=True)
def best_spans(which, rows, chars, index):
    """Find the longest span that each of these rows shares with each item.

    Args:
        which: rows with an anchor.
        rows: `RowBytes`.
        chars: class of each code point.
        index: `ngrams.WindowIndex`.

    Returns:
        (n, 4) row, item, first word, word after the last.
    """
    most = room_for(longest_in(rows.sizes, 0, len(rows.sizes)))
    words, grams = np.empty(most, np.uint64), np.empty(most, np.uint64)
    holders, item_starts, slots, groups = index.holders, index.starts, index.slots, index.groups
    n_items, letters, scratch = len(item_starts) - 1, ascii_letters(rows.table, chars), room_for_words(rows.sizes, 0, len(rows.sizes))
    begins, lengths, touched = np.zeros(n_items, np.int64), np.zeros(n_items, np.int64), np.empty(n_items, np.int64)
    memory, until = np.full(_MEMORY, -1, np.int64), np.zeros(_MEMORY, np.int64)
    out, n_out = np.empty((1024, 4), np.int64), 0
    for row in which:
        n = row_words(rows, row, chars, letters, scratch, words)
        memory[:] = -1
        n_touched = 0
        for width in index.widths:
            for start in range(roll(words, n, width, grams)):
                group = look_up(grams[start], slots, groups)
                if group < 0 or group >= index.boilerplate:
                    continue
                for at in range(holders[group], holders[group + 1]):
                    item, place = index.items[at], index.places[at]
                    own = index.words[item_starts[item] : item_starts[item + 1]]
                    # Item and diagonal in one number; 2^39 keeps the diagonal above 0.
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


@njit(nogil=True, cache=True)
def shortlist_into(start, stop, rows, chars, index, floors, found):
    """Write the nearest items of each row by cosine over word parts, with the byte range of the window that is near.

    Args:
        start: first row.
        stop: end of the range.
        rows: `RowBytes`.
        chars: class of each code point (`ngrams.word_table`).
        index: `ngrams.PartIndex` of the items.
        floors: float32 cosine of each item; a row that reaches none of them is left out. Empty for all rows.
        found: `ngrams.Candidates`, best first; written.
    """
    most = max(1, longest_in(rows.sizes, start, stop))
    parts, first, last = np.empty(most + 1, np.uint64), np.empty(most + 1, np.int64), np.empty(most + 1, np.int64)
    groups, times = np.empty(most + 1, np.int64), np.zeros(len(index.rarity), np.int32)
    seen, values = np.empty(WINDOW, np.int64), np.empty(WINDOW, np.float64)
    total, highest = np.zeros(index.n_items, np.float32), np.empty(found.item.shape[1], np.float32)
    held = np.zeros(len(index.rarity), np.float64)
    is_high, logs = np.zeros(index.n_items, np.bool_), 1.0 + np.log(np.maximum(np.arange(WINDOW + 1), 1).astype(np.float64))
    letters, scratch = ascii_letters(rows.table, chars), room_for_parts(rows.sizes, start, stop)
    for row in range(start, stop):
        n = row_parts(rows, row, chars, letters, scratch, parts, first, last)
        for i in range(n):
            groups[i] = look_up(parts[i], index.slots, index.groups)
        # Most rows reach no floor, which a part of the lists shows.
        is_near, from_part, n_seen, norm = len(floors) == 0, 0, 0, 0.0
        while not is_near and from_part < n:
            to_part = min(from_part + WINDOW, n)
            n_seen, norm = _weigh(groups, from_part, to_part, index, logs, times, seen, values)
            if _may_reach(seen, values, n_seen, norm, index, floors, total, held):
                _add_up(seen, values, n_seen, index, total)
                is_near = _reaches(total, floors, norm)
                # The totals of a row that is one window are those that are ranked.
                if not is_near or n > WINDOW:
                    total[:] = 0.0
            if to_part == n:
                break
            from_part += STRIDE
        if not is_near:
            continue
        # Views of this row's candidates: creating one per update costs more than the update.
        own = found.item[row], found.score[row], found.begin[row], found.end[row]
        is_added, from_part = len(floors) > 0 and n <= WINDOW, 0
        while from_part < n:
            to_part = min(from_part + WINDOW, n)
            if not is_added:
                n_seen, norm = _weigh(groups, from_part, to_part, index, logs, times, seen, values)
                _add_up(seen, values, n_seen, index, total)
            left = _mark_highest(total, np.float32(own[1][-1] * norm), highest, is_high)
            # In the order in which the parts of the row name the items, which decides between equal ones.
            for i in range(n_seen):
                if not left:
                    break
                for at in range(index.holders[seen[i]], index.holders[seen[i] + 1]):
                    item = index.items[at]
                    if is_high[item]:
                        is_high[item] = False
                        left -= 1
                        _keep(own, item, np.float32(total[item] / norm), first[from_part], last[to_part - 1])
            total[:] = 0.0
            if to_part == n:
                break
            from_part += STRIDE


@njit(nogil=True, cache=True)
def _weigh(groups, from_part, to_part, index, logs, times, seen, values):
    """Weight the known parts of a window.

    Args:
        groups: group of each part of the row, -1 for an unknown one.
        from_part: first part.
        to_part: end of the window.
        index: `ngrams.PartIndex`.
        logs: 1 + log of every number of occurrences.
        times: occurrences of each group, all 0 before and after.
        seen: groups of the window; written.
        values: weight of each of them; written.

    Returns:
        (number of groups seen, norm of the window).
    """
    n_seen, norm = 0, 0.0
    for i in range(from_part, to_part):
        group = groups[i]
        if group < 0:
            norm += index.unknown * index.unknown
            continue
        if times[group] == 0:
            seen[n_seen] = group
            n_seen += 1
        times[group] += 1
    for i in range(n_seen):
        values[i] = logs[times[seen[i]]] * index.rarity[seen[i]]
        times[seen[i]] = 0
        norm += values[i] * values[i]
    return n_seen, np.sqrt(norm)


@njit(nogil=True, cache=True)
def _add_up(seen, values, n_seen, index, total):
    """Add to each item what the groups of a window have in common with it.

    Args:
        seen: groups of the window.
        values: their weights.
        n_seen: number of them.
        index: `ngrams.PartIndex`.
        total: of each item, all 0; written.
    """
    items, weights = index.items, index.weights
    for i in range(n_seen):
        value = values[i]
        for at in range(index.holders[seen[i]], index.holders[seen[i] + 1]):
            total[items[at]] += np.float32(value * weights[at])


@njit(nogil=True, cache=True)
def _may_reach(seen, values, n_seen, norm, index, floors, total, held):
    """Return True if a window may reach the floor of an item, without reading the lists of the groups that many items hold.

    By the inequality of Cauchy and Schwarz such groups add no more to an item than the product of their norms in window and item. The few
    items that may reach their floor with so much are looked at one by one.

    Args:
        seen: groups of the window.
        values: their weights.
        n_seen: number of them.
        norm: of the window.
        index: `ngrams.PartIndex`.
        floors: cosine of each item.
        total: of each item, all 0 before and after.
        held: of each group, all 0 before and after.
    """
    items, weights, frequent, left = index.items, index.weights, index.frequent, 0.0
    for i in range(n_seen):
        value, begin, end = values[i], np.uint64(index.holders[seen[i]]), np.uint64(index.holders[seen[i] + 1])
        if end - begin > index.many:
            left += value * value
            held[seen[i]] = value
        else:
            single = np.float32(value)
            for at in range(begin, end):
                total[items[at]] += single * weights[at]
    # Less than the norm by more than rounding can add.
    length, rest, is_over, n = np.float32(norm * 0.9999), np.float32(np.sqrt(left)), False, np.uint64(len(total))
    for start in range(np.uint64(0), n, _FEW):
        stop, may = min(start + _FEW, n), False
        for item in range(start, stop):
            may |= total[item] + rest * frequent[item] > floors[item] * length
        if may and not is_over:
            for item in range(start, stop):
                if total[item] + rest * frequent[item] > floors[item] * length:
                    dot = np.float64(total[item])
                    for at in range(index.common_at[item], index.common_at[item + 1]):
                        dot += held[index.common[at]] * index.common_weights[at]
                    is_over |= dot > floors[item] * length
        total[start:stop] = 0.0
    for i in range(n_seen):
        held[seen[i]] = 0.0
    return is_over


@njit(nogil=True, cache=True)
def _mark_highest(total, least, highest, is_high):
    """Mark the items that can be among the highest of all windows: those of this one, with all that rounding may make equal to the last.

    Most items have some part in common with a row, and few of them are ever listed: one loop over the totals finds these.

    Args:
        total: of each item.
        least: total below which an item is not listed.
        highest: room for the highest totals.
        is_high: mask of items, all False; written.

    Returns:
        The number of items that are marked.
    """
    highest[:] = 0.0
    low, end = least * np.float32(0.99999), len(highest) - 1
    for item in range(len(total)):
        value = total[item]
        if value > low:
            at = end
            while at > 0 and highest[at - 1] < value:
                highest[at] = highest[at - 1]
                at -= 1
            highest[at] = value
            low = max(low, highest[end])
    low, n = low * np.float32(0.99999), 0
    for item in range(len(total)):
        if total[item] > low:
            is_high[item] = True
            n += 1
    return n


@njit(nogil=True, cache=True)
def _reaches(total, floors, norm):
    """Return True if a window may reach the floor of an item."""
    # A little less than the norm, so that rounding hides no row that the ranking would list.
    length, is_over = np.float32(norm * 0.99999), False
    for item in range(len(total)):
        is_over |= total[item] > floors[item] * length
    return is_over


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
