"""One hash per row for equal texts, and per row the band keys of its sketch for near ones."""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.dedup.kernels.read import PRIME, hash_shingles, mix, read_row, room

_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_FEW = 4
"""Empty bins that are looked for one by one: the loop over all shingles for one bin is a vector loop."""
_BLOCK = 256


@njit(nogil=True, cache=True)
def hash_codes(codes, n):
    """A 64-bit hash of a whole text, by four chains, so that no multiplication waits for the one before."""
    a, b, c, d = PRIME, PRIME ^ np.uint64(1), PRIME ^ np.uint64(2), PRIME ^ np.uint64(3)
    whole = n - n % 4
    for at in range(0, whole, 4):
        a = (a ^ np.uint64(codes[at])) * PRIME
        b = (b ^ np.uint64(codes[at + 1])) * PRIME
        c = (c ^ np.uint64(codes[at + 2])) * PRIME
        d = (d ^ np.uint64(codes[at + 3])) * PRIME
        if at % 64 == 60:
            a, b, c, d = mix(a), mix(b), mix(c), mix(d)
    for at in range(whole, n):
        a = (a ^ np.uint64(codes[at])) * PRIME
    return mix(mix(mix(mix(a) ^ b) ^ c) ^ d ^ np.uint64(n))


@njit(nogil=True, cache=True)
def exact_keys(start, stop, which, addresses, sizes, is_normal, table, sequences, keys, lengths):
    """For each row a 64-bit hash of its normalized code points and their number (-1: Python must normalize the row)."""
    codes = np.empty(room(sizes, which, start, stop), np.uint32)
    for i in range(start, stop):
        row = which[i]
        n = read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes)
        lengths[row] = n
        if n >= 0:
            keys[row] = hash_codes(codes, n)


@njit(nogil=True, cache=True)
def equal_rows(start, stop, pairs, addresses, sizes, is_normal, table, sequences, equal):
    """For pairs of rows whether their normalized texts are the same; a hash alone is no proof."""
    most = 16
    for i in range(start, stop):
        most = max(most, sizes[pairs[i, 0]], sizes[pairs[i, 1]])
    one, two = np.empty(most + most // 2 + 16, np.uint32), np.empty(most + most // 2 + 16, np.uint32)
    last, n = -1, 0
    for i in range(start, stop):
        a, b = pairs[i, 0], pairs[i, 1]
        if a != last:
            n = read_row(addresses[a], sizes[a], is_normal[a], table, sequences, one)
            last = a
        m = read_row(addresses[b], sizes[b], is_normal[b], table, sequences, two)
        same = n == m
        at = 0
        while same and at < n:
            same = one[at] == two[at]
            at += 1
        equal[i] = same


@njit(nogil=True, cache=True)
def fill_bins(hashes, count, bins, scratch):
    """The fast similarity sketch (Dahlgaard, Knudsen, Thorup 2017): every shingle goes to one bin a round, each bin keeps its
    least value, and rounds end when no bin is empty. Long texts take one or two rounds instead of a hash per bin and shingle.

    Hashing is a vector loop of its own, and no branch depends on a hash: half of those would be guessed wrong.

    Args:
        scratch: room for what `places_of` gives, from `new_scratch`.
    """
    empty = len(bins)
    bins[:] = _EMPTY
    for turn in range(len(bins)):
        if turn and empty <= _FEW:
            fill_last(hashes, count, turn, bins)
            return
        if turn == 1 and count > 16 * len(bins):  # so many in so few bins: nearly all are one and the same
            hashes = np.unique(hashes[:count])
            count = len(hashes)
        for begin in range(0, count, _BLOCK):
            size = min(_BLOCK, count - begin)
            places_of(hashes[begin : begin + size], turn, np.uint64(len(bins)), scratch)
            for i in range(size):
                at = scratch[0, i]
                old = bins[at]
                bins[at] = min(old, scratch[1, i])
                empty -= old == _EMPTY
    fill_last(hashes, count, len(bins), bins)


@njit(nogil=True, cache=True)
def new_scratch():
    """Room for one block of `fill_bins`."""
    return np.empty((2, _BLOCK), np.uint64)


@njit(nogil=True, cache=True)
def places_of(hashes, turn, size, scratch):
    """The bin that each shingle goes to in a round, and its value there."""
    salt, high = np.uint64(turn) * PRIME, np.uint64(turn) << _32
    for i in range(len(hashes)):
        h = (hashes[i] ^ salt) * PRIME if turn else hashes[i]
        h = h ^ (h >> _32) if turn else h
        scratch[0, i] = ((h >> _32) * size) >> _32
        scratch[1, i] = high | (h & _LOW)


@njit(nogil=True, cache=True)
def fill_last(hashes, count, turn, bins):
    """The rounds from this one on for the few bins that are empty; a bin still empty in its last round takes every shingle."""
    size = len(bins)
    for at in range(size):
        later = turn
        while bins[at] == _EMPTY:
            if later >= size:
                bins[at] = least_of(hashes, count, size + at, np.uint64(at), _EMPTY)
            else:
                bins[at] = least_of(hashes, count, later, np.uint64(at), np.uint64(size))
            later += 1


@njit(nogil=True, cache=True)
def least_of(hashes, count, turn, at, size):
    """What a round puts into one bin of `size`; of a size beyond all, every shingle's least."""
    salt, high, best = np.uint64(turn) * PRIME, np.uint64(turn) << _32, _EMPTY
    for i in range(count):
        h = (hashes[i] ^ salt) * PRIME
        h ^= h >> _32
        is_here = size == _EMPTY or ((h >> _32) * size) >> _32 == at
        best = min(best, high | (h & _LOW) if is_here else _EMPTY)
    return best


@njit(nogil=True, cache=True)
def band_keys(
    start, stop, which, addresses, sizes, is_normal, table, sequences, exact, lengths, width, bands, salts, keys, counts, signatures
):
    """In one reading of a row what `exact_keys` gives, `bands[0]` keys of `bands[1]` bins each, its number of shingles, and a
    byte of each bin, as many as there is room for.

    The 32-bit keys are mixed with the row's salt (its label).
    """
    length, few = room(sizes, which, start, stop), min(signatures.shape[1], bands[0] * bands[1])
    codes, hashes = np.empty(length, np.uint32), np.empty(length, np.uint64)
    bins, mixed, scratch = np.empty(bands[0] * bands[1], np.uint64), np.empty(bands[0], np.uint64), new_scratch()
    for i in range(start, stop):
        row = which[i]
        n = read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes)
        lengths[row] = n
        if n < 0:
            continue
        exact[row] = hash_codes(codes, n)
        count = hash_shingles(codes, n, width, hashes)
        counts[row] = count
        fill_bins(hashes, count, bins, scratch)
        mixed[:] = salts[row]
        for at in range(0, len(bins), bands[0]):  # a band's bins lie apart, so that all bands are mixed side by side
            part = bins[at : at + bands[0]]
            for band in range(bands[0]):
                key = (mixed[band] ^ part[band]) * PRIME
                mixed[band] = key ^ (key >> _32)
        for band in range(bands[0]):
            keys[band, row] = np.uint32(mix(mixed[band]) >> _32)
        for at in range(few):
            signatures[row, at] = np.uint8(bins[at])


@njit(nogil=True, cache=True)
def bin_values(start, stop, which, addresses, sizes, is_normal, table, sequences, width, values):
    """The low half of each row's bins: enough to see how alike two rows are."""
    length = room(sizes, which, start, stop)
    codes, hashes = np.empty(length, np.uint32), np.empty(length, np.uint64)
    bins, scratch = np.empty(values.shape[1], np.uint64), new_scratch()
    for i in range(start, stop):
        row = which[i]
        n = read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes)
        fill_bins(hashes, hash_shingles(codes, n, width, hashes), bins, scratch)
        for at in range(len(bins)):
            values[i, at] = np.uint32(bins[at] & _LOW)


@njit(nogil=True, cache=True)
def count_alike(start, stop, values, found):
    """How many pairs of rows share how many of their bins."""
    for i in range(start, stop):
        for j in range(i):
            same = 0
            for at in range(values.shape[1]):
                same += values[i, at] == values[j, at]
            found[i, same] += 1


@njit(nogil=True, cache=True)
def minhash_rows(start, stop, which, addresses, sizes, is_normal, table, sequences, width, a, b, out):
    """Bit for bit datasketch's `affine32` sketches of the upper halves of the shingle hashes."""
    length = room(sizes, which, start, stop)
    codes, hashes, mixed = np.empty(length, np.uint32), np.empty(length, np.uint64), np.empty(length, np.uint32)
    for i in range(start, stop):
        row = which[i]
        n = read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes)
        count = hash_shingles(codes, n, width, hashes)
        for at in range(count):
            h = np.uint32(hashes[at] >> _32)
            h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
            h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
            mixed[at] = h ^ (h >> np.uint32(16))
        for place in range(len(a)):
            least = np.uint32(0xFFFFFFFF)
            for at in range(count):
                least = min(least, np.uint32(a[place] * mixed[at] + b[place]))
            out[i, place] = least
