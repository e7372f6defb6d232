"""Texts that mean the same, by the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from curation.dedup.keep import Drop, copies, drop_table, equal_groups, keeping_order
from curation.dedup.text import checked_length, normalize, strings

EXACT_UP_TO = 50_000
"""Rows up to which every pair is looked at; above, an inverted file whose recall is measured on the rows themselves."""
RECALL = 0.995

_BLOCK = 1024
_SAMPLE = 512

Array = np.ndarray[Any, np.dtype[Any]]
Search = Callable[[Array], tuple[Array, Array]]
"""Queries in; cosine and place of the nearest kept row out (place -1: none)."""


def find_semantic(
    texts: Sequence[str] | pa.Array,
    vectors: Array,
    *,
    threshold: float = 0.9,
    same_label_threshold: float | None = None,
    labels: Sequence[str | None] | None = None,
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
    """
    values = strings(texts)
    for column, name in ((vectors, "vectors"), (labels, "labels"), (rank, "rank")):
        checked_length(column, len(values), name)
    kinds = list(labels) if labels is not None else [None] * len(values)
    groups = equal_groups([(normalize(t), k) for t, k in zip(values, kinds, strict=True)], keeping_order(len(values), rank))
    by_label: dict[str | None, list[int]] = {}
    for group in groups:
        if normalize(values[group[0]]):
            by_label.setdefault(kinds[group[0]], []).append(group[0])
    decided: dict[int, Drop] = {}
    for label, rows in by_label.items():
        cut = threshold if label is None or same_label_threshold is None else same_label_threshold
        found = _nearest_kept(np.ascontiguousarray(vectors[rows], dtype=np.float32), cut)
        decided |= {rows[a]: Drop(rows[a], rows[b], cosine, "cosine") for a, b, cosine in found}
    return drop_table(copies(groups, decided))


def _nearest_kept(vectors: Array, threshold: float) -> list[tuple[int, int, float]]:
    """Walk the vectors in order; each that has a kept one at the threshold is dropped for the nearest of them."""
    index = _Kept(vectors, threshold)
    found = []
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        best, place = index.search(block)
        within = block @ block.T
        stays: list[int] = []
        for row in range(len(block)):
            cosine, kept = float(best[row]), int(place[row])
            if stays and (near := within[row, stays]).max() > cosine:
                cosine, kept = float(near.max()), start + stays[int(near.argmax())]
            if kept >= 0 and cosine >= threshold:
                found.append((start + row, kept, min(cosine, 1.0)))
            else:
                stays.append(row)
        index.add(start + np.array(stays, dtype=np.int64))
    return found


class _Kept:
    """The kept vectors, searched for the nearest one: all of them when few, by an inverted file when many."""

    def __init__(self, vectors: Array, threshold: float) -> None:
        import faiss

        self.vectors = vectors
        self.places = np.empty(0, dtype=np.int64)
        exact = len(vectors) <= EXACT_UP_TO
        self.index = faiss.IndexFlatIP(vectors.shape[1]) if exact else _inverted_file(vectors, threshold)

    def search(self, block: Array) -> tuple[Array, Array]:
        if not len(self.places):
            return np.full(len(block), -2.0), np.full(len(block), -1)
        cosine, where = self.index.search(block, 1)
        return cosine[:, 0], np.where(where[:, 0] >= 0, self.places[where[:, 0]], -1)

    def add(self, places: Array) -> None:
        if len(places):
            self.index.add(self.vectors[places])
            self.places = np.concatenate([self.places, places])


def _inverted_file(vectors: Array, threshold: float) -> Any:
    """An empty IVF index over full-precision vectors, probing as many cells as the recall asked for needs.

    Recall is measured on a sample of the rows: of those with a twin at the threshold, the share whose twin is found.
    """
    import faiss

    cells = int(4 * np.sqrt(len(vectors)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[: cells * 50]])
    index.add(vectors)
    sample = vectors[np.random.default_rng(1).permutation(len(vectors))[:_SAMPLE]]
    truth = np.sort(_top(sample, vectors), axis=1)[:, 0]  # the second best: the best is the row itself
    index.nprobe = 4
    while index.nprobe < cells:
        seen = index.search(sample, 2)[0][:, 1]
        has_twin = truth >= threshold
        if not has_twin.any() or (seen[has_twin] >= truth[has_twin] - 1e-5).mean() >= RECALL:
            break
        index.nprobe *= 2
    index.reset()
    return index


def _top(queries: Array, vectors: Array) -> Array:
    best = np.full((len(queries), 2), -2.0, dtype=np.float32)
    for start in range(0, len(vectors), 16 * _BLOCK):
        scores = np.concatenate([best, queries @ vectors[start : start + 16 * _BLOCK].T], axis=1)
        best = np.partition(scores, -2, axis=1)[:, -2:]
    return best
