"""From the bytes of a row to normalized code points, and from those to hashes of its shingles."""

from __future__ import annotations

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from curation.dedup.folding import DROPPED, MARK, PYTHON, SEVERAL, SPACE

PRIME = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2, _S33 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
_CODE = np.uint32(0x1FFFFF)
_GAP = np.uint32(32)


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
def read_row(address, size, is_normal, table, sequences, out):
    """Write the normalized code points of a row; gives their number, or -1 where Python must normalize it."""
    data = carray(pointer(address), size)
    n, at, gap, last = 0, 0, False, np.uint32(0)
    while at < size:
        code, step = decode(data, at, size)
        at += step
        entry = code if is_normal else table[code]
        if entry < 0x200000:
            if gap:
                out[n] = _GAP
                n += 1
                gap = False
            out[n] = entry
            n += 1
            last = np.uint32(0)
            continue
        kind = (entry >> np.uint32(21)) & np.uint32(7)
        if kind == SPACE:
            gap, last = n > 0, np.uint32(0)
        elif kind == PYTHON:
            return -1
        elif kind != DROPPED:
            if gap:
                out[n] = _GAP
                n += 1
                gap = False
            if kind == MARK:
                if entry >> np.uint32(24) < last:
                    return -1
                last = entry >> np.uint32(24)
                out[n] = entry & _CODE
                n += 1
            elif kind == SEVERAL:
                first = np.int64(entry & _CODE)
                for i in range(np.int64(sequences[first])):
                    out[n] = sequences[first + 1 + i]
                    n += 1
                last = np.uint32(0)
    return n


@njit(nogil=True, cache=True)
def hash_shingles(codes, n, width, out):
    """64-bit hashes of the windows of `width` code points, as many as there are; a shorter text is one, padded with NUL."""
    h, top = np.uint64(0), np.uint64(1)
    for i in range(width):
        h = h * PRIME + (np.uint64(codes[i]) if i < n else np.uint64(0))
        top = top * PRIME if i else top
    out[0] = h
    for i in range(width, n):
        h = (h - np.uint64(codes[i - width]) * top) * PRIME + np.uint64(codes[i])
        out[i - width + 1] = h
    count = max(n - width + 1, 1)
    for i in range(count):
        out[i] = mix(out[i])
    return count


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
    for i in range(len(which)):
        row = which[i]
        read_row(addresses[row], sizes[row], is_normal[row], table, sequences, out[at[i] :])
