"""For each vector the nearest one kept before it.

Few vectors: blocks against all kept ones, exactly. Many: the near pairs of cells (cells.py), and who is kept decided over those; where
cells do not find enough, or where nearly all is alike, exactly again.
"""

from __future__ import annotations

import numpy as np

from curation.dedup.cells import pairs_by_cells
from curation.dedup.rows import Array

EXACT_UP_TO = 50_000
"""Rows up to which every pair is looked at."""
_BLOCK = 1024


def nearest_kept(vectors: Array, threshold: float) -> tuple[Array, Array, str]:
    """Walk the vectors in order; each that has a kept one at the threshold is dropped for the nearest of them.

    Returns (the kept vector that stands for each, itself where it stays; their cosine; how it was searched).
    """
    found = pairs_by_cells(vectors, threshold) if len(vectors) > EXACT_UP_TO else "exact"
    if isinstance(found, str):
        return *_walk(vectors, threshold), found
    from curation.dedup.kernels.keep import keep_nearest

    pairs, cosines, told = found
    begins = np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=len(vectors)))])
    kept, cosine = np.arange(len(vectors)), np.ones(len(vectors))
    keep_nearest(begins, pairs[:, 1], cosines, kept, cosine)
    return kept, np.minimum(cosine, 1.0), told


def _walk(vectors: Array, threshold: float) -> tuple[Array, Array]:
    import faiss

    n = len(vectors)
    kept, cosine, places = np.arange(n), np.ones(n), np.empty(0, np.int64)
    index = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, n, _BLOCK):
        block = vectors[start : start + _BLOCK]
        best, twin = np.full(len(block), -2.0), np.full(len(block), -1)
        if len(places):
            found, where = index.search(block, 1)
            best, twin = found[:, 0].astype(np.float64), places[where[:, 0]]
        _within(block, start, threshold, best, twin)
        dropped = (twin >= 0) & (best >= threshold)
        kept[start : start + len(block)][dropped] = twin[dropped]
        cosine[start : start + len(block)][dropped] = np.minimum(best[dropped], 1.0)
        stays = start + np.flatnonzero(~dropped)
        if len(stays):
            index.add(vectors[stays])
            places = np.concatenate([places, stays])
    return kept, cosine


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
