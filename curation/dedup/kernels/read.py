"""Read the bytes of a row as normalized code points and hash its shingles.

Normalization is a table look-up per code point (`normalization.folding_table`). ASCII text, the usual case, is read by loops that
the compiler turns into vector instructions. Rows whose combining marks may compose are left to Python.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from curation.dedup.normalization import MARK, PYTHON, SEVERAL, SPACE

# 2^64 divided by the golden ratio: the multiplier of Fibonacci hashing.
PRIME = np.uint64(0x9E3779B97F4A7C15)
# Constants of MurmurHash3's 64-bit finalizer.
_M1, _M2, _S33 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
# The lowest 21 bits of a table entry hold a code point (or a place in the sequences).
_CODE = np.uint32(0x1FFFFF)
_GAP = np.uint32(32)
# Shingles hashed together, and bytes read together: both fit the first-level cache.
_BLOCK, _STRETCH = 512, 128


@intrinsic
def pointer(typing, address):
    """Convert an address to a pointer to bytes, so that rows are read from Arrow's chunks without a copy."""

    def build(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.CPointer(types.uint8)(types.int64), build


@intrinsic
def prefetch(typing, address):
    """Load a cache line ahead of its use, so that other work is done while the memory answers."""

    def build(context, builder, signature, arguments):
        line, number = builder.inttoptr(arguments[0], cgutils.voidptr_t), cgutils.int32_t
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", (cgutils.voidptr_t,), kind)
        # To read, into all levels of the cache, data.
        builder.call(function, [line, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.int64), build


@njit(nogil=True, cache=True)
def mix(h):
    """Mix all bits of a 64-bit value (the finalizer of MurmurHash3)."""
    h = (h ^ (h >> _S33)) * _M1
    h = (h ^ (h >> _S33)) * _M2
    return h ^ (h >> _S33)


@njit(nogil=True, cache=True)
def decode(data, at, size):
    """Decode one code point of UTF-8.

    Args:
        data: bytes of the text.
        at: index of the first byte.
        size: number of bytes of the text.

    Returns:
        (code point, bytes it takes). Surrogates are returned unchanged; a truncated end gives U+FFFD.
    """
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
    """Write the normalized code points of ASCII bytes, in loops that compile to vector instructions.

    Args:
        data: bytes of the row.
        size: number of bytes.
        out: code points, uint32.

    Returns:
        The number of code points, or -1 if a byte is not ASCII.
    """
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
        # Runs of gaps are rare. Only a stretch that has one is copied code point by code point.
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
    """Return True for an ASCII space or control character; both are read as a space."""
    return byte <= 32 or byte == 127


@njit(nogil=True, cache=True)
def fold_ascii(byte):
    """Return the byte as a code point: letters in lower case, gaps as a space."""
    code = np.uint32(byte)
    if is_gap(byte):
        return _GAP
    return code + np.uint32(32) if 65 <= code <= 90 else code


@njit(nogil=True, cache=True)
def read_row(rows, row, out):
    """Write the normalized code points of a row.

    Args:
        rows: `RowBytes` of all rows.
        row: index of the row.
        out: code points, uint32, with `room_for` the row. Values behind the last code point are overwritten too.

    Returns:
        The number of code points, or -1 if Python must normalize the row.
    """
    size, is_normalized, table, sequences = rows.sizes[row], rows.is_normalized[row], rows.table, rows.sequences
    data = carray(pointer(rows.addresses[row]), size)
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
        entry = code if is_normalized else table[code]
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
            # Marks in descending order of their class would be reordered by NFC.
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
    """Hash every window of `width` code points; a shorter text is one window, padded with NUL.

    Args:
        codes: code points of the text, with room for the padding.
        n: number of code points.
        width: code points in a shingle.
        out: 64-bit hashes.

    Returns:
        The number of shingles.
    """
    # Shingles are computed in parallel: each step of a rolling hash would wait for the one before.
    codes[n : max(n, width)] = np.uint32(0)
    count = max(n - width + 1, 1)
    if width == 5:
        hash_fives(codes, count, out)
        return count
    for begin in range(0, count, _BLOCK):
        # One code point of all shingles of a block after the other, so that the loop is a vector loop.
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
    """Hash the shingles of the default width (5) in registers.

    Args:
        codes: code points of the text.
        count: number of shingles.
        out: 64-bit hashes.
    """
    a, b, c, d, e = codes[:count], codes[1 : count + 1], codes[2 : count + 2], codes[3 : count + 3], codes[4 : count + 4]
    for i in range(count):
        h = (np.uint64(a[i]) * PRIME + np.uint64(b[i])) * PRIME + np.uint64(c[i])
        out[i] = mix((h * PRIME + np.uint64(d[i])) * PRIME + np.uint64(e[i]))


@njit(nogil=True, cache=True)
def room_for(size):
    """Return the number of code points that a row of `size` bytes can become: two bytes may fold to three code points."""
    return size + size // 2 + 16


@njit(nogil=True, cache=True)
def longest_of(sizes, which, start, stop):
    """Return the number of bytes of the longest of the rows which[start:stop].

    Args:
        sizes: bytes of every row.
        which: row indices.
        start: first index into `which`.
        stop: end of the range.
    """
    longest = 0
    for i in range(start, stop):
        longest = max(longest, sizes[which[i]])
    return longest


@njit(nogil=True, cache=True)
def read_rows_into(which, at, rows, out):
    """Write the normalized code points of some rows, each at its offset.

    Args:
        which: row indices.
        at: offset into `out` for each of them.
        rows: `RowBytes` of all rows.
        out: code points, uint32.
    """
    codes = np.empty(room_for(longest_of(rows.sizes, which, 0, len(which))), np.uint32)
    for i in range(len(which)):
        n = max(read_row(rows, which[i], codes), 0)
        out[at[i] : at[i] + n] = codes[:n]
