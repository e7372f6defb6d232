"""How various a set of texts is, by the vectors of what is asked in them: four measures, since each can be fooled by itself.

    clusters    exp of the entropy of clusters of like texts: how many subjects there are, big ones counting no more than small ones
    nearest     mean similarity of each text to its nearest neighbour: how close to repeating itself the set is
    vendi       Vendi score (Friedman and Dieng 2023): exp of the entropy of the eigenvalues of the cosine kernel; the number of
                texts that would be as various if they had nothing in common
    distinct    share of the texts that occur once

All depend on the number of texts: compare sets of one size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LIKE = 0.6
"""Cosine of all-MiniLM-L6-v2 from which two questions are said to be about the same."""
MOST_COMPARED = 20_000
"""Above so many rows neighbours and clusters are looked for in an even sample; the Vendi score is exact at every size."""
_BLOCK = 512

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Diversity:
    """The measures of one set."""

    rows: int
    compared: int
    """Rows among which neighbours and clusters were looked for: all, or a sample."""
    distinct: float
    clusters: int
    effective_clusters: float
    nearest: float
    vendi: float

    def as_values(self) -> dict[str, float | int]:
        """Rounded, for a summary."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in self.items()}

    def items(self) -> list[tuple[str, float | int]]:
        """Name and value of each measure."""
        return [(name, getattr(self, name)) for name in self.__slots__]


def measure_diversity(texts: Sequence[str], vectors: Array, *, like: float = LIKE) -> Diversity:
    """Measure texts by their L2-normalized vectors, one row each.

    Args:
        like: cosine from which a text joins a cluster.
    """
    if len(texts) != len(vectors):
        raise ValueError(f"{len(texts)} texts and {len(vectors)} vectors")
    if not len(texts):
        return Diversity(0, 0, 0.0, 0, 0.0, 0.0, 0.0)
    counted = Counter(" ".join(text.split()).casefold() for text in texts)
    sample = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), MOST_COMPARED)).astype(int)].astype(np.float32)
    sizes = cluster_sizes(sample, like=like)
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
    """exp of the entropy of the eigenvalues of the cosine kernel over n, exact at every n.

    The kernel of n unit vectors of d numbers has the eigenvalues of a d by d matrix, so it is never built.
    """
    if not len(vectors):
        return 0.0
    x = np.asarray(vectors, dtype=np.float64)
    kernel = (x.T @ x if len(x) > x.shape[1] else x @ x.T) / len(x)
    values = np.linalg.eigvalsh(kernel)
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def nearest_similarity(vectors: Array) -> float:
    """Mean cosine of each row to the nearest other one; 0 for a single row."""
    if len(vectors) < 2:
        return 0.0
    nearest = np.empty(len(vectors))
    for start in range(0, len(vectors), _BLOCK):
        alike = vectors[start : start + _BLOCK] @ vectors.T
        alike[np.arange(len(alike)), np.arange(start, start + len(alike))] = -1.0
        nearest[start : start + _BLOCK] = alike.max(axis=1)
    return float(nearest.mean())


def cluster_sizes(vectors: Array, *, like: float = LIKE) -> list[int]:
    """Sizes of clusters: each row joins the nearest first member that is like it, or is the first of a new one. Deterministic."""
    leaders = np.empty((0, vectors.shape[1]), dtype=vectors.dtype)
    sizes: list[int] = []
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        known, within = block @ leaders.T, block @ block.T
        fresh: list[int] = []
        for n in range(len(block)):
            old = float(known[n].max()) if len(leaders) else -1.0
            new = float(within[n, fresh].max()) if fresh else -1.0
            if max(old, new) < like:
                fresh.append(n)
                sizes.append(1)
            elif old >= new:
                sizes[int(known[n].argmax())] += 1
            else:
                sizes[len(leaders) + int(within[n, fresh].argmax())] += 1
        leaders = np.concatenate([leaders, block[fresh]])
    return sizes


def effective_number(sizes: Sequence[int] | Mapping[Any, int]) -> float:
    """exp of the entropy of the shares: n for n equal ones, near 1 where one has nearly all."""
    counts = np.array(list(sizes.values()) if isinstance(sizes, Mapping) else list(sizes), dtype=np.float64)
    counts = counts[counts > 0]
    if not len(counts):
        return 0.0
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
