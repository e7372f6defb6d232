"""What the report shows of the rows as a whole, beside what distribution/ has found: balance and diversity."""

from __future__ import annotations

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
