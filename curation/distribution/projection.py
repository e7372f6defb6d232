"""Place rows on a plane so that rows with similar texts lie near each other, and find chains among near-duplicates.

UMAP (McInnes, Healy and Melville 2018) on the first 50 principal components, or the first two principal components. Both are seeded, so the
same vectors give the same map.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Method = Literal["umap", "pca"]

COMPONENTS = 50
"""Principal components that UMAP reads: they hold most of the variance, and its search takes a third of the time of 384 dimensions."""
LEAST_FOR_UMAP = 30
"""Rows below which neighbourhoods of 15 rows say nothing."""
LEAST_CHAIN = 5
"""Rows of the smallest chained cluster."""
APART = 0.2
"""A cluster is chained if two of its rows have a cosine this much below the threshold that joins it."""
_FITTED = 10_000
_COMPARED = 1_000


class Projection(NamedTuple):
    """Coordinates of rows and the method that gave them."""

    points: Array
    """(n, 2), float32."""
    method: Method


def project(unit: Array, *, method: Method | None = None, notify: Callable[[str], None] | None = None) -> Projection:
    """Return a point for each row.

    Args:
        unit: (n, d) unit vectors, float32.
        method: None uses UMAP where it is installed and there are enough rows.
        notify: called with a few words before the long step.
    """
    able = len(unit) >= LEAST_FOR_UMAP and importlib.util.find_spec("umap") is not None
    chosen: Method = method or ("umap" if able else "pca")
    components = _components(unit, 2 if chosen == "pca" else COMPONENTS)
    if chosen == "pca":
        return Projection(components, "pca")
    if notify:
        notify("UMAP; 50,000 rows take about a minute")
    with warnings.catch_warnings():
        # It says that a seed allows one thread only, which is meant so.
        warnings.simplefilter("ignore")
        import umap

        model = umap.UMAP(n_neighbors=15, min_dist=0.1, random_state=0, n_jobs=1, init="pca", low_memory=True)
        return Projection(np.asarray(model.fit_transform(components), np.float32), "umap")


def _components(unit: Array, most: int) -> Array:
    """Return the first principal components of the rows, (n, most); fitted on a sample where there are many rows."""
    if not len(unit):
        return np.zeros((0, most), np.float32)
    centred = unit - unit.mean(axis=0)
    sample = centred[np.sort(np.random.default_rng(0).permutation(len(unit))[:_FITTED])].astype(np.float64)
    _, axes = np.linalg.eigh(sample.T @ sample)
    axes = axes[:, ::-1][:, :most]
    # An axis has no direction of its own; the largest part is made positive, so that maps of the same rows look alike.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    found = centred @ axes.astype(np.float32)
    return np.asarray(np.pad(found, ((0, 0), (0, most - found.shape[1]))) if found.shape[1] < most else found, np.float32)


class Chain(NamedTuple):
    """A cluster of near-duplicates in which some rows are not alike: each is near to the next one only."""

    rows: tuple[int, ...]
    ends: tuple[int, int]
    """The two rows that are least alike."""
    cosine: float
    """Of the ends."""


def find_chains(unit: Array, near: Array, cosines: Array, *, threshold: float) -> list[Chain]:
    """Find clusters of rows joined by pairs at a threshold (single linkage) whose ends are not alike, the largest first.

    Args:
        unit: (n, d) unit vectors.
        near: (n, k) nearest rows of each row, as `curation.validate.label_errors.nearest` returns them.
        cosines: (n, k) of these.
        threshold: cosine from which two rows are joined.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, place = np.nonzero(cosines >= threshold)
    joined = coo_array((np.ones(len(first), np.int8), (first, near[first, place])), shape=(len(unit), len(unit)))
    count, of_row = connected_components(joined, directed=False)
    sizes = np.bincount(of_row, minlength=count)
    chains = []
    for cluster in np.flatnonzero(sizes >= LEAST_CHAIN).tolist():
        rows = np.flatnonzero(of_row == cluster)
        some = rows[:: max(1, len(rows) // _COMPARED)]
        alike = unit[some] @ unit[some].T
        a, b = divmod(int(alike.argmin()), len(some))
        if alike[a, b] < threshold - APART:
            chains.append(Chain(tuple(rows.tolist()), (int(some[a]), int(some[b])), float(alike[a, b])))
    return sorted(chains, key=lambda chain: (-len(chain.rows), chain.rows))
