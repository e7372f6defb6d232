"""Bootstrap intervals of a mean and of a paired difference; a difference whose interval covers 0 is no change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

RESAMPLES, SEED = 10_000, 20_261_124
Z95 = 1.959964


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
    """Paired bootstrap over the same items in the same order."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    low, high = _percentiles(differences, resamples=resamples, seed=seed)
    verdict: Literal["better", "worse", "no change"] = "better" if low > 0 else "worse" if high < 0 else "no change"
    return Difference(round(sum(differences) / len(differences), 4), len(differences), low, high, verdict)


def _percentiles(values: Sequence[float], *, resamples: int, seed: int) -> tuple[float, float]:
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(array), size=(resamples, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), (0.025, 0.975))
    return round(float(low), 4), round(float(high), 4)


def _wilson(successes: int, n: int) -> tuple[float, float]:
    share, square = successes / n, Z95**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)
