"""Agreement of annotators: Krippendorff's alpha with a bootstrap interval, per question and per slice.

Alpha is 1 - observed / expected disagreement (Krippendorff, Content Analysis, 2004); the package `krippendorff` computes it. Nominal values
are equal or not; ordinal values also have a distance. The interval is the bootstrap over rows that Zapf et al. (2016) recommend, taken
on the logarithm of 1 - alpha and by standard error, since percentiles are too short near 1. Where alpha is undefined, the reason is given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from curation.intervals import Estimate

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Level = Literal["nominal", "ordinal"]
DRAWS = 1_000
# Rows with two answers that alpha needs.
FEW = 2
# Share of resamples without a defined alpha, above which the interval means nothing.
UNDEFINED = 0.05


class Rating(NamedTuple):
    """One person's value for one row and question."""

    row: str
    user: str
    value: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """Alpha of one question on one slice."""

    question: str
    slice: str
    """Name of the slice; "" for all rows."""
    level: Level
    rows: int
    """Rows with at least two answers."""
    answers: int
    """Answers on these rows."""
    alpha: Estimate | None
    why_undefined: str = ""
    """Reason, if alpha is None."""

    @property
    def sentence(self) -> str:
        """The result in words."""
        where = f"{self.question} ({self.slice})" if self.slice else self.question
        if self.alpha is None:
            return f"{where}: alpha is undefined: {self.why_undefined}"
        return f"{where}: alpha {self.alpha.value:.2f} (95 % interval {self.alpha.low:.2f} to {self.alpha.high:.2f}, {self.rows:,} rows)"

    def is_below(self, minimum: float) -> bool:
        """Return whether alpha is below a required minimum, or undefined. The estimate counts, not an end of its interval."""
        return self.alpha is None or self.alpha.value < minimum


def measure(
    question: str, ratings: Iterable[Rating], *, level: Level = "nominal", order: Sequence[str] = (), slice: str = "", seed: int = 0
) -> Agreement:
    """Return Krippendorff's alpha of the answers to one question.

    Args:
        question: its name.
        ratings: one of each person and row.
        level: nominal, or ordinal with ORDER.
        order: ordinal values from low to high.
        slice: name of the slice that the ratings are of.
        seed: of the bootstrap.
    """
    by_row: dict[str, dict[str, str]] = {}
    for rating in ratings:
        by_row.setdefault(rating.row, {})[rating.user] = rating.value
    given = [(tuple(values.values()), 1) for values in by_row.values()]
    return measure_rows(question, given, level=level, order=order, slice=slice, seed=seed)


def measure_rows(
    question: str,
    given: Sequence[tuple[tuple[str, ...], int]],
    *,
    level: Level = "nominal",
    order: Sequence[str] = (),
    slice: str = "",
    seed: int = 0,
) -> Agreement:
    """Return what `measure` does from the values that different people gave each row.

    Args:
        question: its name.
        given: values, and the number of rows that got them.
        level: nominal, or ordinal with ORDER.
        order: ordinal values from low to high.
        slice: name of the slice that the values are of.
        seed: of the bootstrap.
    """
    import numpy as np

    kinds = Counter[tuple[str, ...]]()
    for several, rows in given:
        kinds.update({several: rows} if len(several) >= 2 else {})
    used = {value for one in kinds for value in one}
    values = list(order) if level == "ordinal" else sorted(used)
    if unknown := sorted(used - set(values)):
        raise ValueError(f"order lacks the value {unknown[0]!r}")
    n_rows, answers = kinds.total(), sum(len(one) * n for one, n in kinds.items())

    def without(why: str) -> Agreement:
        return Agreement(question, slice, level, n_rows, answers, None, why)

    if n_rows < FEW:
        return without(f"{n_rows} rows have two answers, and it takes {FEW}")
    if len(used) < 2:
        return without(f"all {answers:,} answers are {next(iter(used))!r}")
    place = {value: at for at, value in enumerate(values)}
    sizes = Counter[tuple[int, ...]]()
    for one, n in kinds.items():
        sizes[tuple(np.bincount([place[value] for value in one], minlength=len(values)).tolist())] += n
    alpha = _estimate(sizes, level, seed)
    return Agreement(question, slice, level, n_rows, answers, alpha) if alpha else without("too few rows differ for an interval")


def measure_slices(
    question: str,
    ratings: Sequence[Rating],
    slices: Mapping[str, str],
    *,
    level: Level = "nominal",
    order: Sequence[str] = (),
    seed: int = 0,
) -> list[Agreement]:
    """Return alpha of all rows, and of each slice of them, by name.

    Args:
        question: its name.
        ratings: one of each person and row.
        slices: name of the slice of each row (a class, a source, a month); other rows are in no slice.
        level: nominal, or ordinal with ORDER.
        order: ordinal values from low to high.
        seed: of the bootstrap.
    """
    out = [measure(question, ratings, level=level, order=order, seed=seed)]
    for name in sorted({slices[rating.row] for rating in ratings if rating.row in slices}):
        own = [rating for rating in ratings if slices.get(rating.row) == name]
        out.append(measure(question, own, level=level, order=order, slice=name, seed=seed))
    return out


def _estimate(sizes: Mapping[tuple[int, ...], int], level: Level, seed: int) -> Estimate | None:
    """Return alpha with its interval.

    Args:
        sizes: number of rows by the count of each value in a row. Resamples are drawn of these groups, which is the same as of rows.
        level: of the values.
        seed: of the bootstrap.
    """
    import krippendorff
    import numpy as np
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    # In an order that does not depend on that of the rows.
    counts, rows = np.array(sorted(sizes)), np.array([sizes[one] for one in sorted(sizes)])
    n, k = int(rows.sum()), counts.shape[1]
    value = float(krippendorff.alpha(value_counts=np.repeat(counts, rows, axis=0), level_of_measurement=level, value_domain=list(range(k))))
    # A row of m answers adds its pairs of values, each with the weight 1 / (m - 1): the coincidence matrix is a sum over rows.
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(k)
    coincidences = (pairs / (counts.sum(axis=1) - 1)[:, None, None]).reshape(len(counts), -1)
    draws = np.random.default_rng(seed).multinomial(n, rows / n, DRAWS).astype(float)
    resampled = alphas((draws @ coincidences).reshape(DRAWS, k, k), level)
    known = resampled[~np.isnan(resampled)]
    if len(known) < (1 - UNDEFINED) * DRAWS:
        return None
    if value >= 1:
        return _perfect(value, n)
    spread = float(np.log((1 - known).clip(min=(1 - value) / 100)).std(ddof=1))
    width = float(stdtrit(n - 1, 0.975)) * spread
    return Estimate(value, 1 - (1 - value) * math.exp(width), 1 - (1 - value) * math.exp(-width), n)


def _perfect(value: float, n: int) -> Estimate:
    """Return the interval of an alpha of 1, where no resample varies: none of N rows differs, so at most about 3/N of them do."""
    from curation.intervals import clopper_pearson_upper

    return Estimate(value, 1 - 2 * clopper_pearson_upper(0, n, 0.025), 1.0, n)


def alphas(coincidences: Array, level: Level) -> Array:
    """Return alpha of each coincidence matrix; NaN where all values are equal.

    Args:
        coincidences: matrices of values by values, one for each resample (first axis).
        level: nominal or ordinal.
    """
    import numpy as np

    totals = coincidences.sum(axis=2)
    n = totals.sum(axis=1)
    size = coincidences.shape[1]
    if level == "nominal":
        distance = np.broadcast_to(1 - np.eye(size), coincidences.shape)
    else:
        # Ordinal distance: the answers between two values, each end counted half, squared.
        reached = np.cumsum(totals, axis=1) - totals / 2
        distance = (reached[:, :, None] - reached[:, None, :]) ** 2
    observed = (coincidences * distance).sum(axis=(1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * distance).sum(axis=(1, 2)) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(expected > 0, 1 - observed / expected, np.nan)
    return found
