"""From a row's bytes to hashes of its words: whole words for spans, parts of identifiers for the shortlist."""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from curation.dedup.kernels.read import PRIME, decode, mix, pointer, read_row
from curation.dedup.normalization import DROPPED, SEVERAL, SPACE

_SEED = np.uint64(0x5EEDC0DE)
_CODE = np.uint32(0x1FFFFF)


@njit(nogil=True, cache=True)
def ascii_letters(table, chars):
    """For each byte of ASCII the code point that it counts as within a word, or 0 for a break."""
    letters = np.zeros(256, np.uint64)
    for code in range(128):
        if table[code] < 0x200000 and chars[table[code]] == 1:
            letters[code] = table[code]
    return letters


@njit(nogil=True, cache=True)
def row_words(address, size, is_normal, table, sequences, chars, letters, out):
    """Hashes of one row's words, as they stand in its normalized text; gives their number."""
    data = carray(pointer(address), size)
    count, at, h, inside = 0, 0, _SEED, False
    while at < size:
        letter, begin = letters[data[at]], at
        while letter:
            h, at = h * PRIME + letter, at + 1
            letter = letters[data[at]] if at < size else np.uint64(0)
        inside |= at > begin
        if at == size:
            break
        if data[at] < 128:
            if inside:
                out[count], count, h, inside = mix(h), count + 1, _SEED, False
            at += 1
        else:
            code, step = decode(data, at, size)
            at += step
            entry = code if is_normal else table[code]
            special = (entry >> np.uint32(21)) & np.uint32(7)
            if special == SEVERAL:
                first = np.int64(entry & _CODE)
                for i in range(np.int64(sequences[first])):
                    folded = sequences[first + 1 + i]
                    count, h, inside = _taken(folded, chars[folded], count, h, inside, out)
            elif special != DROPPED:
                folded = entry & _CODE
                count, h, inside = _taken(folded, 0 if special == SPACE else chars[folded], count, h, inside, out)
    if inside:
        out[count] = mix(h)
        count += 1
    return count


@njit(nogil=True, cache=True)
def _taken(code, kind, count, h, inside, out):
    """What a code point does to the word that is being read: it goes on, ends, or ends before a sign that is a word by itself."""
    if kind == 1:
        return count, h * PRIME + np.uint64(code), True
    if inside:
        out[count] = mix(h)
        count += 1
    if kind == 2:
        out[count] = mix(_SEED * PRIME + np.uint64(code))
        count += 1
    return count, _SEED, False


@njit(nogil=True, cache=True)
def words_into(start, stop, addresses, sizes, is_normal, table, sequences, chars, at, out, counts):
    """Write each row's word hashes at its place."""
    letters = ascii_letters(table, chars)
    for row in range(start, stop):
        counts[row] = row_words(addresses[row], sizes[row], is_normal[row], table, sequences, chars, letters, out[at[row] :])


@njit(nogil=True, cache=True)
def check_rows(start, stop, which, addresses, sizes, is_normal, table, sequences, keys, lengths):
    """The number of each row's code points, -1 where Python must normalize it; for ASCII its bytes, since nothing may combine."""
    most = 0
    for i in range(start, stop):
        most = max(most, sizes[which[i]])
    codes = np.empty(most + most // 2 + 16, np.uint32)
    for i in range(start, stop):
        row = which[i]
        data = carray(pointer(addresses[row]), sizes[row])
        high = np.uint8(0)
        for at in range(sizes[row]):
            high |= data[at]
        ascii_only = high < 128
        lengths[row] = sizes[row] if ascii_only else read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes)


@njit(nogil=True, cache=True)
def row_room(sizes, start, stop):
    """Code points that the longest of these rows can become."""
    most = 0
    for row in range(start, stop):
        most = max(most, sizes[row])
    return most + most // 2 + 16


@njit(nogil=True, cache=True)
def row_parts(address, size, is_normal, table, chars, out, first, last):
    """Hashes of the parts of one row's words (`hasClose_elements` is three), and the bytes each takes.

    A part counts by its first six letters without a plural's s. Folding is plainer here than for spans: this only proposes.
    """
    data = carray(pointer(address), size)
    count, h, before, length, at, low, plural = 0, _SEED, _SEED, 0, 0, False, False
    while at < size:
        code, step = decode(data, at, size)
        kind, code = _kind_of(code, is_normal, table, chars)
        upper = data[at] >= 65 and data[at] <= 90
        if length and (kind == 0 or kind == 2 or (upper and low)):
            out[count] = mix(before if plural else h)
            last[count] = at
            count += 1
            h, length = _SEED, 0
        if kind == 1:
            if length == 0:
                first[count] = at
            digit = code >= 48 and code <= 57
            plural = code == 115 and 3 <= length < 6
            before = h
            if length < 6 or digit:
                h = (h ^ np.uint64(code)) * PRIME
                h ^= h >> np.uint64(29)
            length += 1
        elif kind == 2:
            out[count], first[count], last[count] = mix((_SEED ^ np.uint64(code)) * PRIME), at, at + step
            count += 1
        low = kind == 1 and not upper
        at += step
    if length:
        out[count] = mix(before if plural else h)
        last[count] = size
        count += 1
    return count


@njit(nogil=True, cache=True)
def _kind_of(code, is_normal, table, chars):
    """(break, part, sign or 3 for nothing at all; the folded code point)."""
    entry = code if is_normal else table[code]
    if entry < 0x200000:
        return np.int64(chars[entry]), entry
    special = (entry >> np.uint32(21)) & np.uint32(7)
    if special == DROPPED:
        return 3, code
    return (0 if special == SPACE else np.int64(chars[code])), code


@njit(nogil=True, cache=True)
def parts_into(start, stop, addresses, sizes, is_normal, table, chars, at, out, counts):
    """Write the hashes of each row's parts at its place."""
    most = 1
    for row in range(start, stop):
        most = max(most, sizes[row])
    first, last = np.empty(most + 1, np.int64), np.empty(most + 1, np.int64)
    for row in range(start, stop):
        counts[row] = row_parts(addresses[row], sizes[row], is_normal[row], table, chars, out[at[row] :], first, last)
