"""MinHash sketches over code-point shingles, computed for many texts at once with numpy.

The sketch of a text is bit for bit what datasketch 2 (`affine32`) gives for the same shingle hashes, so its
permutations, its persistent indexes and its own code can check ours. Texts are normalized before they come here,
so NUL never occurs in one and can pad those shorter than a shingle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_CHUNK = 32_768
"""Code points hashed at a time: the working set stays in the second-level cache."""
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_SEED = 1


def bands_for(threshold: float, *, recall: float = 0.999, permutations: int = 256) -> tuple[int, int]:
    """Bands and rows of the LSH that finds a pair *at* the threshold with probability `recall`; pairs above do better.

    Candidates are verified exactly, so recall is all that matters here, and cost decides the rest: the most selective
    (longest) band that the permutations allow.
    """
    fits = [(math.ceil(math.log(1 - recall) / math.log1p(-(threshold**rows))), rows) for rows in range(1, 33) if threshold**rows < 1]
    within = [(bands, rows) for bands, rows in fits if bands * rows <= permutations]
    return max(within, key=lambda pair: pair[1]) if within else fits[0] if fits else (1, 8)


def shingle_hashes(text: str, shingle: int) -> Array:
    """The set of a text's shingles as sorted 64-bit hashes; a text shorter than one shingle is one shingle."""
    return np.unique(_mix(_rolling(_codes(text.ljust(shingle, "\0")), shingle)))


def jaccard(a: Array, b: Array) -> float:
    """Shared over all, exactly, of two sets from `shingle_hashes`."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    return float(shared / (a.size + b.size - shared))


def sketches(texts: Sequence[str], *, shingle: int, permutations: int, seed: int = _SEED) -> Array:
    """One MinHash sketch per text: (n, permutations) uint32."""
    from datasketch import MinHash

    a, b = (np.asarray(p, dtype=np.uint32) for p in MinHash(num_perm=permutations, seed=seed, scheme="affine32").permutations)
    result = np.empty((len(texts), permutations), dtype=np.uint32)
    for start, stop in _chunks(texts, shingle):
        result[start:stop] = _chunk_sketches([text.ljust(shingle, "\0") for text in texts[start:stop]], shingle, a, b)
    return result


def band_keys(sketch: Array, bands: int, rows: int) -> Array:
    """(n, bands) 64-bit keys; equal keys mean an equal band at the same place."""
    parts = sketch[:, : bands * rows].reshape(len(sketch), bands, rows).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64) * _PRIME, (len(sketch), bands)).copy()
    for place in range(rows):
        keys = _mix((keys ^ parts[:, :, place]) * _PRIME)
    return keys


def _chunk_sketches(texts: Sequence[str], shingle: int, a: Array, b: Array) -> Array:
    lengths = np.array([len(text) for text in texts])
    counts = lengths - shingle + 1
    hashes = _rolling(_codes("".join(texts)), shingle)
    begins = np.cumsum(lengths) - lengths
    if len(texts) > 1:  # windows that run from one text into the next are no shingles
        hashes = hashes[np.arange(counts.sum()) + np.repeat(begins - (np.cumsum(counts) - counts), counts)]
    mixed = _fmix32((_mix(hashes) >> np.uint64(32)).astype(np.uint32))
    offsets = np.cumsum(counts) - counts
    out = np.empty((len(a), len(texts)), dtype=np.uint32)
    work = np.empty_like(mixed)
    for place in range(len(a)):
        np.multiply(mixed, a[place], out=work)
        np.add(work, b[place], out=work)
        np.minimum.reduceat(work, offsets, out=out[place])
    return out.T


def _chunks(texts: Sequence[str], shingle: int) -> list[tuple[int, int]]:
    spans, start, size = [], 0, 0
    for row, text in enumerate(texts):
        if size and size + len(text) > _CHUNK:
            spans.append((start, row))
            start, size = row, 0
        size += max(len(text), shingle)
    return [*spans, (start, len(texts))] if len(texts) else []


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


def _fmix32(h: Array) -> Array:
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return np.asarray(h ^ (h >> np.uint32(16)))
