"""Texts that mean the same, by the cosine of their embeddings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from curation.dedup.arrow_text import Array, Texts, keyed_rows
from curation.dedup.normalization import checked_length
from curation.dedup.resolve import MEASURES, Decided, drop_table, first_of_equal, keeping_order, label_codes

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


EXACT_UP_TO = 50_000
"""Rows up to which every pair is looked at."""

_BLOCK_NEAREST = 1024


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
    for start in range(0, n, _BLOCK_NEAREST):
        block = vectors[start : start + _BLOCK_NEAREST]
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


def find_semantic(
    texts: Texts,
    vectors: Array,
    *,
    threshold: float = 0.9,
    same_label_threshold: float | None = None,
    labels: Sequence[str | None] | pa.Array | None = None,
    rank: Sequence[int] | None = None,
) -> pa.Table:
    """Pair texts whose embeddings point the same way.

    Args:
        vectors: one L2-normalized row per text (`curation.embed.embed`).
        threshold: cosine from which a row is a twin.
        same_label_threshold: the cosine for rows that carry the same label, where agreement on the class is evidence of
            its own; `threshold` when None.
        labels: the class of each row; rows whose labels differ are never paired.
        rank: lower is kept; ties by position.

    Returns one line per dropped row: row, kept, twin, similarity (true cosine), cluster, measure ("exact" or "cosine").
    The table's metadata says how the rows were searched.
    """
    for column, name in ((vectors, "vectors"), (labels, "labels"), (rank, "rank")):
        checked_length(column, len(texts), name)
    keyed = keyed_rows(texts)
    codes, order = label_codes(labels, len(texts)), keeping_order(len(texts), rank)
    first = first_of_equal(keyed, codes, order)
    which = order[(first[order] == order) & (keyed.lengths[order] > 0)]
    kept, similarity, searches = which.copy(), np.ones(len(which)), set()
    by_label = np.argsort(codes[which], kind="stable")
    cuts = np.flatnonzero(np.diff(codes[which][by_label])) + 1
    for places in np.split(by_label, cuts) if len(which) else ():
        is_labelled = codes[which[places[0]]] >= 0
        cut = same_label_threshold if is_labelled and same_label_threshold is not None else threshold
        twin, cosine, search = nearest_kept(np.ascontiguousarray(vectors[which[places]], dtype=np.float32), cut)
        kept[places], similarity[places] = which[places[twin]], cosine
        searches.add(search)
    measure = np.full(len(which), MEASURES.index("cosine"), np.int8)
    return drop_table(first, Decided(which, kept, similarity, measure, kept), search="; ".join(sorted(searches)))
