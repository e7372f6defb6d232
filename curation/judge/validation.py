"""Agreement of a judge with people: Cohen's kappa at the keep rule's cut, and the area under the ROC curve of its totals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curation.intervals import DRAWS, Estimate, Rate, interval

FEW = 5
"""Approved or rejected rows below which no interval is useful."""


@dataclass(frozen=True, slots=True)
class AgreementTable:
    """Counts of the judge's and people's decisions on the same rows, at one cut."""

    both_keep: int
    only_judge: int
    """Kept by the judge, not approved by people."""
    only_people: int
    """Approved by people, not kept by the judge."""
    neither: int

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.both_keep + self.only_judge + self.only_people + self.neither

    @property
    def agreed(self) -> Rate:
        """Share of equal decisions."""
        return Rate(self.both_keep + self.neither, self.n)

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa: agreement beyond chance; None where a side always decides the same."""
        n = self.n
        judge, people = self.both_keep + self.only_judge, self.both_keep + self.only_people
        chance = (judge * people + (n - judge) * (n - people)) / (n * n) if n else 1.0
        return None if chance >= 1 else (self.agreed.share - chance) / (1 - chance)


@dataclass(frozen=True, slots=True)
class JudgeValidation:
    """Agreement of one judge with people."""

    judge: str
    table: AgreementTable
    kappa: Estimate | None
    auc: Estimate | None
    """Probability that an approved row has a higher total than a rejected one: 0.5 is chance, 1 is perfect."""
    by_criterion: dict[str, float]
    """AUC of each criterion."""
    by_length: float | None
    """AUC of the answer's length: a judge that is not better only rewards length."""
    best_cut: float | None
    """Cut with the highest kappa on these rows; kappa on new rows will be a little lower."""
    best_kappa: float | None = None


def validate_judge(
    judge: str,
    totals: Sequence[float],
    approved: Sequence[bool],
    *,
    kept: Sequence[bool],
    criteria: Mapping[str, Sequence[float]] | None = None,
    lengths: Sequence[int] | None = None,
    seed: int = 0,
) -> JudgeValidation:
    """Compare a judge's totals with people's verdicts on the rows that have one.

    Args:
        judge: its name.
        totals: 0 to 10, by row.
        approved: people's verdict, by row.
        kept: whether the keep rule takes the row by the judge's total.
        criteria: scores of each criterion, by row.
        lengths: characters of the answer, by row.
        seed: of the bootstrap interval.
    """
    few = min(sum(approved), len(approved) - sum(approved)) < FEW
    best = None if few else _best_cut(totals, approved)
    return JudgeValidation(
        judge,
        tabulate(kept, approved),
        None if few else _kappa_interval(kept, approved, seed),
        None if few else auc(totals, approved),
        {} if few else {name: _auc(values, approved) for name, values in (criteria or {}).items()},
        None if few or lengths is None else _auc([float(n) for n in lengths], approved),
        best[0] if best else None,
        best[1] if best else None,
    )


def tabulate(kept: Sequence[bool], approved: Sequence[bool]) -> AgreementTable:
    """Count the four combinations of the two decisions."""
    pairs = list(zip(kept, approved, strict=True))
    return AgreementTable(*(pairs.count(case) for case in ((True, True), (True, False), (False, True), (False, False))))


def auc(totals: Sequence[float], approved: Sequence[bool]) -> Estimate | None:
    """Return the area under the ROC curve, ties counted half, with the interval of DeLong et al. (1988); None where a class is missing."""
    import numpy as np
    from scipy.stats import rankdata

    values, good = np.asarray(totals, float), np.asarray(approved, bool)
    m, n = int(good.sum()), int((~good).sum())
    if not m or not n:
        return None
    # DeLong's structural components from mid-ranks (Sun and Xu 2014): O(n log n) instead of all pairs.
    ranks = rankdata(values)
    above = (ranks[good] - rankdata(values[good])) / n
    below = 1 - (ranks[~good] - rankdata(values[~good])) / m
    area = float(above.mean())
    variance = (above.var(ddof=1) / m if m > 1 else 0.0) + (below.var(ddof=1) / n if n > 1 else 0.0)
    width = 1.959964 * math.sqrt(variance)
    return Estimate(area, max(0.0, area - width), min(1.0, area + width), m + n)


def _auc(values: Sequence[float], approved: Sequence[bool]) -> float:
    found = auc(values, approved)
    return 0.5 if found is None else found.value


def _best_cut(totals: Sequence[float], approved: Sequence[bool]) -> tuple[float, float] | None:
    """Return (cut, kappa) with the highest kappa, and the lowest cut among equals."""
    cuts = sorted(set(totals))
    if len(cuts) > 200:  # a finer grid fits the sample, not the judge
        cuts = cuts[:: len(cuts) // 200]
    tried = [(tabulate([total >= cut for total in totals], approved).kappa, -cut) for cut in cuts]
    known = [(kappa, cut) for kappa, cut in tried if kappa is not None]
    if not known:
        return None
    kappa, cut = max(known)
    return -cut, kappa


def _kappa_interval(kept: Sequence[bool], approved: Sequence[bool], seed: int) -> Estimate | None:
    import numpy as np

    kappa = tabulate(kept, approved).kappa
    if kappa is None:
        return None
    a, b = np.asarray(kept, bool), np.asarray(approved, bool)
    # Percentile bootstrap over rows, all draws as one matrix.
    draws = np.random.default_rng(seed).integers(0, len(a), (DRAWS, len(a)))
    x, y = a[draws], b[draws]
    agreed, judge, people = (x == y).mean(axis=1), x.mean(axis=1), y.mean(axis=1)
    chance = judge * people + (1 - judge) * (1 - people)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = interval((agreed - chance) / (1 - chance))
    return Estimate(kappa, low, high, len(a))
