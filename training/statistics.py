"""Bootstrap intervals of a mean and of a paired difference.

A difference is a change only when its interval leaves out 0 and a paired permutation test says so too: where few items differ the
bootstrap alone is quick to see one (4 of 100 items that all flip one way are enough for it, one item of one is too).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

RESAMPLES, SEED = 10_000, 20_261_124
LEVEL = 0.05
BATCH = 1_000_000
"""Numbers drawn at a time, so that a large set does not fill the memory."""


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
    """Two-sided, of a paired permutation test; where few items differ, all by as much, it is McNemar's exact one."""
    verdict: Literal["better", "worse", "no change"]
    """`evaluate.py` turns better and worse into "no verdict" where the answers are too much alike."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> Metric:
    """The mean and its percentile-bootstrap interval.

    When every item is right, or every one wrong, resampling shows no spread at all; Wilson's interval is given instead.
    """
    if len(set(values)) == 1 and values[0] in (0, 1):
        from scipy.stats import binomtest

        wilson = binomtest(int(sum(values)), len(values)).proportion_ci(method="wilson")
        return Metric(float(values[0]), len(values), round(float(wilson.low), 4), round(float(wilson.high), 4), "wilson")
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
    """How often signs drawn at random (all ways to sign them, where those are few) give a mean difference as large as this one."""
    import numpy as np
    from scipy.stats import permutation_test

    # Items without a difference have no sign; without them few ways are left, and the test is exact more often.
    moved = np.array([d for d in differences if d != 0], dtype=np.float64)
    if len(moved) < 2:
        return 1.0
    tested = permutation_test((moved,), np.mean, permutation_type="samples", n_resamples=resamples, batch=BATCH // len(moved) + 1, rng=seed)
    return float(tested.pvalue)


def _percentiles(values: Sequence[float], *, resamples: int, seed: int) -> tuple[float, float]:
    import numpy as np
    from scipy.stats import bootstrap

    if len(values) < 2:
        return round(float(values[0]), 4), round(float(values[0]), 4)
    batch = BATCH // len(values) + 1
    drawn = bootstrap((np.array(values, dtype=np.float64),), np.mean, n_resamples=resamples, batch=batch, method="percentile", rng=seed)
    return round(float(drawn.confidence_interval.low), 4), round(float(drawn.confidence_interval.high), 4)
