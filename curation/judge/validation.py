"""The judge against people: does its total, or its choice, say what people settled once they had looked?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curation.intervals import DRAWS, Estimate, Rate, interval

FEW = 5
"""Approved and rejected rows below which the two cannot be told apart with any sureness."""


@dataclass(frozen=True, slots=True)
class Table:
    """What judge and people say of the same rows, at a cut."""

    both_keep: int
    only_judge: int
    """The judge keeps it, people do not."""
    only_people: int
    """People approve it, the judge would not keep it."""
    neither: int

    @property
    def n(self) -> int:
        """All rows."""
        return self.both_keep + self.only_judge + self.only_people + self.neither

    @property
    def agreed(self) -> Rate:
        """How often both say the same."""
        return Rate(self.both_keep + self.neither, self.n)

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa: agreement beyond chance; None where one side always says the same."""
        n = self.n
        judge, people = self.both_keep + self.only_judge, self.both_keep + self.only_people
        chance = (judge * people + (n - judge) * (n - people)) / (n * n) if n else 1.0
        return None if chance >= 1 else (self.agreed.share - chance) / (1 - chance)


@dataclass(frozen=True, slots=True)
class Against:
    """How far one judge says what people say."""

    judge: str
    table: Table
    kappa: Estimate | None
    auc: Estimate | None
    """Chance that an approved row has the higher total than one that is not: 0.5 is a coin, 1 is perfect."""
    by_criterion: dict[str, float]
    """The same for each criterion alone."""
    by_length: float | None
    """The same for the answer's length alone: a judge that does no better only likes length."""
    best_cut: float | None
    """The cut with the highest kappa on these very rows; on new rows it does a little worse."""
    best_kappa: float | None = None


def hold_against(
    judge: str,
    totals: Sequence[float],
    approved: Sequence[bool],
    *,
    kept: Sequence[bool],
    criteria: Mapping[str, Sequence[float]] | None = None,
    lengths: Sequence[int] | None = None,
    seed: int = 0,
) -> Against:
    """Compare a judge's totals with what people settled, row by row; rows people have not settled are not given.

    Args:
        kept: whether the keep rule takes the row by the judge's total.
    """
    few = min(sum(approved), len(approved) - sum(approved)) < FEW
    best = None if few else _best_cut(totals, approved)
    return Against(
        judge,
        tabulate(kept, approved),
        None if few else _kappa_interval(kept, approved, seed),
        None if few else auc(totals, approved),
        {} if few else {name: _auc(values, approved) for name, values in (criteria or {}).items()},
        None if few or lengths is None else _auc([float(n) for n in lengths], approved),
        best[0] if best else None,
        best[1] if best else None,
    )


def tabulate(kept: Sequence[bool], approved: Sequence[bool]) -> Table:
    """Count the four cases."""
    pairs = list(zip(kept, approved, strict=True))
    return Table(*(pairs.count(case) for case in ((True, True), (True, False), (False, True), (False, False))))


def auc(totals: Sequence[float], approved: Sequence[bool]) -> Estimate | None:
    """Area under the ROC curve, ties half, with DeLong's interval (1988); None where one of the two kinds is missing."""
    import numpy as np
    from scipy.stats import rankdata

    values, good = np.asarray(totals, float), np.asarray(approved, bool)
    m, n = int(good.sum()), int((~good).sum())
    if not m or not n:
        return None
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
    """(cut, kappa) with the highest kappa, the lowest cut among equals."""
    cuts = sorted(set(totals))
    if len(cuts) > 200:  # a finer cut than this fits the sample, not the judge
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
    draws = np.random.default_rng(seed).integers(0, len(a), (DRAWS, len(a)))
    x, y = a[draws], b[draws]
    agreed, judge, people = (x == y).mean(axis=1), x.mean(axis=1), y.mean(axis=1)
    chance = judge * people + (1 - judge) * (1 - people)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = interval((agreed - chance) / (1 - chance))
    return Estimate(kappa, low, high, len(a))
