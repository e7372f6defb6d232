"""What rows are about: clusters of their vectors, each named by the terms that set it apart (class-based TF-IDF).

Source of the names: Grootendorst 2022, BERTopic (c-TF-IDF): a term's share in a cluster, times log(1 + mean words of a
cluster / the term's count everywhere). The clusters are k-means on the unit sphere (faiss), seeded.
"""

from __future__ import annotations

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
    clusters, terms = _terms_of(plain, of_row, similarity, region)
    # Clusters that the same words name are one topic: k-means was asked for more than there are.
    names = [", ".join(found[:3]) or f"topic {cluster + 1}" for cluster, found in zip(clusters, terms, strict=True)]
    members = {name: np.flatnonzero(np.isin(of_row, [c for c, n in zip(clusters, names, strict=True) if n == name])) for name in names}
    order = sorted(members, key=lambda name: (-len(members[name]), int(members[name][0])))
    topic_of = np.empty(len(plain), dtype=np.int64)
    for number, name in enumerate(order):
        topic_of[members[name]] = number
    table = pa.table(
        {
            "topic": pa.array(range(len(order)), pa.int64()),
            "name": pa.array(order, pa.string()),
            "terms": pa.array([terms[names.index(name)] for name in order], pa.list_(pa.string())),
            "rows": pa.array([len(members[name]) for name in order], pa.int64()),
            "central": pa.array([int(members[name][np.argmax(similarity[members[name]])]) for name in order], pa.int64()),
        }
    )
    return Topics(table, topic_of, similarity)


def _terms_of(texts: Sequence[str], of_row: Array, similarity: Array, region: str | None) -> tuple[list[int], list[list[str]]]:
    """Each cluster and the terms of the rows nearest its middle."""
    clusters = [int(c) for c in np.unique(of_row)]
    members = (np.flatnonzero(of_row == cluster) for cluster in clusters)
    nearest = (rows[np.argsort(-similarity[rows], kind="stable")][:_READ_PER_TOPIC] for rows in members)
    return clusters, distinctive_terms([[mask_personal(texts[r][:_READ], region=region) for r in rows] for rows in nearest])


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
