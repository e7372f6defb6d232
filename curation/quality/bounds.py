"""Upper bounds on the number of bad rows in a finite set of which a random part was read.

Three methods, each valid at the stated error probability for every set:

- `most_bad_hypergeometric`: a simple random sample without replacement, exact.
- `most_bad_stratified`: any stratified random sample without replacement, also when readers miss bad rows (proof below).
- `most_bad_betting`: rows read in one random order, looked at after every row (Waudby-Smith and Ramdas 2024, "Estimating means of bounded
  random variables by betting", section 5: sampling without replacement).

The stratified bound. Let D rows be bad and let every bad row be found with a probability of at least q (the smallest sampled part of a
stratum times the readers' sensitivity). The bad rows found in a stratum are a thinned hypergeometric variable, hence a sum of independent
Bernoulli variables (Vatutin and Mikhailov 1982), one for each of its bad rows; so is their total T, with a mean of at least qD. By
Hoeffding (1956, theorem 4) P(T <= c) is at most P(Bin(D, q) <= c) for every c <= qD - 1. A D is excluded only where the latter is at most
alpha <= 1/4, and then c <= qD - 1 follows from P(Bin(D, q) <= qD) > 1/4 for D(1 - q) > 1 (Greenberg and Mohri 2014). Where D(1 - q) <= 1
the only open case is c = D - 1, and that D is excluded only for D = 1, where T is a single Bernoulli variable. With few strata or many
rows the bound equals that of a simple random sample to about one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MAX_ALPHA = 0.25
"""Highest error probability for which the stratified bound is proven."""
# Beta prior of the betting bound's predicted error rate. Tuned on rates of 0 to 1 % (benchmarks/bench_review.py): a smaller first
# number needs fewer rows where nothing is bad, and more after the first bad row.
PRIOR = (0.15, 25.0)


def most_bad_hypergeometric(bad: int, n: int, rows: int, alpha: float) -> int:
    """Return the largest number of bad rows in a set that is consistent with a simple random sample.

    Args:
        bad: bad rows found in the sample.
        n: sampled rows.
        rows: rows of the set.
        alpha: probability that the returned number is too small, at most.
    """
    from scipy.stats import hypergeom

    return _largest(lambda d: float(hypergeom.cdf(bad, rows, d, n)) > alpha, bad, rows - (n - bad))


def most_bad_stratified(bad: int, rows: int, chance: float, alpha: float) -> int:
    """Return an upper bound on the bad rows in a set, from a stratified random sample read by imperfect readers.

    False alarms only raise the bound, since a row that was found good or bad counts as found.

    Args:
        bad: sampled rows that the readers found bad.
        rows: rows of the set.
        chance: lower bound of the probability that a bad row is sampled and found; 0 to 1.
        alpha: probability that the returned number is too small, at most; at most MAX_ALPHA.
    """
    if not 0 < alpha <= MAX_ALPHA:
        raise ValueError(f"alpha must be between 0 and {MAX_ALPHA}, got {alpha}")
    from scipy.special import betainc

    def is_possible(d: int) -> bool:
        if d <= bad or (d == bad + 1 and bad > 0 and d * (1 - chance) <= 1):
            return True
        # P(Bin(d, chance) <= bad) by the incomplete beta function.
        return float(betainc(d - bad, bad + 1, 1 - chance)) > alpha

    if chance >= 1:
        return min(bad, rows)
    return rows if chance <= 0 else _largest(is_possible, min(bad, rows), rows)


def most_bad_betting(bad_at: Sequence[int], n: int, rows: int, alpha: float) -> int:
    """Return an upper bound on the bad rows in a set whose rows are read in a random order; valid at every moment of the reading.

    For each possible number D a gambler bets on every next row. If D is true, the capital is a martingale under the bets, so by Ville's
    inequality it ever reaches 1/alpha with a probability of at most alpha; a D with such a capital is excluded. The capital of the moment
    counts, not the highest so far: after a clean start with many bad rows behind it, the highest would still promise a clean set. The bets
    follow the predictive error rate under a Beta prior, and never above the rate that D implies, so only fewer bad rows than D implies
    earn capital.

    Args:
        bad_at: positions (from 1) of the bad rows among the rows read.
        n: rows read so far.
        rows: rows of the set.
        alpha: probability that the bound is ever too small, at most.
    """
    import numpy as np

    found = np.zeros(n)
    found[np.asarray(bad_at, int) - 1] = 1
    before = np.concatenate([[0.0], np.cumsum(found)])[:n]
    place = np.arange(n)
    predicted = (PRIOR[0] + before) / (sum(PRIOR) + place)
    total, highest = len(bad_at), rows - n + len(bad_at)

    def is_possible(d: int) -> bool:
        return _capital(d, found, before, predicted, rows) < math.log(1 / alpha)

    # Above this number no bet is capped, and the capital is a convex function of D: it crosses the limit once.
    start = min(highest, max(total, math.ceil(float(np.max(before + predicted * (rows - place), initial=0)))))
    if is_possible(start):
        return _largest(is_possible, start, highest)
    return next((d for d in range(start - 1, total, -1) if is_possible(d)), total)


def _capital(d: int, found: np.ndarray[Any, Any], before: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any], rows: int) -> float:
    """Return the logarithm of the capital against D bad rows."""
    import numpy as np

    implied = (d - before) / (rows - np.arange(len(found)))
    bet = np.minimum(predicted, implied)
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = np.where(found == 1, np.log(bet / implied), np.log1p(-bet) - np.log1p(-implied))
    # A row that D rules out excludes D.
    gains[((implied <= 0) & (found == 1)) | ((implied >= 1) & (found == 0))] = np.inf
    return float(gains.sum())


def _largest(is_possible: Callable[[int], bool], low: int, high: int) -> int:
    """Return the largest number up to HIGH that is possible, where LOW is and possibility ends once."""
    while low < high:
        middle = (low + high + 1) // 2
        if is_possible(middle):
            low = middle
        else:
            high = middle - 1
    return low
