"""How much of real use the training rows cover: nearest neighbours at the distance at which real rows cover each other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 256
BASELINE = 0.9
"""Share of the real rows that must have another real row within the radius."""


class Coverage(NamedTuple):
    """What is covered, and against what that is to be held."""

    table: pa.Table
    """One line a real row: real, row (its nearest training row), distance (cosine), covered."""
    radius: float
    baseline: float
    """Share of the real rows that another real row covers: equal distributions of equal size are covered about as well."""
    covered: float


def find_uncovered(real: Array, training: Array, *, baseline: float = BASELINE) -> Coverage:
    """For each real vector its nearest training vector, and whether that is within the radius.

    The radius is the cosine distance within which a share `baseline` of the real vectors have another real vector; equal
    vectors are best given once. Both are unit rows. Time grows with real × (training + real) rows, memory with a block of
    256 real rows against the training rows.
    """
    near, distance = _nearest(real, training)
    _, own = _nearest(real, real, same=True)
    radius = float(np.quantile(own, baseline, method="higher")) if len(own) > 1 else 0.0
    covered = distance <= radius + 1e-6
    table = pa.table(
        {"real": pa.array(range(len(real)), pa.int64()), "row": near, "distance": distance.astype(np.float64), "covered": covered}
    )
    return Coverage(table, radius, float((own <= radius + 1e-6).mean()) if len(own) > 1 else 0.0, float(covered.mean()))


def flatten(training: Array, real: Array) -> tuple[Array, Array, float]:
    """Both sides in two dimensions: the first principal components of an even mix, and the share of variance they hold.

    Deterministic: the sign of each axis is fixed by its largest weight. Nearness in the picture is only a hint; coverage
    is decided in all dimensions.
    """
    size = min(len(training), len(real), 5_000)
    mix = np.concatenate([side[np.linspace(0, len(side) - 1, size).astype(int)] for side in (training, real)]).astype(np.float64)
    middle = mix.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov((mix - middle).T))
    best = axes[:, ::-1][:, :2]
    best = best * np.sign(best[np.abs(best).argmax(axis=0), range(best.shape[1])])
    share = float(np.maximum(values[::-1][:2], 0).sum() / max(np.maximum(values, 0).sum(), 1e-12))
    return (training - middle) @ best, (real - middle) @ best, share


def _nearest(queries: Array, base: Array, *, same: bool = False) -> tuple[Array, Array]:
    """Index of the nearest base vector and its cosine distance; with `same` a vector is not its own neighbour."""
    index, distance = np.zeros(len(queries), dtype=np.int64), np.ones(len(queries), dtype=np.float32)
    if same and len(base) < 2:
        return index, distance
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK] @ base.T
        if same:
            block[np.arange(len(block)), np.arange(start, start + len(block))] = -2
        index[start : start + len(block)] = block.argmax(axis=1)
        distance[start : start + len(block)] = 1 - block.max(axis=1)
    return index, distance
