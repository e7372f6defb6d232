"""Hash the words of a row: whole words for shared spans, parts of identifiers for the shortlist.

Bags of character n-grams are hashed into buckets. The n-grams are those of scikit-learn's `char_wb` analyzer (inside words, padded with a
space), of 3 to 5 code points.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from curation.dedup.kernels.read import PRIME, decode, longest_of, mix, pointer, read_row, room_for
from curation.dedup.normalization import DROPPED, SEVERAL, SPACE

_SEED = np.uint64(0x5EEDC0DE)
_CODE = np.uint32(0x1FFFFF)
# The lowest zero byte of eight is the lowest high bit that is left of `(x - _LOW_BITS) & ~x & _HIGH_BITS`.
_LOW_BITS, _HIGH_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_PLURAL, _NINE = ord("s"), ord("9")
_BYTE, _ONE, _THREE, _SEVEN, _HALF = np.uint64(0xFF), np.uint64(1), np.uint64(3), np.uint64(7), np.uint64(32)

# Hash buckets: with a million, two n-grams of a suite rarely share one, and the weights take 8 MB.
BUCKETS = 1 << 20


@intrinsic
def load_eight(typing, address):
    """Load eight bytes from an address that need not be aligned."""

    def build(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.int64), build


@intrinsic
def trailing_zeros(typing, value):
    """Count the zero bits below the lowest one of a value that is not 0."""

    def build(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), build


@njit(nogil=True, cache=True)
def ascii_letters(table, chars):
    """Return, for each byte, the ASCII letter or digit that it counts as within a word, or 0 for a break."""
    letters = np.zeros(256, np.uint8)
    for code in range(128):
        if table[code] < 0x80 and chars[table[code]] == 1:
            letters[code] = table[code]
    return letters


@njit(nogil=True, cache=True)
def room_for_words(sizes, start, stop):
    """Return scratch for `row_words` of these rows: seven bytes for each code point that a row can become, and eight zeros."""
    return np.zeros(7 * room_for(longest_in(sizes, start, stop)) + 8, np.uint8)


@njit(nogil=True, cache=True)
def row_words(rows, row, chars, letters, scratch, out):
    """Hash the words of one row's normalized text.

    The row is written as the letters of its words with zeros between them. Words are then hashed eight bytes at a time, and their ends
    found by arithmetic: a branch for each byte, which no processor predicts at the end of a word, takes longer than all the rest.

    Args:
        rows: `RowBytes`.
        row: index of the row.
        chars: class of each code point (`ngrams.word_table`).
        letters: from `ascii_letters`.
        scratch: from `room_for_words`.
        out: word hashes, uint64; written.

    Returns:
        The number of words.
    """
    size = rows.sizes[row]
    data, high = carray(pointer(rows.addresses[row]), size), np.uint8(0)
    for i in range(size):
        high |= data[i]
        scratch[i] = letters[data[i]]
    if high >= 128:
        size = _write_letters(rows, row, chars, letters, scratch)
    scratch[size : size + 8] = 0
    count, at, address = 0, np.int64(0), np.int64(scratch.ctypes.data)
    while at < size:
        part = load_eight(address + at)
        if part & _BYTE == 0:
            at += 1
            continue
        h, ends = _SEED, (part - _LOW_BITS) & ~part & _HIGH_BITS
        while ends == 0:
            h = (h ^ part) * PRIME
            h ^= h >> _HALF
            at += 8
            part = load_eight(address + at)
            ends = (part - _LOW_BITS) & ~part & _HIGH_BITS
        bits = trailing_zeros(ends) & ~_SEVEN
        out[count] = mix((h ^ (part & ((_ONE << bits) - _ONE))) * PRIME)
        count += 1
        at += np.int64(bits >> _THREE) + 1
    return count


@njit(nogil=True, cache=True)
def _write_letters(rows, row, chars, letters, scratch):
    """Write the letters of a row that is not ASCII, and return their number.

    A code point outside ASCII takes four bytes, and a sign (a word of its own) one more and a zero on either side.
    """
    size, is_normalized, table, sequences = rows.sizes[row], rows.is_normalized[row], rows.table, rows.sequences
    data, at, n = carray(pointer(rows.addresses[row]), size), 0, 0
    while at < size:
        if data[at] < 128:
            scratch[n] = letters[data[at]]
            n, at = n + 1, at + 1
            continue
        code, step = decode(data, at, size)
        at += step
        entry = code if is_normalized else table[code]
        special = (entry >> np.uint32(21)) & np.uint32(7)
        if special == SEVERAL:
            first = np.int64(entry & _CODE)
            for i in range(np.int64(sequences[first])):
                folded = sequences[first + 1 + i]
                n = _write_code(folded, chars[folded], scratch, n)
        elif special == SPACE:
            scratch[n] = 0
            n += 1
        elif special != DROPPED:
            n = _write_code(entry & _CODE, chars[entry & _CODE], scratch, n)
    return n


@njit(nogil=True, cache=True)
def _write_code(code, kind, scratch, n):
    if kind == 1 and code < 128:
        scratch[n] = code
        return n + 1
    if kind == 2:
        scratch[n], scratch[n + 1] = 0, 0xFF
        n += 2
    if kind:
        for shift in (0, 6, 12, 18):
            scratch[n] = 0x80 | ((np.int64(code) >> shift) & 0x3F)
            n += 1
    if kind != 1:
        scratch[n] = 0
        n += 1
    return n


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
    letters, scratch = ascii_letters(rows.table, chars), room_for_words(rows.sizes, start, stop)
    for row in range(start, stop):
        counts[row] = row_words(rows, row, chars, letters, scratch, out[at[row] :])


@njit(nogil=True, cache=True)
def count_words(start, stop, rows, chars, counts):
    """Write the number of words of each row.

    Args:
        start: first row.
        stop: end of the range.
        rows: `RowBytes`.
        chars: class of each code point.
        counts: words of each row; written.
    """
    letters, scratch = ascii_letters(rows.table, chars), room_for_words(rows.sizes, start, stop)
    out = np.empty(room_for(longest_in(rows.sizes, start, stop)), np.uint64)
    for row in range(start, stop):
        counts[row] = row_words(rows, row, chars, letters, scratch, out)


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
def room_for_parts(sizes, start, stop):
    """Return scratch for `row_parts` of these rows: a byte for each of theirs, and eight zeros."""
    return np.zeros(longest_in(sizes, start, stop) + 8, np.uint8)


@njit(nogil=True, cache=True)
def row_parts(rows, row, chars, letters, scratch, out, first, last):
    """Hash the parts of one row's words (`hasClose_elements` has three).

    A part counts by its first six letters, without a plural s, and by all of its digits. Normalization is simpler here than for spans,
    since this only proposes candidates.

    Args:
        rows: `RowBytes`.
        row: index of the row.
        chars: class of each code point.
        letters: from `ascii_letters`.
        scratch: from `room_for_parts`.
        out: hashes, uint64; written.
        first: first byte of each part; written.
        last: byte after each part; written.

    Returns:
        The number of parts.
    """
    size = rows.sizes[row]
    data, high, has_joints = carray(pointer(rows.addresses[row]), size), np.uint8(rows.is_normalized[row] << 7), False
    for i in range(size):
        high |= data[i]
        scratch[i] = letters[data[i]]
    for i in range(1, size):
        has_joints |= _is_upper(data[i]) & (scratch[i - 1] != 0) & (not _is_upper(data[i - 1]))
    if high >= 128 or has_joints:
        return _parts_one_by_one(rows, row, chars, out, first, last)
    # The words of most rows are ASCII and have one part each, which is read as one number.
    scratch[size : size + 8] = 0
    count, at, address = 0, np.int64(0), np.int64(scratch.ctypes.data)
    while at < size:
        part = load_eight(address + at)
        if part & _BYTE == 0:
            at += 1
            continue
        ends, length, h = (part - _LOW_BITS) & ~part & _HIGH_BITS, np.int64(8), _SEED
        if ends:
            length = np.int64(trailing_zeros(ends) >> _THREE)
        else:
            while scratch[at + length]:
                length += 1
        kept = length if length < 6 else 6
        if 4 <= length <= 6 and scratch[at + length - 1] == _PLURAL:
            kept = length - 1
        for i in range(at + 6, at + length):
            if scratch[i] <= _NINE:
                h = _mix_in(h, scratch[i])
        out[count] = _part_hash(h, part & ((_ONE << np.uint64(8 * kept)) - _ONE))
        first[count], last[count] = at, at + length
        count += 1
        at += length + 1
    return count


@njit(nogil=True, cache=True)
def _parts_one_by_one(rows, row, chars, out, first, last):
    """Hash the parts as `row_parts` does, code point by code point."""
    size, is_normalized, table = rows.sizes[row], rows.is_normalized[row], rows.table
    data = carray(pointer(rows.addresses[row]), size)
    count, length, at, low, plural = 0, 0, 0, False, False
    # Up to six ASCII letters as one number, and all others mixed into a hash.
    h, value, before = _SEED, np.uint64(0), np.uint64(0)
    while at < size:
        code, step = decode(data, at, size)
        kind, code = _kind_of(code, is_normalized, table, chars)
        upper = _is_upper(data[at])
        if length and (kind == 0 or kind == 2 or (upper and low)):
            out[count] = _part_hash(h, before if plural else value)
            last[count] = at
            count += 1
            h, value, length = _SEED, np.uint64(0), 0
        if kind == 1:
            if length == 0:
                first[count] = at
            plural = code == _PLURAL and 3 <= length < 6
            before = value
            if length < 6 and code < 128:
                value |= np.uint64(code) << np.uint64(8 * length)
            elif length < 6 or 48 <= code <= _NINE:
                h = _mix_in(h, code)
            length += 1
        elif kind == 2:
            # No word: its number has no bits as high as this.
            out[count], first[count], last[count] = _part_hash(_SEED, ~np.uint64(code)), at, at + step
            count += 1
        low = kind == 1 and not upper
        at += step
    if length:
        out[count] = _part_hash(h, before if plural else value)
        last[count] = size
        count += 1
    return count


@njit(nogil=True, cache=True)
def _is_upper(byte):
    return np.uint8(byte - np.uint8(65)) < 26


@njit(nogil=True, cache=True)
def _mix_in(h, code):
    h = (h ^ np.uint64(code)) * PRIME
    return h ^ (h >> np.uint64(29))


@njit(nogil=True, cache=True)
def _part_hash(h, value):
    return mix((h ^ value) * PRIME)


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
    letters, scratch = ascii_letters(rows.table, chars), room_for_parts(rows.sizes, start, stop)
    for row in range(start, stop):
        counts[row] = row_parts(rows, row, chars, letters, scratch, out[at[row] :], first, last)


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
    codes, padded, raw, places = _room_for_bags(rows, start, stop)
    for row in range(start, stop):
        filled[row] = _bag(rows, row, codes, padded, raw, places, buckets[at[row] :], counts[at[row] :])


@njit(nogil=True, cache=True)
def _room_for_bags(rows, start, stop):
    """Return scratch for `_bag` of these rows."""
    most = room_for(longest_in(rows.sizes, start, stop))
    places = np.full(_room_for(3 * most + 6), -1, np.int32)
    return np.empty(most, np.uint32), np.empty(most, np.uint32), np.empty(3 * most + 6, np.int32), places


@njit(nogil=True, cache=True)
def _bag(rows, row, codes, padded, raw, places, buckets, counts):
    """Write the distinct buckets of one text with their counts, and return their number.

    Args:
        rows: `RowBytes`.
        row: index of the row.
        codes: scratch, as `padded`, `raw` and `places` (`_room_for_bags`).
        padded: scratch.
        raw: scratch.
        places: scratch.
        buckets: bucket numbers; written.
        counts: occurrences of each; written.
    """
    n, found, begin = max(read_row(rows, row, codes), 0), 0, 0
    for i in range(n + 1):
        if i < n and codes[i] != 32:
            continue
        if i > begin:
            padded[0], padded[i - begin + 1] = 32, 32
            padded[1 : i - begin + 1] = codes[begin:i]
            found += _grams_of_word(padded, i - begin + 2, raw[found:])
        begin = i + 1
    return _count(raw, found, places, buckets, counts)


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
    """Write the buckets of the n-grams of a padded word, the shortest first, and return their number."""
    # A loop over the code points of each n-gram takes twice the time. A word of fewer code points than the window has none.
    found, mask = 0, np.uint64(BUCKETS - 1)
    for i in range(n - 2):
        h = (np.uint64(3) ^ np.uint64(word[i])) * PRIME
        h = ((h ^ np.uint64(word[i + 1])) * PRIME ^ np.uint64(word[i + 2])) * PRIME
        out[found] = np.int32(mix(h) & mask)
        found += 1
    for i in range(n - 3):
        h = ((np.uint64(4) ^ np.uint64(word[i])) * PRIME ^ np.uint64(word[i + 1])) * PRIME
        h = ((h ^ np.uint64(word[i + 2])) * PRIME ^ np.uint64(word[i + 3])) * PRIME
        out[found] = np.int32(mix(h) & mask)
        found += 1
    for i in range(n - 4):
        h = ((np.uint64(5) ^ np.uint64(word[i])) * PRIME ^ np.uint64(word[i + 1])) * PRIME
        h = ((h ^ np.uint64(word[i + 2])) * PRIME ^ np.uint64(word[i + 3])) * PRIME
        out[found] = np.int32(mix((h ^ np.uint64(word[i + 4])) * PRIME) & mask)
        found += 1
    return found


@njit(nogil=True, cache=True)
def compare_grams(start, stop, rows, index, logs, candidates, is_long, least, cosine, share):
    """Compare texts with their candidates by character n-grams, without keeping the bags.

    Args:
        start: first text.
        stop: end of the range.
        rows: `RowBytes` of the texts.
        index: `features.UnitIndex`, whose `number_of` numbers the buckets.
        logs: 1 + log of every count.
        candidates: (texts, k) units, -1 for none.
        is_long: units that an edited copy is looked for of. Texts that share fewer than `least` of the n-grams with all of these are left
            out. Empty for all texts.
        least: see `is_long`.
        cosine: (texts, k), 0 where it is not computed; written.
        share: (texts, k) n-grams in common over those of the text or unit that has fewer; written.
    """
    codes, padded, raw, places = _room_for_bags(rows, start, stop)
    buckets, counts = np.empty(len(raw), np.int32), np.empty(len(raw), np.int32)
    room = _room_for_units(index, candidates.shape[1])
    for i in range(start, stop):
        n = _bag(rows, i, codes, padded, raw, places, buckets, counts)
        for place in range(n):
            buckets[place] = index.number_of[buckets[place]]
        _compare(buckets, counts, n, index, logs, candidates[i], is_long, least, room, cosine[i], share[i])


@njit(nogil=True, cache=True)
def compare_bags(start, stop, bags, index, logs, candidates, is_long, least, cosine, share):
    """Compare bags with their candidates, as `compare_grams` does; `bags` is `features.Bags`."""
    room = _room_for_units(index, candidates.shape[1])
    numbers = np.empty(longest_in(np.diff(bags.at), start, stop) + 1, np.int32)
    for i in range(start, stop):
        begin, end = bags.at[i], bags.at[i + 1]
        for place in range(begin, end):
            numbers[place - begin] = index.number_of[bags.numbers[place]]
        _compare(numbers, bags.counts[begin:end], end - begin, index, logs, candidates[i], is_long, least, room, cosine[i], share[i])


@njit(nogil=True, cache=True)
def _room_for_units(index, k):
    """Return scratch for `_compare` with k candidates."""
    longest = 0
    for unit in range(len(index.begin)):
        longest = max(longest, index.end[unit] - index.begin[unit])
    held, norms = np.zeros(len(index.weights), np.int32), np.zeros(index.weights.shape[1], np.float64)
    return held, np.empty((k, longest + 1), np.int32), np.empty(k, np.int64), norms


@njit(nogil=True, cache=True)
def _compare(numbers, counts, n, index, logs, candidates, is_long, least, room, cosine, share):
    """Compare one bag with its candidates; arguments as for `compare_grams`, and the bag and scratch."""
    held, hits, both, norms = room
    for place in range(n):
        held[numbers[place]] = counts[place]
    # No unit holds the number of what is in no unit.
    held[0] = 0
    both[:] = -1
    is_wanted = len(is_long) == 0
    if not is_wanted:
        for k in range(len(candidates)):
            unit = candidates[k]
            if unit >= 0 and is_long[unit]:
                both[k] = _in_common(unit, index, held, hits[k])
                share[k] = both[k] / max(1, min(n, index.end[unit] - index.begin[unit]))
                is_wanted |= np.float64(share[k]) >= least
    if is_wanted and n:
        norms[:] = -1.0
        for k in range(len(candidates)):
            unit = candidates[k]
            if unit < 0:
                continue
            suite = index.suite[unit]
            if norms[suite] < 0:
                norms[suite] = 0.0
                for place in range(n):
                    value = logs[counts[place]] * index.weights[numbers[place], suite]
                    norms[suite] += value * value
            own, dot = hits[k], np.float64(0.0)
            if both[k] < 0:
                both[k] = _in_common(unit, index, held, own)
            for hit in range(both[k]):
                place = own[hit]
                times = held[index.numbers[place]]
                if times == 1:
                    dot += index.once[place]
                else:
                    dot += index.unit[place] * np.float32(logs[times] * index.own[place])
            cosine[k] = dot / np.sqrt(norms[suite])
            share[k] = both[k] / max(1, min(n, index.end[unit] - index.begin[unit]))
    # Clear only what this text set: the scratch is as long as the vocabulary.
    for place in range(n):
        held[numbers[place]] = 0


@njit(nogil=True, cache=True)
def _in_common(unit, index, held, hits):
    """Write the places of the unit's numbers that a text holds, and return how many these are."""
    begin, both = index.begin[unit], np.uint64(0)
    # Without signed indexes, which are checked at each access.
    numbers = index.numbers[begin : index.end[unit]]
    for place in range(len(numbers)):
        hits[both] = begin + place
        both += np.uint64(held[numbers[place]] > 0)
    return np.int64(both)
