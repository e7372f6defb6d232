"""Measure the diversity of a set of texts by their embeddings. Four measures, because each one alone can mislead.

    clusters    exp of the entropy of clusters of similar texts: the effective number of subjects
    nearest     mean cosine of each text and its nearest neighbour: how repetitive the set is
    vendi       Vendi score (Friedman and Dieng 2023): exp of the entropy of the eigenvalues of the cosine kernel; the number of
                texts with nothing in common that would be equally diverse
    distinct    share of the texts that occur once

All depend on the number of texts: compare sets of the same size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Cosine of all-MiniLM-L6-v2 above which two questions count as the same subject.
SIMILAR = 0.6
# Rows above which neighbours and clusters are computed on an even sample; the Vendi score is exact at every size.
MOST_COMPARED = 20_000
_BLOCK = 512

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Diversity:
    """Diversity of one set of texts."""

    rows: int
    compared: int
    """Rows that neighbours and clusters were computed on: all, or a sample."""
    distinct: float
    clusters: int
    effective_clusters: float
    nearest: float
    vendi: float

    def as_values(self) -> dict[str, float | int]:
        """Return the measures by name, rounded for a summary."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


def measure_diversity(texts: Sequence[str], vectors: Array, *, similar: float = SIMILAR) -> Diversity:
    """Measure the diversity of texts.

    Args:
        texts: the texts.
        vectors: (n, d) their L2-normalized embeddings.
        similar: least cosine with which a text joins a cluster.
    """
    if len(texts) != len(vectors):
        raise ValueError(f"{len(texts)} texts and {len(vectors)} vectors")
    if not len(texts):
        return Diversity(0, 0, 0.0, 0, 0.0, 0.0, 0.0)
    # Texts that differ in case or spacing only are one text.
    counted = Counter(" ".join(text.split()).casefold() for text in texts)
    sample = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), MOST_COMPARED)).astype(int)].astype(np.float32)
    sizes = cluster_sizes(sample, similar=similar)
    return Diversity(
        rows=len(texts),
        compared=len(sample),
        distinct=sum(n == 1 for n in counted.values()) / len(texts),
        clusters=len(sizes),
        effective_clusters=effective_number(sizes),
        nearest=nearest_similarity(sample),
        vendi=vendi_score(vectors),
    )


def vendi_score(vectors: Array) -> float:
    """Return exp of the entropy of the eigenvalues of the cosine kernel divided by n; exact at every n."""
    if not len(vectors):
        return 0.0
    x = np.asarray(vectors, dtype=np.float64)
    # The n by n kernel has the eigenvalues of a d by d matrix, so the smaller of the two is built.
    kernel = (x.T @ x if len(x) > x.shape[1] else x @ x.T) / len(x)
    values = np.linalg.eigvalsh(kernel)
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def nearest_similarity(vectors: Array) -> float:
    """Return the mean cosine of each row and its nearest other row; 0 for a single row."""
    if len(vectors) < 2:
        return 0.0
    nearest = np.empty(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ vectors.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -1.0
        nearest[start : start + _BLOCK] = cosines.max(axis=1)
    return float(nearest.mean())


def cluster_sizes(vectors: Array, *, similar: float = SIMILAR) -> list[int]:
    """Return cluster sizes: each row joins the nearest similar leader, or becomes the leader of a new cluster. Deterministic."""
    leaders = np.empty((0, vectors.shape[1]), dtype=vectors.dtype)
    sizes: list[int] = []
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        known, within = block @ leaders.T, block @ block.T
        fresh: list[int] = []
        for n in range(len(block)):
            # Leaders of earlier blocks are compared by one matrix product; those of this block are found row by row.
            old = float(known[n].max()) if len(leaders) else -1.0
            new = float(within[n, fresh].max()) if fresh else -1.0
            if max(old, new) < similar:
                fresh.append(n)
                sizes.append(1)
            elif old >= new:
                sizes[int(known[n].argmax())] += 1
            else:
                sizes[len(leaders) + int(within[n, fresh].argmax())] += 1
        leaders = np.concatenate([leaders, block[fresh]])
    return sizes


def effective_number(sizes: Sequence[int] | Mapping[Any, int]) -> float:
    """Return exp of the entropy of the shares: n for n equal shares, near 1 if one has nearly all."""
    counts = np.array(list(sizes.values()) if isinstance(sizes, Mapping) else list(sizes), dtype=np.float64)
    counts = counts[counts > 0]
    if not len(counts):
        return 0.0
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
