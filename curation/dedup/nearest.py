"""For each vector the nearest one kept before it: all pairs where that is quick, an inverted file where there are many.

Few vectors: blocks against all kept ones, exactly. Many: faiss cells over full-precision vectors, so every cosine is the true
one, with as many cells probed as a sample of the very rows needs for the recall asked; where none is enough, exactly again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from curation.dedup.rows import Array

EXACT_UP_TO = 50_000
"""Rows up to which every pair is looked at."""
RECALL = 0.995
"""Least share of sampled rows with a twin whose twin the inverted file must find."""

_BLOCK = 1024
_SAMPLE = 1024
_PROBES = (2, 4, 8, 16, 32, 64)

Search = Callable[[Array], tuple[Array, Array]]


def nearest_kept(vectors: Array, threshold: float) -> tuple[Array, Array, str]:
    """Walk the vectors in order; each that has a kept one at the threshold is dropped for the nearest of them.

    Returns (the kept vector that stands for each, itself where it stays; their cosine; how it was searched).
    """
    n = len(vectors)
    kept, cosine = np.arange(n), np.ones(n)
    index, search = _open_index(vectors, threshold)
    places = np.empty(0, np.int64)
    for start in range(0, n, _BLOCK):
        block = vectors[start : start + _BLOCK]
        best, twin = np.full(len(block), -2.0), np.full(len(block), -1)
        if len(places):
            found, where = index.search(block, 1)
            best, twin = found[:, 0].astype(np.float64), np.where(where[:, 0] >= 0, places[where[:, 0]], -1)
        _within(block, start, threshold, best, twin)
        dropped = (twin >= 0) & (best >= threshold)
        kept[start : start + len(block)][dropped] = twin[dropped]
        cosine[start : start + len(block)][dropped] = np.minimum(best[dropped], 1.0)
        stays = start + np.flatnonzero(~dropped)
        if len(stays):
            index.add(vectors[stays])
            places = np.concatenate([places, stays])
    return kept, cosine, search


def _within(block: Array, start: int, threshold: float, best: Array, twin: Array) -> None:
    """Hold the rows of a block against those of the block that stay before them; only rows that have any such are walked."""
    scores = np.tril(block @ block.T, -1)
    is_near = scores >= threshold
    stays = best < threshold
    for row in np.flatnonzero(is_near.any(axis=1)).tolist():
        rivals = np.flatnonzero(is_near[row, :row] & stays[:row])
        if len(rivals):
            nearest = int(rivals[scores[row, rivals].argmax()])
            if scores[row, nearest] > best[row]:
                best[row], twin[row] = scores[row, nearest], start + nearest
            stays[row] = False


def _open_index(vectors: Array, threshold: float) -> tuple[Any, str]:
    import faiss

    if len(vectors) <= EXACT_UP_TO:
        return faiss.IndexFlatIP(vectors.shape[1]), "exact"
    index, recall = _inverted_file(vectors, threshold)
    if recall < RECALL:
        return faiss.IndexFlatIP(vectors.shape[1]), f"exact, since the inverted file found only {recall:.3f} of the sampled twins"
    return index, f"inverted file, {index.nprobe} of {index.nlist} cells, sampled recall {recall:.4f}"


def _inverted_file(vectors: Array, threshold: float) -> tuple[Any, float]:
    """An empty IVF index, and the share of sampled rows with a twin at the threshold whose nearest it found."""
    import faiss

    cells = int(2 * np.sqrt(len(vectors)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 5, 40, 8
    index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[: cells * 40]])
    index.add(vectors)
    sample = vectors[np.random.default_rng(1).permutation(len(vectors))[:_SAMPLE]]
    truth = np.sort(_top(sample, vectors), axis=1)[:, 0]  # the second best: the best is the row itself
    has_twin = truth >= threshold
    recall = 1.0
    for index.nprobe in _PROBES:
        seen = index.search(sample, 2)[0][:, 1]
        recall = float((seen[has_twin] >= truth[has_twin] - 1e-5).mean()) if has_twin.any() else 1.0
        if recall >= RECALL:
            break
    index.reset()
    return index, recall


def _top(queries: Array, vectors: Array) -> Array:
    best = np.full((len(queries), 2), -2.0, dtype=np.float32)
    for start in range(0, len(vectors), 16 * _BLOCK):
        scores = np.concatenate([best, queries @ vectors[start : start + 16 * _BLOCK].T], axis=1)
        best = np.partition(scores, -2, axis=1)[:, -2:]
    return best
