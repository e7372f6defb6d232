"""What rows are about: clusters of their vectors, each named by the terms that set it apart (class-based TF-IDF).

Source of the names: Grootendorst 2022, BERTopic (c-TF-IDF): a term's share in a cluster, times log(1 + mean words of a
cluster / the term's count everywhere). The clusters are k-means on the unit sphere (faiss), seeded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from curation.distribution.personal import mask_personal
from curation.distribution.terms import distinctive_terms
from curation.errors import ProjectError

Array = np.ndarray[Any, np.dtype[Any]]

_READ_PER_TOPIC = 400
"""Rows nearest the middle whose words name a topic; so naming does not grow with the rows."""
_READ = 1_000
"""Characters read of each."""
_TRAINED_PER_TOPIC = 1_000
"""Rows k-means learns a cluster from; all rows are then assigned."""
MOST = 24


class Topics(NamedTuple):
    """Clusters and who is in which."""

    table: pa.Table
    """One line a topic, the largest first: topic, name, terms, rows, central (a row)."""
    of_row: Array
    """Number of the topic of each row."""
    similarity: Array
    """Cosine of each row to the middle of its topic."""


def find_topics(
    texts: Sequence[str] | pa.Array, vectors: Array, *, topics: int | None = None, region: str | None = "US", seed: int = 0
) -> Topics:
    """Cluster the texts by their vectors and name the clusters.

    The number of topics is about the root of an eighth of the rows, between 2 and 24, unless given; their names hold no personal
    data. Time grows with rows × topics × dimensions, memory with the vectors.

    Raises:
        ProjectError: as many vectors as texts are needed, all finite, and at least two texts.
    """
    plain: list[str] = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
    unit = checked_vectors(vectors, len(plain))
    if len(plain) < 2:
        raise ProjectError("topics", f"need at least two rows; there {'is one' if plain else 'are none'}", "add rows and run again")
    wanted = topics or min(MOST, max(2, round(np.sqrt(len(plain) / 8))))
    of_row, similarity = _cluster(unit, min(wanted, len(np.unique(unit, axis=0))), seed)
    order = [int(t) for t, _ in sorted(Counter(of_row.tolist()).items(), key=lambda item: (-item[1], item[0]))]
    of_row = np.array([order.index(t) for t in range(int(of_row.max()) + 1) if t in order])[np.searchsorted(sorted(order), of_row)]
    members = [np.flatnonzero(of_row == t) for t in range(len(order))]
    nearest = [rows[np.argsort(-similarity[rows], kind="stable")] for rows in members]
    terms = distinctive_terms([[mask_personal(plain[r][:_READ], region=region) for r in rows[:_READ_PER_TOPIC]] for rows in nearest])
    names = _names(terms)
    table = pa.table(
        {
            "topic": pa.array(range(len(order)), pa.int64()),
            "name": pa.array(names, pa.string()),
            "terms": pa.array(terms, pa.list_(pa.string())),
            "rows": pa.array([len(rows) for rows in members], pa.int64()),
            "central": pa.array([int(rows[0]) for rows in nearest], pa.int64()),
        }
    )
    return Topics(table, of_row, similarity)


def checked_vectors(vectors: Array, rows: int) -> Array:
    """The vectors as unit rows of float32.

    Raises:
        ProjectError: their number is not the rows', or one holds NaN or infinity; a model that writes such is broken.
    """
    if vectors.ndim != 2 or len(vectors) != rows:
        raise ProjectError("vectors", f"are {len(vectors)} for {rows} rows", "embed every text once")
    if bad := int((~np.isfinite(vectors).all(axis=1)).sum()):
        raise ProjectError(
            "vectors", f"hold numbers that are not finite in {bad} of {rows} rows", "look at the embedding model (dedup.model)"
        )
    plain = np.ascontiguousarray(vectors, dtype=np.float32)
    return np.asarray(plain / np.maximum(np.linalg.norm(plain, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def _names(terms: Sequence[Sequence[str]]) -> list[str]:
    names: list[str] = []
    for number, found in enumerate(terms):
        name = ", ".join(found[:3]) or f"topic {number + 1}"
        names.append(name if name not in names else f"{name} ({number + 1})")
    return names


def _cluster(unit: Array, topics: int, seed: int) -> tuple[Array, Array]:
    import faiss

    if topics < 2:
        return np.zeros(len(unit), dtype=np.int64), np.ones(len(unit), dtype=np.float32)
    trainer = faiss.Kmeans(
        unit.shape[1], topics, niter=25, nredo=3, seed=seed, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=_TRAINED_PER_TOPIC,
    )  # fmt: skip
    trainer.train(unit)
    similarity, of_row = trainer.index.search(unit, 1)
    return of_row[:, 0].astype(np.int64), similarity[:, 0]
