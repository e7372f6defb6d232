"""Intervals of metrics and paired comparisons of two models on equal items.

Intervals are percentile bootstraps of the mean. A difference is a change only if its interval excludes 0 and a paired permutation test
agrees: with few differing items the bootstrap alone finds a change too easily (4 of 100 items that flip in one direction are enough).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from training.results import DifferenceFacts, MetricFacts

RESAMPLES, SEED = 10_000, 20_261_124
LEVEL = 0.05
"""Significance level of a verdict."""
BATCH = 1_000_000
"""Numbers drawn at a time, to bound the memory of a large set."""


def measure(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> MetricFacts:
    """Return the mean of values between 0 and 1 with its percentile-bootstrap interval.

    If every item is correct, or every one incorrect, resampling shows no spread; Wilson's interval is returned instead.

    Args:
        values: one value an item.
        resamples: number of resamples.
        seed: of the random numbers.
    """
    if len(set(values)) == 1 and values[0] in (0, 1):
        from scipy.stats import binomtest

        wilson = binomtest(int(sum(values)), len(values)).proportion_ci(method="wilson")
        low, high = round(float(wilson.low), 4), round(float(wilson.high), 4)
        return MetricFacts(value=float(values[0]), n=len(values), low=low, high=high, method="wilson")
    low, high = _percentiles(values, resamples=resamples, seed=seed)
    return MetricFacts(value=round(sum(values) / len(values), 4), n=len(values), low=low, high=high, method="bootstrap")


def compare(values: Sequence[float], others: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> DifferenceFacts:
    """Return the paired difference of two models on equal items, by bootstrap and permutation test.

    Args:
        values: one value an item.
        others: the other model's values, in the same order.
        resamples: number of resamples.
        seed: of the random numbers.
    """
    differences = [a - b for a, b in zip(values, others, strict=True)]
    low, high = _percentiles(differences, resamples=resamples, seed=seed)
    p = permutation_p(differences, resamples=resamples, seed=seed)
    mean = round(sum(differences) / len(differences), 4)
    return DifferenceFacts(difference=mean, n=len(differences), low=low, high=high, p=round(p, 4), verdict=verdict_of(p, low, high))


def verdict_of(p: float, low: float, high: float) -> Literal["better", "worse", "no change"]:
    """Return the verdict on a difference.

    Args:
        p: of the paired test.
        low: lower end of the difference's interval.
        high: its upper end.
    """
    if p > LEVEL or low <= 0 <= high:
        return "no change"
    return "better" if low > 0 else "worse"


def permutation_p(differences: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> float:
    """Return the two-sided p value of a paired permutation test; exact if there are few ways to assign the signs.

    Args:
        differences: one paired difference an item.
        resamples: number of random signs.
        seed: of the random numbers.
    """
    import numpy as np
    from scipy.stats import permutation_test

    # Items without a difference have no sign; without them fewer ways are left, and the test is exact more often.
    moved = np.array([d for d in differences if d != 0], dtype=np.float64)
    if len(moved) < 2:
        return 1.0
    tested = permutation_test((moved,), np.mean, permutation_type="samples", n_resamples=resamples, batch=BATCH // len(moved) + 1, rng=seed)
    return float(tested.pvalue)


def _percentiles(values: Sequence[float], *, resamples: int, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the mean."""
    import numpy as np
    from scipy.stats import bootstrap

    if len(values) < 2:
        return round(float(values[0]), 4), round(float(values[0]), 4)
    batch = BATCH // len(values) + 1
    drawn = bootstrap((np.array(values, dtype=np.float64),), np.mean, n_resamples=resamples, batch=batch, method="percentile", rng=seed)
    return round(float(drawn.confidence_interval.low), 4), round(float(drawn.confidence_interval.high), 4)
