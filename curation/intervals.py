"""The few statistics that say how sure a number is: shares with Wilson's interval, and rank correlations with a bootstrapped one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DRAWS = 400
"""Resamples behind an interval; the second decimal of its ends is stable from there."""
EXACT_UP_TO = 2_000
"""Rows up to which a correlation is bootstrapped; above, its interval is so narrow that a formula serves."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of N, with its 95 % interval (Wilson's, which holds for small N)."""

    hits: int
    n: int

    @property
    def share(self) -> float:
        """0 to 1; 0 where nothing was counted."""
        return self.hits / self.n if self.n else 0.0

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self._wilson(-1)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self._wilson(1)

    def _wilson(self, side: int) -> float:
        if not self.n:
            return float(side > 0)
        z, p = 1.959964, self.share
        middle, width = p + z * z / (2 * self.n), z * math.sqrt(p * (1 - p) / self.n + z * z / (4 * self.n * self.n))
        return min(1.0, max(0.0, (middle + side * width) / (1 + z * z / self.n)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def excludes(self, value: float) -> bool:
        """Whether the interval leaves VALUE out."""
        return not self.low <= value <= self.high


def spearman(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> Estimate | None:
    """Rank correlation of two columns; None for fewer than ten rows, or where one of the columns never changes.

    The interval is a percentile bootstrap over rows; above EXACT_UP_TO rows Fisher's z with Bonett and Wright's error (2000).
    """
    import numpy as np

    a, b = np.asarray(x, float), np.asarray(y, float)
    n = len(a)
    if n < 10 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    rho = float(_rank_correlation(a[None, :], b[None, :])[0])
    if n > EXACT_UP_TO:
        middle = math.atanh(max(-0.999999, min(0.999999, rho)))
        width = 1.959964 * math.sqrt((1 + rho * rho / 2) / (n - 3))
        return Estimate(rho, math.tanh(middle - width), math.tanh(middle + width), n)
    draws = np.random.default_rng(seed).integers(0, n, (DRAWS, n))
    low, high = interval(_rank_correlation(a[draws], b[draws]))
    return Estimate(rho, low, high, n)


def mean(values: Sequence[float], *, seed: int = 0) -> Estimate | None:
    """A mean with its bootstrapped interval; None where there is nothing."""
    import numpy as np

    known = np.asarray(values, float)
    if not len(known):
        return None
    draws = np.random.default_rng(seed).integers(0, len(known), (DRAWS, len(known)))
    low, high = interval(known[draws].mean(axis=1))
    return Estimate(float(known.mean()), low, high, len(known))


def interval(draws: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The middle 95 % of resampled values; resamples in which nothing varied say nothing."""
    import numpy as np

    known = draws[~np.isnan(draws)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


def _rank_correlation(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np
    from scipy.stats import rankdata

    ranks = [rankdata(part, axis=1) for part in (a, b)]
    left, right = (part - part.mean(axis=1, keepdims=True) for part in ranks)
    scale = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray[Any, Any] = (left * right).sum(axis=1) / scale
    return found
