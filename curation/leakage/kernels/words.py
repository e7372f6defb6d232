"""Hash the words of a row: whole words for shared spans, parts of identifiers for the shortlist."""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from curation.dedup.kernels.read import PRIME, decode, longest_of, mix, pointer, read_row, room_for
from curation.dedup.normalization import DROPPED, SEVERAL, SPACE

_SEED = np.uint64(0x5EEDC0DE)
_CODE = np.uint32(0x1FFFFF)


@njit(nogil=True, cache=True)
def ascii_letters(table, chars):
    """Return, for each ASCII byte, the code point it counts as within a word, or 0 for a break."""
    letters = np.zeros(256, np.uint64)
    for code in range(128):
        if table[code] < 0x200000 and chars[table[code]] == 1:
            letters[code] = table[code]
    return letters


@njit(nogil=True, cache=True)
def row_words(rows, row, chars, letters, out):
    """Hash the words of one row's normalized text.

    Args:
        rows: `RowBytes`.
        row: index of the row.
        chars: class of each code point (`ngrams.word_table`).
        letters: from `ascii_letters`.
        out: word hashes, uint64; written.

    Returns:
        The number of words.
    """
    size, is_normalized, table, sequences = rows.sizes[row], rows.is_normalized[row], rows.table, rows.sequences
    data = carray(pointer(rows.addresses[row]), size)
    count, at, h, inside = 0, 0, _SEED, False
    while at < size:
        # ASCII letters are read in a loop of their own: they are most of all bytes.
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
            entry = code if is_normalized else table[code]
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
    """Continue the current word with a code point, or end it, or end it and write a sign (a one-character word)."""
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
def words_into(start, stop, rows, chars, at, out, counts):
    """Write the word hashes of each row at its offset.

    Args:
        start: first row.
        stop: end of the range.
        rows: `RowBytes`.
        chars: class of each code point.
        at: offset of each row in `out`.
        out: word hashes, uint64; written.
        counts: words of each row; written.
    """
    letters = ascii_letters(rows.table, chars)
    for row in range(start, stop):
        counts[row] = row_words(rows, row, chars, letters, out[at[row] :])


@njit(nogil=True, cache=True)
def check_rows(start, stop, which, rows, keys, lengths):
    """Write the number of code points of each row, -1 if Python must normalize it.

    For ASCII rows it is the number of bytes: nothing in them may combine, and no caller needs the exact number.

    Args:
        start: first index into `which`.
        stop: end of the range.
        which: row indices.
        rows: `RowBytes`.
        keys: not used; `arrow_text.read_by` passes it to every loop.
        lengths: code points of each row; written.
    """
    codes = np.empty(room_for(longest_of(rows.sizes, which, start, stop)), np.uint32)
    for i in range(start, stop):
        row = which[i]
        data = carray(pointer(rows.addresses[row]), rows.sizes[row])
        high = np.uint8(0)
        for at in range(rows.sizes[row]):
            high |= data[at]
        lengths[row] = rows.sizes[row] if high < 128 else read_row(rows, row, codes)


@njit(nogil=True, cache=True)
def longest_in(sizes, start, stop):
    """Return the largest of sizes[start:stop], 0 for an empty range.

    Args:
        sizes: bytes of every row.
        start: first row.
        stop: end of the range.
    """
    longest = 0
    for row in range(start, stop):
        longest = max(longest, sizes[row])
    return longest


@njit(nogil=True, cache=True)
def row_parts(rows, row, chars, out, first, last):
    """Hash the parts of one row's words (`hasClose_elements` has three).

    A part counts by its first six letters, without a plural s. Normalization is simpler here than for spans, since this only
    proposes candidates.

    Args:
        rows: `RowBytes`.
        row: index of the row.
        chars: class of each code point.
        out: hashes, uint64; written.
        first: first byte of each part; written.
        last: byte after each part; written.

    Returns:
        The number of parts.
    """
    size, is_normalized, table = rows.sizes[row], rows.is_normalized[row], rows.table
    data = carray(pointer(rows.addresses[row]), size)
    count, h, before, length, at, low, plural = 0, _SEED, _SEED, 0, 0, False, False
    while at < size:
        code, step = decode(data, at, size)
        kind, code = _kind_of(code, is_normalized, table, chars)
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
def _kind_of(code, is_normalized, table, chars):
    """Return (0 break, 1 part, 2 sign, 3 invisible; the normalized code point)."""
    entry = code if is_normalized else table[code]
    if entry < 0x200000:
        return np.int64(chars[entry]), entry
    special = (entry >> np.uint32(21)) & np.uint32(7)
    if special == DROPPED:
        return 3, code
    return (0 if special == SPACE else np.int64(chars[code])), code


@njit(nogil=True, cache=True)
def parts_into(start, stop, rows, chars, at, out, counts):
    """Write the hashes of each row's word parts at its offset.

    Args:
        start: first row.
        stop: end of the range.
        rows: `RowBytes`.
        chars: class of each code point.
        at: offset of each row in `out`.
        out: hashes, uint64; written.
        counts: parts of each row; written.
    """
    most = max(1, longest_in(rows.sizes, start, stop))
    first, last = np.empty(most + 1, np.int64), np.empty(most + 1, np.int64)
    for row in range(start, stop):
        counts[row] = row_parts(rows, row, chars, out[at[row] :], first, last)
