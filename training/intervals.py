"""Bootstrap intervals of a mean and of a paired difference.

A difference is a change only when its interval leaves out 0 and a paired permutation test says so too: where few items differ the
bootstrap alone is quick to see one (4 of 100 items that all flip one way are enough for it, one item of one is too).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

RESAMPLES, SEED = 10_000, 20_261_124
Z95, LEVEL = 1.959964, 0.05


@dataclass(frozen=True)
class Metric:
    """A mean over n items with its 95 % interval."""

    value: float
    n: int
    low: float
    high: float
    method: Literal["bootstrap", "wilson"]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, ours minus theirs, with its 95 % interval and what may be said of it."""

    difference: float
    n: int
    low: float
    high: float
    p: float
    """Two-sided, of a paired permutation test; where all items that differ do so by as much it is McNemar's exact one."""
    verdict: Literal["better", "worse", "no change"]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> Metric:
    """The mean and its percentile-bootstrap interval.

    When every item is right, or every one wrong, resampling shows no spread at all; Wilson's interval is given instead.
    """
    if len(set(values)) == 1 and values[0] in (0, 1):
        low, high = _wilson(int(sum(values)), len(values))
        return Metric(float(values[0]), len(values), low, high, "wilson")
    low, high = _percentiles(values, resamples=resamples, seed=seed)
    return Metric(round(sum(values) / len(values), 4), len(values), low, high, "bootstrap")


def compare(ours: Sequence[float], theirs: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> Difference:
    """Paired bootstrap and paired permutation test over the same items in the same order."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    low, high = _percentiles(differences, resamples=resamples, seed=seed)
    p = permutation_p(differences, resamples=resamples, seed=seed)
    verdict: Literal["better", "worse", "no change"] = "no change"
    if p <= LEVEL and (low > 0 or high < 0):
        verdict = "better" if low > 0 else "worse"
    return Difference(round(sum(differences) / len(differences), 4), len(differences), low, high, round(p, 4), verdict)


def permutation_p(differences: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> float:
    """How often signs drawn at random give a mean difference as large as this one."""
    import numpy as np

    moved = np.asarray([d for d in differences if d != 0], dtype=np.float64)
    if not len(moved):
        return 1.0
    if len(set(np.abs(moved))) == 1:
        fewer = min(int((moved > 0).sum()), int((moved < 0).sum()))
        return float(min(1, 2 * sum(math.comb(len(moved), k) for k in range(fewer + 1)) / 2 ** len(moved)))
    rng, seen, extreme = np.random.default_rng(seed), abs(moved.sum()) - 1e-12, 0
    for count in _batches(resamples, len(moved)):
        signs = rng.integers(0, 2, size=(count, len(moved))) * 2 - 1
        extreme += int((np.abs(signs @ moved) >= seen).sum())
    return (extreme + 1) / (resamples + 1)


def _percentiles(values: Sequence[float], *, resamples: int, seed: int) -> tuple[float, float]:
    import numpy as np

    array, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [array[rng.integers(0, len(array), size=(count, len(array)))].mean(axis=1) for count in _batches(resamples, len(array))]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return round(float(low), 4), round(float(high), 4)


def _batches(resamples: int, n: int) -> Iterator[int]:
    """Resamples by the million draws, so that a large set does not fill the memory."""
    size = max(1, 1_000_000 // n)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _wilson(successes: int, n: int) -> tuple[float, float]:
    share, square = successes / n, Z95**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)
