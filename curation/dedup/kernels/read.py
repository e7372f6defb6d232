"""From the bytes of a row to normalized code points, and from those to hashes of its shingles."""

from __future__ import annotations

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from curation.dedup.normalization import MARK, PYTHON, SEVERAL, SPACE

PRIME = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2, _S33 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
_CODE = np.uint32(0x1FFFFF)
_GAP = np.uint32(32)
_BLOCK, _STRETCH = 512, 128


@intrinsic
def pointer(typing, address):
    """An address as a pointer to bytes: rows are read where Arrow holds them, over any number of chunks, uncopied."""

    def build(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.CPointer(types.uint8)(types.int64), build


@njit(nogil=True, cache=True)
def mix(h):
    """The 64-bit finalizer of MurmurHash3."""
    h = (h ^ (h >> _S33)) * _M1
    h = (h ^ (h >> _S33)) * _M2
    return h ^ (h >> _S33)


@njit(nogil=True, cache=True)
def decode(data, at, size):
    """(code point at a place in UTF-8, bytes it takes); surrogates are read as they stand, a broken end as U+FFFD."""
    c = np.uint32(data[at])
    if c < 0x80:
        return c, 1
    need = 2 if c < 0xE0 else 3 if c < 0xF0 else 4
    if at + need > size:
        return np.uint32(0xFFFD), size - at
    low = np.uint32(data[at + 1]) & np.uint32(0x3F)
    if need == 2:
        return ((c & np.uint32(0x1F)) << np.uint32(6)) | low, 2
    low = (low << np.uint32(6)) | (np.uint32(data[at + 2]) & np.uint32(0x3F))
    if need == 3:
        return ((c & np.uint32(0x0F)) << np.uint32(12)) | low, 3
    code = ((c & np.uint32(0x07)) << np.uint32(18)) | (low << np.uint32(6)) | (np.uint32(data[at + 3]) & np.uint32(0x3F))
    return (code if code < 0x110000 else np.uint32(0xFFFD)), 4


@njit(nogil=True, cache=True)
def read_ascii(data, size, out):
    """`read_row` where every byte is ASCII, in loops that become vector instructions; -1 where one is not."""
    high, n, before = np.uint8(0), 0, _GAP
    for i in range(size):
        high |= data[i]
    if high >= 0x80:
        return -1
    for begin in range(0, size, _STRETCH):
        count = min(_STRETCH, size - begin)
        part, to, crowded, last = data[begin : begin + count], out[n : n + count], 0, before
        for i in range(count):
            to[i] = fold_ascii(part[i])
        for i in range(count - 1):
            crowded += (to[i] == _GAP) & (to[i + 1] == _GAP)
        before = to[count - 1]
        if crowded == 0 and (last != _GAP or to[0] != _GAP):
            n += count
            continue
        for i in range(count):
            code = to[i]
            out[n] = code
            n += code != _GAP or last != _GAP
            last = code
    return n - 1 if n and before == _GAP else n


@njit(nogil=True, cache=True)
def is_gap(byte):
    """Whether an ASCII byte is a space or a control, which is read as one."""
    return byte <= 32 or byte == 127


@njit(nogil=True, cache=True)
def fold_ascii(byte):
    """A letter in lower case, a gap as a space."""
    code = np.uint32(byte)
    if is_gap(byte):
        return _GAP
    return code + np.uint32(32) if 65 <= code <= 90 else code


@njit(nogil=True, cache=True)
def read_row(address, size, is_normal, table, sequences, out):
    """Write the normalized code points of a row; gives their number, or -1 where Python must normalize it.

    `out` has `room` for the row as it stands: what lies behind the last code point is overwritten too.
    """
    data = carray(pointer(address), size)
    n = read_ascii(data, size, out)
    if n >= 0:
        return n
    n, at, last, before = 0, 0, np.uint32(0), _GAP
    while at < size:
        if data[at] < 0x80:
            code = fold_ascii(data[at])
            out[n] = code
            n += code != _GAP or before != _GAP
            last, before = np.uint32(0), code
            at += 1
            continue
        code, step = decode(data, at, size)
        at += step
        entry = code if is_normal else table[code]
        if entry < 0x200000:
            out[n] = entry
            n += 1
            last, before = np.uint32(0), entry
            continue
        kind = (entry >> np.uint32(21)) & np.uint32(7)
        if kind == SPACE:
            out[n] = _GAP
            n += before != _GAP
            last, before = np.uint32(0), _GAP
        elif kind == PYTHON:
            return -1
        elif kind == MARK:
            if entry >> np.uint32(24) < last:
                return -1
            last, before = entry >> np.uint32(24), entry & _CODE
            out[n] = before
            n += 1
        elif kind == SEVERAL:
            first = np.int64(entry & _CODE)
            for i in range(np.int64(sequences[first])):
                out[n] = sequences[first + 1 + i]
                n += 1
            last = before = np.uint32(0)
    return n - 1 if n and before == _GAP else n


@njit(nogil=True, cache=True)
def hash_shingles(codes, n, width, out):
    """64-bit hashes of the windows of `width` code points, as many as there are; a shorter text is one, padded with NUL.

    Shingles are computed side by side: a rolling hash would wait for itself.
    """
    codes[n : max(n, width)] = np.uint32(0)
    count = max(n - width + 1, 1)
    if width == 5:
        hash_fives(codes, count, out)
        return count
    for begin in range(0, count, _BLOCK):  # one code point of all shingles after the other, in the nearest cache
        size = min(_BLOCK, count - begin)
        part = out[begin : begin + size]
        part[:] = codes[begin : begin + size]
        for place in range(1, width):
            following = codes[begin + place : begin + place + size]
            for i in range(size):
                part[i] = part[i] * PRIME + np.uint64(following[i])
        for i in range(size):
            part[i] = mix(part[i])
    return count


@njit(nogil=True, cache=True)
def hash_fives(codes, count, out):
    """`hash_shingles` for the usual width, in registers."""
    a, b, c, d, e = codes[:count], codes[1 : count + 1], codes[2 : count + 2], codes[3 : count + 3], codes[4 : count + 4]
    for i in range(count):
        h = (np.uint64(a[i]) * PRIME + np.uint64(b[i])) * PRIME + np.uint64(c[i])
        out[i] = mix((h * PRIME + np.uint64(d[i])) * PRIME + np.uint64(e[i]))


@njit(nogil=True, cache=True)
def room(sizes, which, start, stop):
    """Code points that the longest of these rows can become: two bytes may fold to three."""
    most = 0
    for i in range(start, stop):
        most = max(most, sizes[which[i]])
    return most + most // 2 + 16


@njit(nogil=True, cache=True)
def read_rows_into(which, at, addresses, sizes, is_normal, table, sequences, out):
    """Write the normalized code points of some rows, each at its place."""
    codes = np.empty(room(sizes, which, 0, len(which)), np.uint32)
    for i in range(len(which)):
        row = which[i]
        n = max(read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes), 0)
        out[at[i] : at[i] + n] = codes[:n]
