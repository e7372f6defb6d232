"""What the report shows of the judges and of the pairs they settled: whether they can be believed, and what the pairs would teach.

Shares are 0 to 1; totals are 0 to 10.
"""

from __future__ import annotations

from pydantic import Field

from curation.hygiene import Hygiene
from curation.report.rows import Closed
from curation.score.crosscheck import OrderBias, RationaleCheck
from curation.score.measures import Estimate, Rate
from curation.score.people import Against


class Judge(Closed):
    """One judge, by what it said itself and beside people."""

    name: str
    scored: int
    simulated: bool = False
    constant: dict[str, float] = Field(default_factory=dict)
    """Total or criterion that tells nothing apart, with the share of its commonest value."""
    length: dict[str, Estimate] = Field(default_factory=dict)
    """Total and criteria to their rank correlation with the answer's length."""
    rationales: RationaleCheck | None = None
    order: OrderBias | None = None
    own_agreement: Rate | None = None
    """Of the pairs it settled, those whose preferred answer also has its higher total."""
    again: Rate | None = None
    """Of the scores it was asked for twice, those it gave again."""
    overall_apart: int = 0
    """Rows whose overall score and criteria disagree."""
    against: Against | None = None
    """Beside what people settled of single rows."""
    pairs_against: Rate | None = None
    """Pairs on which it and people, both settled, prefer the same answer."""


class Apart(Closed):
    """Two rows that say the same, scored more than a step apart."""

    row: str
    twin: str
    text: str
    twin_text: str
    total: float
    twin_total: float


class Odd(Closed):
    """A rationale and the score beside it that contradict each other."""

    row: str
    text: str
    judge: str
    criterion: str
    score: int
    rationale: str


class JudgeQuality(Closed):
    """Whether the judge can be believed."""

    pairs: int = 0
    """Pairs judged in both orders."""
    flipped: int = 0
    """Pairs whose winner changed with the order."""
    compared: int = 0
    """Rows with both a judge's verdict and a settled human one."""
    agreed: int = 0
    contradictions: int = 0
    """Scores whose overall and criteria disagree."""
    panel: str = ""
    """Whether the panel scored too, and why."""
    judges: tuple[Judge, ...] = ()
    judges_apart: int = 0
    """Rows on which the judges differ by more than a step."""
    apart: tuple[Apart, ...] = ()
    odd: tuple[Odd, ...] = ()


class PairHygiene(Closed):
    """What the preference pairs would teach beside what they should, before the gates and after."""

    before: Hygiene
    after: Hygiene
    left_out: dict[str, int] = Field(default_factory=dict)
    """Why pairs are no pairs: the judge's choice depends on the order, it prefers the other answer, and so on."""
    near_identical: tuple[tuple[str, str, str], ...] = ()
    """(id, chosen, rejected) of pairs that are left and whose answers hardly differ."""
