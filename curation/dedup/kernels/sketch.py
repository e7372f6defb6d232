"""Hash rows for equal texts, and sketch them for near ones.

The sketch is the fast similarity sketch of Dahlgaard, Knudsen and Thorup (2017): as exact as a MinHash of the same size, but
a long text takes one or two rounds in place of one hash per bin and shingle. Bins that three rounds leave empty are filled as in MinHash.

Rows that share an LSH band are runs of equal keys in a sorted array of (key, place). A key and a place share one 64-bit number (key in the
upper half), because sorting one array is faster than an indirect sort.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from curation.dedup.kernels.read import PRIME, hash_shingles, longest_of, mix, read_row, room_for

_EMPTY, _FREE = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint32(0xFFFFFFFF)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
# Rounds in which each shingle goes to one bin. It is the same for all rows: else two rows would fill a bin in two ways.
_ROUNDS = 3
# With so few empty bins left, one vector loop over all shingles per bin is faster than another round.
_FEW = 8
# Shingles hashed together, and the steps of a vector loop over them: what is left over would be done one by one.
_BLOCK, _PAD = 256, 64


@njit(nogil=True, cache=True)
def hash_codes(codes, n):
    """Return a 64-bit hash of a whole text of `n` code points."""
    # Four independent chains, so that no multiplication waits for the one before.
    a, b, c, d = PRIME, PRIME ^ np.uint64(1), PRIME ^ np.uint64(2), PRIME ^ np.uint64(3)
    whole = n - n % 4
    for at in range(0, whole, 4):
        a = (a ^ np.uint64(codes[at])) * PRIME
        b = (b ^ np.uint64(codes[at + 1])) * PRIME
        c = (c ^ np.uint64(codes[at + 2])) * PRIME
        d = (d ^ np.uint64(codes[at + 3])) * PRIME
        # A multiplication carries differences to higher bits only; mixing in between brings them back to the lower ones.
        if at % 64 == 60:
            a, b, c, d = mix(a), mix(b), mix(c), mix(d)
    for at in range(whole, n):
        a = (a ^ np.uint64(codes[at])) * PRIME
    return mix(mix(mix(mix(a) ^ b) ^ c) ^ d ^ np.uint64(n))


@njit(nogil=True, cache=True)
def exact_keys(start, stop, which, rows, keys, lengths):
    """Hash the normalized text of the rows which[start:stop].

    Args:
        start: first index into `which`.
        stop: end of the range.
        which: row indices.
        rows: `RowBytes` of all rows.
        keys: 64-bit hash of each row; written.
        lengths: code points of each row, -1 if Python must normalize it; written.
    """
    codes = np.empty(room_for(longest_of(rows.sizes, which, start, stop)), np.uint32)
    for i in range(start, stop):
        row = which[i]
        n = read_row(rows, row, codes)
        lengths[row] = n
        if n >= 0:
            keys[row] = hash_codes(codes, n)


@njit(nogil=True, cache=True)
def equal_rows(start, stop, pairs, rows, equal):
    """Compare the normalized texts of pairs of rows; equal hashes alone are no proof.

    Args:
        start: first pair.
        stop: end of the range.
        pairs: (n, 2) row indices, sorted by the first.
        rows: `RowBytes` of all rows.
        equal: True for each pair of equal texts; written.
    """
    most = 0
    for i in range(start, stop):
        most = max(most, rows.sizes[pairs[i, 0]], rows.sizes[pairs[i, 1]])
    one, two = np.empty(room_for(most), np.uint32), np.empty(room_for(most), np.uint32)
    last, n = -1, 0
    for i in range(start, stop):
        a, b = pairs[i, 0], pairs[i, 1]
        if a != last:
            n = read_row(rows, a, one)
            last = a
        same = n == read_row(rows, b, two)
        at = 0
        while same and at < n:
            same = one[at] == two[at]
            at += 1
        equal[i] = same


class Scratch(NamedTuple):
    """Working memory of `fill_bins`, and the hash functions of the bins."""

    places: Any
    """Bin of each shingle of a block."""
    values: Any
    """Value of each shingle of a block."""
    fresh: Any
    """Least value of each bin in one round."""
    factors: Any
    """Odd 32-bit number of each bin."""
    summands: Any
    """32-bit number of each bin."""
    empty: Any
    """Bins that no shingle went to."""
    least: Any
    """Least value of each of them."""
    chosen_factors: Any
    """Factor of each of them."""
    chosen_summands: Any
    """Summand of each of them."""


@njit(nogil=True, cache=True)
def new_scratch(size):
    """Allocate the working memory of a sketch of `size` bins."""
    factors, summands = np.empty(size, np.uint32), np.empty(size, np.uint32)
    for at in range(size):
        h = mix(np.uint64(at) * PRIME + PRIME)
        factors[at], summands[at] = np.uint32(h >> _32) | np.uint32(1), np.uint32(h & _LOW)
    block = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint32), np.empty(size, np.uint32)
    chosen = np.empty(pad(size), np.uint32), np.zeros(pad(size), np.uint32), np.zeros(pad(size), np.uint32)
    return Scratch(*block, factors, summands, np.empty(size, np.int64), *chosen)


@njit(nogil=True, cache=True)
def fill_bins(hashes, count, bins, scratch):
    """Fill the bins of a fast similarity sketch.

    In each of the first three rounds every shingle goes to one bin, and a bin keeps its least value. A bin that is then empty takes
    the least of all shingles under a hash function of its own, as in MinHash.

    Args:
        hashes: 64-bit hashes of the shingles.
        count: number of shingles.
        bins: round and value of each bin, uint64; written.
        scratch: `Scratch` for this number of bins.
    """
    places, values, fresh, size = scratch.places, scratch.values, scratch.fresh, np.uint64(len(bins))
    empty = len(bins)
    bins[:] = _EMPTY
    for turn in range(_ROUNDS):
        if turn == 1 and count > 16 * len(bins) and empty:
            # So many shingles left bins empty: nearly all of them are equal (a text that repeats itself).
            hashes = np.unique(hashes[:count])
            count = len(hashes)
        if turn and empty <= _FEW:
            empty = fill_few(hashes, count, turn, bins, scratch) if empty else 0
            continue
        fresh[:] = _FREE
        for begin in range(0, count, _BLOCK):
            block = min(_BLOCK, count - begin)
            # Hashing is a vector loop of its own, and no branch depends on a hash: half of them would be predicted wrong.
            places_of(hashes, begin, block, turn, size, places, values)
            for i in range(block):
                place = np.uint64(places[i])
                fresh[place] = min(fresh[place], values[i])
        # The round is the upper half of the value, so that a value of an earlier round is always less.
        high, empty = np.uint64(turn) << _32, 0
        for at in range(len(bins)):
            bins[at] = min(bins[at], high | np.uint64(fresh[at]) if fresh[at] != _FREE else _EMPTY)
            empty += bins[at] == _EMPTY
    if empty:
        fill_last(hashes, count, bins, scratch)


@njit(nogil=True, cache=True)
def places_of(hashes, begin, block, turn, size, places, values):
    """Compute the bin and the value of each shingle of a block in one round.

    Args:
        hashes: 64-bit hashes of the shingles.
        begin: first shingle of the block.
        block: number of shingles of the block.
        turn: number of the round.
        size: number of bins, uint64.
        places: bins; written.
        values: written.
    """
    salt = np.uint64(turn) * PRIME
    for i in range(block):
        # Unsigned indices, which are not checked for being negative, compile to vector instructions.
        h = hashes[np.uint64(begin + i)]
        h = (h ^ salt) * PRIME if turn else h
        h = h ^ (h >> _32) if turn else h
        # The upper 32 bits, scaled to the number of bins without a division (Lemire's range reduction).
        places[i] = np.uint32(((h >> _32) * size) >> _32)
        values[i] = np.uint32(h & _LOW)


@njit(nogil=True, cache=True)
def fill_few(hashes, count, turn, bins, scratch):
    """Do one round for a few empty bins: one vector loop over all shingles for each of them.

    Args:
        hashes: 64-bit hashes of the shingles.
        count: number of shingles.
        turn: number of the round.
        bins: bins of the sketch; written.
        scratch: `Scratch` for this number of bins.

    Returns:
        The number of bins that stay empty.
    """
    places, values, empty, least = scratch.places, scratch.values, scratch.empty, scratch.least
    n, left = list_empty(bins, empty), 0
    for j in range(n):
        least[j] = _FREE
    for begin in range(0, count, _BLOCK):
        block = min(_BLOCK, count - begin)
        places_of(hashes, begin, block, turn, np.uint64(len(bins)), places, values)
        padded = pad(block)
        for i in range(block, padded):
            places[i] = _FREE
        for j in range(n):
            at, best = np.uint32(empty[j]), least[j]
            for i in range(padded):
                best = min(best, values[i] if places[i] == at else _FREE)
            least[j] = best
    for j in range(n):
        left += least[j] == _FREE
        bins[empty[j]] = (np.uint64(turn) << _32) | np.uint64(least[j]) if least[j] != _FREE else _EMPTY
    return left


@njit(nogil=True, cache=True)
def list_empty(bins, empty):
    """Write the empty bins to `empty`, and return their number."""
    n = 0
    for at in range(len(bins)):
        empty[n] = at
        n += bins[at] == _EMPTY
    return n


@njit(nogil=True, cache=True)
def fill_last(hashes, count, bins, scratch):
    """Put the least of all shingles into each bin that is empty, under the hash function of that bin (factor * upper half + summand).

    Args:
        hashes: 64-bit hashes of the shingles.
        count: number of shingles.
        bins: bins of the sketch; written.
        scratch: `Scratch` for this number of bins.
    """
    empty, halves, least, factors, summands = scratch.empty, scratch.values, scratch.least, scratch.chosen_factors, scratch.chosen_summands
    n, high = list_empty(bins, empty), np.uint64(_ROUNDS) << _32
    for j in range(n):
        factors[j], summands[j], least[j] = scratch.factors[empty[j]], scratch.summands[empty[j]], _FREE
    for begin in range(0, count, _BLOCK):
        block = min(_BLOCK, count - begin)
        for i in range(block):
            halves[i] = np.uint32(hashes[np.uint64(begin + i)] >> _32)
        # The inner loop, which compiles to vector instructions, is over the shingles, or over the bins where these are more.
        if n > block // 2:
            bins_padded = pad(n)
            for i in range(block):
                value = halves[i]
                for j in range(bins_padded):
                    least[j] = min(least[j], np.uint32(factors[j] * value + summands[j]))
            continue
        padded = pad(block)
        for i in range(block, padded):
            halves[i] = halves[0]
        for j in range(n):
            factor, summand, best = factors[j], summands[j], least[j]
            for i in range(padded):
                best = min(best, np.uint32(factor * halves[i] + summand))
            least[j] = best
    for j in range(n):
        bins[empty[j]] = high | np.uint64(least[j])


@njit(nogil=True, cache=True)
def fill_long(hashes, count, bins, least):
    """Write the signature of a long row by one-permutation hashing: every shingle goes to one bin, and bins may stay empty.

    Args:
        hashes: 64-bit hashes of the shingles.
        count: number of shingles.
        bins: low byte of the least value of each bin (1 in place of 0), 0 for an empty one; written.
        least: working memory of the same size, uint32.
    """
    size = np.uint64(len(bins))
    least[:] = _FREE
    for i in range(count):
        place = ((hashes[i] >> _32) * size) >> _32
        least[place] = min(least[place], np.uint32(hashes[i] & _LOW))
    for at in range(len(bins)):
        bins[at] = np.uint8(0) if least[at] == _FREE else max(np.uint8(least[at]), np.uint8(1))


@njit(nogil=True, cache=True)
def pad(n):
    """Return the next multiple of `_PAD`."""
    return (n + _PAD - 1) // _PAD * _PAD


@njit(nogil=True, cache=True)
def band_keys(start, stop, which, rows, exact, lengths, sketch):
    """Compute, in one reading of a row, its exact key, its LSH band keys, its shingle count and its signature.

    Args:
        start: first index into `which`.
        stop: end of the range.
        which: row indices.
        rows: `RowBytes` of all rows.
        exact: 64-bit hash of each text, another one than that of `exact_keys`; written.
        lengths: code points of each row, -1 if Python must normalize it; written.
        sketch: `near.BandSketch`: the parameters, and the arrays to fill.
    """
    bands, width, salts = sketch.bands, sketch.shingle, sketch.salts
    keys, counts, signatures, long_at, long_bins = sketch.keys, sketch.counts, sketch.signatures, sketch.long.at, sketch.long.bins
    length, few = room_for(longest_of(rows.sizes, which, start, stop)), min(signatures.shape[1], bands[0] * bands[1])
    codes, hashes = np.empty(length, np.uint32), np.empty(length, np.uint64)
    bins, mixed, scratch = np.empty(bands[0] * bands[1], np.uint64), np.empty(bands[0], np.uint64), new_scratch(bands[0] * bands[1])
    short, least = np.empty(bands[0], np.uint32), np.empty(long_bins.shape[1], np.uint32)
    for i in range(start, stop):
        row = which[i]
        n = read_row(rows, row, codes)
        lengths[row] = n
        if n < 0:
            continue
        count = hash_shingles(codes, n, width, hashes)
        counts[row] = count
        # The shingles with their places are the text.
        key = np.uint64(n)
        for at in range(count):
            key += hashes[at] * np.uint64(2 * at + 1)
        exact[row] = mix(key)
        fill_bins(hashes, count, bins, scratch)
        # The salt is the row's label: rows with different labels never share a key.
        mixed[:] = salts[row]
        # The bins of one band are `bands[0]` apart, so that all bands are mixed in parallel.
        for at in range(0, len(bins), bands[0]):
            part = bins[at : at + bands[0]]
            for band in range(bands[0]):
                key = (mixed[band] ^ part[band]) * PRIME
                mixed[band] = key ^ (key >> _32)
        for band in range(bands[0]):
            short[band] = np.uint32(mix(mixed[band]) >> _32)
        # A loop of its own: with these scattered writes the one before would not be a vector loop.
        for band in range(bands[0]):
            keys[band, row] = short[band]
        for at in range(few):
            signatures[row, at] = np.uint8(bins[at])
        if len(long_at) and long_at[row] >= 0:
            fill_long(hashes, count, long_bins[long_at[row]], least)


@njit(nogil=True, cache=True)
def bin_values(start, stop, which, rows, width, values):
    """Write the low half of each row's bins, enough to estimate the similarity of two rows.

    Args:
        start: first index into `which`.
        stop: end of the range.
        which: row indices.
        rows: `RowBytes` of all rows.
        width: code points in a shingle.
        values: (len(which), bins) uint32; written.
    """
    length = room_for(longest_of(rows.sizes, which, start, stop))
    codes, hashes = np.empty(length, np.uint32), np.empty(length, np.uint64)
    bins, scratch = np.empty(values.shape[1], np.uint64), new_scratch(values.shape[1])
    for i in range(start, stop):
        n = read_row(rows, which[i], codes)
        fill_bins(hashes, hash_shingles(codes, n, width, hashes), bins, scratch)
        for at in range(len(bins)):
            values[i, at] = np.uint32(bins[at] & _LOW)


@njit(nogil=True, cache=True)
def count_shared(start, stop, values, found):
    """Count the pairs of sketches by the number of bins they share.

    Args:
        start: first row.
        stop: end of the range.
        values: (rows, bins) from `bin_values`.
        found: (rows, bins + 1) counts; written.
    """
    for i in range(start, stop):
        for j in range(i):
            same = 0
            for at in range(values.shape[1]):
                same += values[i, at] == values[j, at]
            found[i, same] += 1


@njit(nogil=True, cache=True)
def minhash_rows(start, stop, which, rows, width, permutations, out):
    """Write datasketch's `affine32` sketches, bit for bit, of the upper halves of the shingle hashes.

    Args:
        start: first index into `which`.
        stop: end of the range.
        which: row indices.
        rows: `RowBytes` of all rows.
        width: code points in a shingle.
        permutations: (multipliers, summands) of datasketch, uint32.
        out: (len(which), permutations) uint32; written.
    """
    a, b = permutations
    length = room_for(longest_of(rows.sizes, which, start, stop))
    codes, hashes, mixed = np.empty(length, np.uint32), np.empty(length, np.uint64), np.empty(length, np.uint32)
    for i in range(start, stop):
        n = read_row(rows, which[i], codes)
        count = hash_shingles(codes, n, width, hashes)
        for at in range(count):
            # The 32-bit finalizer of MurmurHash3, which datasketch applies before it permutes.
            h = np.uint32(hashes[at] >> _32)
            h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
            h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
            mixed[at] = h ^ (h >> np.uint32(16))
        for place in range(len(a)):
            least = np.uint32(0xFFFFFFFF)
            for at in range(count):
                least = min(least, np.uint32(a[place] * mixed[at] + b[place]))
            out[i, place] = least


@njit(nogil=True, cache=True)
def count_members(packed, sizes):
    """Count the buckets of each place: a bucket is a key that at least two places have.

    Args:
        packed: sorted (key, place), uint64.
        sizes: buckets of each place; increased.

    Returns:
        The number of buckets.
    """
    found, start = 0, 0
    for i in range(1, len(packed) + 1):
        if i == len(packed) or packed[i] >> _32 != packed[start] >> _32:
            if i - start > 1:
                found += 1
                for j in range(start, i):
                    sizes[packed[j] & _LOW] += 1
            start = i
    return found


@njit(nogil=True, cache=True)
def write_members(packed, first_bucket, at, members):
    """Write the numbers of the buckets that `count_members` counted behind those that each place has.

    Args:
        packed: sorted (key, place), uint64.
        first_bucket: number of the first bucket.
        at: end of each place's buckets in `members`; increased.
        members: bucket numbers; written.
    """
    bucket, start = first_bucket, 0
    for i in range(1, len(packed) + 1):
        if i == len(packed) or packed[i] >> _32 != packed[start] >> _32:
            if i - start > 1:
                for j in range(start, i):
                    place = packed[j] & _LOW
                    members[at[place]] = bucket
                    at[place] += 1
                bucket += 1
            start = i


@njit(nogil=True, cache=True)
def pairs_in_runs(packed, whole, firsts, out, write):
    """Write the candidate pairs of each run: all pairs of a run of at most `whole` places, else each place with the first few.

    Args:
        packed: sorted (key, place), uint64.
        whole: size of the largest run that is paired completely.
        firsts: places that each member of a larger run is paired with.
        out: (later place, earlier place), uint64.
        write: False to count only.

    Returns:
        (pairs, places in runs larger than `whole`).
    """
    found, crowded, start = 0, 0, 0
    for i in range(1, len(packed) + 1):
        if i == len(packed) or packed[i] >> _32 != packed[start] >> _32:
            size = i - start
            crowded += size if size > whole else 0
            for j in range(start + 1, i):
                for k in range(start, j if size <= whole else min(j, start + firsts)):
                    if write:
                        out[found] = ((packed[j] & np.uint64(0xFFFFFFFF)) << _32) | (packed[k] & np.uint64(0xFFFFFFFF))
                    found += 1
            start = i
    return found, crowded


@njit(nogil=True, cache=True)
def mark_repeated(keys, places, shift, once, twice, out):
    """Write (key, place) of the keys that may occur twice, unsorted.

    A Bloom-like filter of two bits per slot: cheaper than sorting the keys of all rows, most of which are unique.

    Args:
        keys: 32-bit key of every row.
        places: rows to look at.
        shift: bits by which a key is shifted to its slot.
        once: bit set, one bit per slot: a key was seen.
        twice: bit set: a second key was seen.
        out: (key, index into `places`), uint64.

    Returns:
        The number of entries written.
    """
    once[:] = np.uint64(0)
    twice[:] = np.uint64(0)
    for place in places:
        slot = keys[place] >> shift
        bit = np.uint64(1) << np.uint64(slot & np.uint32(63))
        word = slot >> np.uint32(6)
        twice[word] |= once[word] & bit
        once[word] |= bit
    found = 0
    for i in range(len(places)):
        key = keys[places[i]]
        slot = key >> shift
        if twice[slot >> np.uint32(6)] >> np.uint64(slot & np.uint32(63)) & np.uint64(1):
            out[found] = (np.uint64(key) << _32) | np.uint64(i)
            found += 1
    return found
