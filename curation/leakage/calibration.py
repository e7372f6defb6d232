"""What is alike enough, read off the protected items themselves: each beside its nearest *other* item, which is no leak of it.

A likeness counts less where items lie close together, and each kind of it is measured in standard deviations of what the
nearest other items reach, so that kinds can be added. The cut is where a chosen share of these hard negatives would pass.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from curation.leakage.candidates import Shortlist
from curation.leakage.features import DENSE, LEXICAL, Prepared, SuiteFeatures
from curation.leakage.ngrams import readable_rows

Array = np.ndarray[Any, np.dtype[Any]]

WEIGHTS = {False: np.array([2.0, 0.5]), True: np.array([2.0, 0.5, 1.0, 1.0])}
"""lexical, values, dense, levelled; chosen on the even items of public rephrasings (benchmarks/leaks.py reports the odd ones)."""
ENOUGH = 100
"""Items from which the nearest other one says where a cut belongs; fewer get `UNCALIBRATED` at least."""
UNCALIBRATED = {True: 1.2, False: 0.6}
"""Lexical plus dense likeness, or lexical alone, at which a row of a small suite counts as reworded."""
NEIGHBOURS = 16
_CROWD = 3
_STEEP = 10.0
"""How many standard deviations a difference of one in likeness stands for in a suite too small to tell."""


class OperatingPoint(NamedTuple):
    """Where the cut of a suite lies, and what it was estimated on."""

    suite: str
    items: int
    """Items it was estimated on: those with a nearest other one that shares no span with them."""
    cut: float
    """Evidence, in standard deviations of what nearest other items reach (in a suite too small to tell, tenths of likeness)."""
    flagged: int
    """Of these items, how many would be flagged as their nearest other one."""
    is_estimated: bool
    """False when the suite is too small to tell, and the cut is a fixed one."""


class Scale(NamedTuple):
    """How a suite turns likeness into evidence."""

    crowding: Array
    """Items × features: half the mean likeness of each item to its three nearest fellows."""
    centre: Array
    spread: Array
    cut: float
    """Evidence that the chosen share of hard negatives reaches."""
    loose: float
    """Evidence from which a leak is possible: ten times as many hard negatives reach it."""
    negatives: Array
    """Evidence of each item's nearest other one."""
    is_calibrated: bool

    def evidence(self, likeness: Array, items: Array) -> Array:
        """Standard deviations beyond the cut; below 0 is no leak."""
        corrected = likeness - self.crowding[np.maximum(items, 0)]
        return _sum(corrected, self) - self.cut

    def point(self, suite: str) -> OperatingPoint:
        """What the cut is, for people."""
        flagged, n = int((self.negatives > self.cut).sum()), len(self.negatives if self.is_calibrated else self.crowding)
        return OperatingPoint(suite, n, round(self.cut, 3), flagged, self.is_calibrated)


def calibrate(
    texts: Sequence[str], features: SuiteFeatures, prepared: Prepared, owners: Array, *, copied: Set[tuple[int, int]], rate: float
) -> Scale:
    """Compare every item with its nearest others.

    Args:
        owners: the item that each text is (a piece of); pieces of one item are no negatives of one another.
        copied: items that share a span word for word. A rewording does not, so how alike they are says nothing of where its
            cut belongs: on public rephrasings the others' 99th percentile is within a fifth of the true one, and with the
            copied ones it was up to four times as high.
        rate: share of hard negatives that may pass.
    """
    fellows = _fellows(texts, features, prepared, owners)
    likeness, _ = features.compare(prepared, np.arange(len(prepared)), fellows)
    nearest = np.sort(np.where(fellows[:, :, None] >= 0, likeness, 0.0), axis=1)[:, -_CROWD:]
    crowding = np.maximum(nearest, 0.0).sum(axis=1) / (2 * _CROWD)
    corrected = likeness - crowding[np.maximum(fellows, 0)]
    corrected[fellows < 0] = -1.0
    hardest = corrected.max(axis=1)
    enough = len(set(owners.tolist())) >= ENOUGH
    scale = Scale(crowding, hardest.mean(axis=0), np.maximum(hardest.std(axis=0), 1e-3), 0.0, 0.0, np.zeros(0), enough)
    told_apart = np.array([[(a, b) not in copied for b in line] for a, line in zip(owners.tolist(), owners[fellows].tolist(), strict=True)])
    negatives = _sum(corrected, scale).max(axis=1, initial=-np.inf, where=(fellows >= 0) & told_apart)
    negatives = negatives[np.isfinite(negatives)]
    cut, loose = _quantile(negatives, rate), _quantile(negatives, min(10 * rate, 0.5))
    if not enough:
        cut = max(cut, _STEEP * UNCALIBRATED[features.dense is not None])
        loose = max(min(loose, cut), cut - 0.2 * _STEEP)
    return scale._replace(cut=cut, loose=loose, negatives=negatives)


def _sum(corrected: Array, scale: Scale) -> Array:
    if not scale.is_calibrated:
        return _STEEP * (corrected[..., LEXICAL] + (corrected[..., DENSE] if corrected.shape[-1] > DENSE else 0.0))
    return np.asarray((corrected - scale.centre) / scale.spread @ WEIGHTS[corrected.shape[-1] > DENSE])


def _fellows(texts: Sequence[str], features: SuiteFeatures, prepared: Prepared, owners: Array) -> Array:
    """For each item its nearest others, by words and by embedding; -1 where there are fewer."""
    found = Shortlist(texts).find(readable_rows(texts), most=NEIGHBOURS).item
    if prepared.dense is not None:
        found = np.concatenate([found, features.nearest(prepared.dense, NEIGHBOURS)], axis=1)
    same_text = numbered(texts)
    known = np.maximum(found, 0)
    own = (owners[known] == owners[:, None]) | (same_text[known] == same_text[:, None])
    return np.where(own | repeats(found), -1, found)


def numbered(texts: Sequence[str]) -> Array:
    """One number per text, the same for equal ones."""
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(text, len(seen)) for text in texts], np.int64)


def repeats(found: Array) -> Array:
    """Where a number stands in its line a second time."""
    order = np.argsort(found, axis=1, kind="stable")
    sorted_items = np.take_along_axis(found, order, axis=1)
    same = np.zeros(found.shape, bool)
    same[:, 1:] = sorted_items[:, 1:] == sorted_items[:, :-1]
    again = np.zeros(found.shape, bool)
    np.put_along_axis(again, order, same, axis=1)
    return again


def _quantile(negatives: Array, rate: float) -> float:
    return float(np.quantile(negatives, 1 - rate, method="higher")) + 1e-9 if len(negatives) else 0.0
