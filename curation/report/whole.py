"""What the report shows of the rows as a whole, beside what distribution/ has found: balance and diversity."""

from __future__ import annotations

from typing import Literal

from curation.balance import Imbalance
from curation.records import Kind
from curation.report.rows import Closed


class BalancedClass(Closed):
    """One class before the cap and after."""

    name: str
    before: int
    after: int
    weight: float | None = None
    missing: int = 0
    """Rows it lacks until it has as many as `balance.refill` says."""


class ClassBalance(Closed):
    """The classes of one kind of row, by what the project balances."""

    kind: Kind
    by: str
    rule: str
    """In words: "at most 40 a class, 20 wanted in each, weights by sqrt"."""
    classes: tuple[BalancedClass, ...]
    before: Imbalance
    after: Imbalance
    without: int = 0
    """Rows that have no class."""


class DiversityOf(Closed):
    """How various one set of texts is."""

    name: str
    rows: int
    distinct: float
    """Share of the texts that occur once."""
    effective_clusters: float
    nearest: float
    """Mean similarity to the nearest neighbour."""
    vendi: float


class DiversityFacts(Closed):
    """The rows that stand, and beside them at equal size what the teacher writes without a plan."""

    whole: DiversityOf
    compared: tuple[DiversityOf, ...] = ()
    """Planned and naive at one size; empty where no naive set was written."""
    vendi_ratio: float | None = None
    cells: int = 0
    filled: int = 0
    simulated: bool = False


class DifficultyLevel(Closed):
    """A planned difficulty and how its rows were measured."""

    name: str
    rows: int
    mean: float | None
    counts: tuple[int, ...]
    """Rows by bin."""


class DifficultyCross(Closed):
    """Planned difficulty against measured difficulty."""

    kind: Kind
    method: Literal["judge", "length"]
    levels: tuple[DifficultyLevel, ...]
    bins: tuple[str, ...]
    correlation: tuple[float, float, float, int] | None
    """Spearman's rank correlation, its 95 % interval, and the rows; None where it cannot be computed."""
    disagreeing: int
    furthest: tuple[str, ...] = ()
    """Ids of the rows on which plan and measure differ most."""
