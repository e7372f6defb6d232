"""All near pairs of many vectors: k-means cells, and in each the vectors that lie there against those that lie there or next to it.

Whole cells are multiplied at once, which takes a tenth of the time of asking an index row after row. More neighbouring cells are
looked at until a sample of the very rows finds its nearest twins.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from curation.dedup.rows import Array

RECALL = 0.995
"""Least share of sampled rows with a twin whose nearest one must be found."""
CROWDED = 64
"""Pairs a row from which on the rows are better walked one by one: then few of them stay."""
_PROBES = (0, 2, 4, 8, 16, 32, 64)
_SAMPLE = 2048
_BLOCK, _AT_ONCE = 2048, 64


def pairs_by_cells(vectors: Array, threshold: float) -> tuple[Array, Array, str] | str:
    """((later, earlier) of the pairs at the threshold, sorted; their cosines; how they were searched), or why they were not."""
    cells = int(2 * np.sqrt(len(vectors)))
    index = _trained(vectors, cells)
    sample = np.sort(np.random.default_rng(1).permutation(len(vectors))[:_SAMPLE])
    truth, members = _best_of_others(vectors, sample), index.search(vectors, 1)[1][:, 0]
    packed, cosines, recall = np.empty(0, np.uint64), np.empty(0, np.float32), 0.0
    for fewer, probes in pairwise(_PROBES):
        asked = index.search(vectors, min(probes, cells))[1][:, fewer:]
        parts, count = [(packed, cosines)], len(packed)
        for part in _pairs_in(vectors, members, asked, threshold):
            parts.append(part)
            count += len(part[0])
            if count > CROWDED * len(vectors):
                return f"exact, since there are over {CROWDED} pairs a row"
        packed, first = np.unique(np.concatenate([part for part, _ in parts]), return_index=True)
        cosines = np.concatenate([part for _, part in parts])[first]
        pairs = np.stack([packed >> np.uint64(32), packed & np.uint64(0xFFFFFFFF)], axis=1).astype(np.int64)
        recall = _recall(pairs, cosines, sample, truth, threshold)
        if recall >= RECALL:
            return pairs, cosines, f"inverted file, {probes} of {cells} cells, sampled recall {recall:.4f}"
    return f"exact, since cells found only {recall:.3f} of the sampled twins"


def _trained(vectors: Array, cells: int) -> Any:
    import faiss

    options = {"niter": 5, "spherical": True, "max_points_per_centroid": 40, "min_points_per_centroid": 8, "seed": 0}
    clustering = faiss.Kmeans(vectors.shape[1], cells, **options)
    clustering.train(vectors[np.random.default_rng(0).permutation(len(vectors))[: cells * 40]])
    return clustering.index


def _pairs_in(vectors: Array, members: Array, asked: Array, threshold: float) -> Iterator[tuple[Array, Array]]:
    """((later << 32 | earlier), cosine) of near pairs, of which one lies in a cell that the other asks; some come twice."""
    from threadpoolctl import threadpool_limits

    cells = int(max(members.max(), asked.max())) + 1
    lying, asking = np.argsort(members, kind="stable"), np.argsort(asked, axis=None, kind="stable")
    ends, ask_ends = (np.searchsorted(of, np.arange(cells + 1)) for of in (members[lying], asked.ravel()[asking]))
    asking //= asked.shape[1]
    blocks = [
        (asking[begin : min(begin + _BLOCK, ask_ends[cell + 1])], lying[start : min(start + _BLOCK, ends[cell + 1])])
        for cell in range(cells)
        for start in range(ends[cell], ends[cell + 1], _BLOCK)
        for begin in range(ask_ends[cell], ask_ends[cell + 1], _BLOCK)
    ]
    # A thread for each block: several threads in one small product mostly wait for one another.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for at in range(0, len(blocks), _AT_ONCE):
            yield from pool.map(partial(_pairs_of, vectors, threshold), blocks[at : at + _AT_ONCE])


def _pairs_of(vectors: Array, threshold: float, block: tuple[Array, Array]) -> tuple[Array, Array]:
    rows, stored = block
    cosines = vectors[rows] @ vectors[stored].T
    one, two = np.nonzero(cosines >= threshold)
    a, b = rows[one], stored[two]
    packed = np.maximum(a, b).astype(np.uint64) << np.uint64(32) | np.minimum(a, b).astype(np.uint64)
    return packed[a != b], cosines[one, two][a != b]


def _best_of_others(vectors: Array, sample: Array) -> Array:
    """The highest cosine of each sampled row with any other."""
    queries, best = vectors[sample], np.full(len(sample), -2.0, np.float32)
    for start in range(0, len(vectors), 4 * _BLOCK):
        cosines = queries @ vectors[start : start + 4 * _BLOCK].T
        own = np.flatnonzero((sample >= start) & (sample < start + 4 * _BLOCK))
        cosines[own, sample[own] - start] = -2.0
        np.maximum(best, cosines.max(axis=1), out=best)
    return best


def _recall(pairs: Array, cosines: Array, sample: Array, truth: Array, threshold: float) -> float:
    best = np.full(sample.max() + 1, -2.0, np.float32)
    for side in (0, 1):
        known = pairs[:, side] < len(best)
        np.maximum.at(best, pairs[known, side], cosines[known])
    has_twin = truth >= threshold
    return float((best[sample[has_twin]] >= truth[has_twin] - 1e-5).mean()) if has_twin.any() else 1.0
