"""Shingles of one text, plainly: what the compiled loops must agree with, and datasketch's sketches for its own indexes.

Texts are normalized before they come here, so NUL never occurs in one and can pad those shorter than a shingle.
"""

from __future__ import annotations

import numpy as np

from curation.dedup.rows import Array, Texts, keyed_rows, spread

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_SEED = 1


def shingle_hashes(text: str, shingle: int) -> Array:
    """The set of a text's shingles as sorted 64-bit hashes; a text shorter than one shingle is one shingle."""
    return np.unique(_mix(_rolling(_codes(text.ljust(shingle, "\0")), shingle)))


def jaccard(a: Array, b: Array) -> float:
    """Shared over all, exactly, of two sets from `shingle_hashes`."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    return float(shared / (a.size + b.size - shared))


def sketches(texts: Texts, *, shingle: int, permutations: int, seed: int = _SEED) -> Array:
    """(n, permutations) uint32: bit for bit what datasketch 2 (`affine32`) gives for the upper halves of the shingle hashes."""
    from datasketch import MinHash

    from curation.dedup.kernels.sketch import minhash_rows

    a, b = (np.asarray(p, dtype=np.uint32) for p in MinHash(num_perm=permutations, seed=seed, scheme="affine32").permutations)
    rows = keyed_rows(texts).rows
    result = np.empty((len(rows), permutations), dtype=np.uint32)
    spread(minhash_rows, len(rows), np.arange(len(rows)), *rows.arguments, shingle, a, b, result)
    return result


def _codes(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _rolling(codes: Array, shingle: int) -> Array:
    count = len(codes) - shingle + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(shingle):
        hashes = hashes * _PRIME + codes[place : place + count]
    return hashes


def _mix(h: Array) -> Array:
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return np.asarray(h ^ (h >> np.uint64(33)))
