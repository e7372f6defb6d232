"""What the report shows of the rows: the way through the stages, scores, what was left out, leaks, classes.

Shares are 0 to 1; scores keep the scale they were given on.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from curation.records import Kind


class Closed(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FunnelStep(Closed):
    """How many rows entered a stage, how many left it, and why the others stayed behind."""

    stage: str
    entered: int
    left: int
    reasons: dict[str, int] = Field(default_factory=dict)
    """Reason to count, of the rows that did not leave."""
    note: str = ""
    """A short remark, for example "waiting for a second answer"."""


class Selection(Closed):
    """One way of choosing the same number of rows, described."""

    name: str
    """ "Filter", "Random" or "Longest"."""
    rows: int
    mean_score: float | None = None
    valid_share: float | None = None
    """Share that passes the validators, which the judge does not see."""
    mean_length: float | None = None
    """Characters."""
    kept_share: float | None = None
    """Share of these rows that the filter keeps too."""
    approved_share: float | None = None
    """Share of the reviewed rows among them that people approved as they stood."""
    reviewed: float = 0
    """How many of them people have settled; for a random selection the mean."""


class ScoreSet(Closed):
    """The scores of one kind of record and the rule that keeps."""

    kind: Kind
    totals: tuple[float, ...]
    """One total (0 to 10) a scored row."""
    threshold: float | None
    """The lowest total that is kept; for a top-N rule the total of the last row kept. None where each group has its own."""
    rule: str
    """The keep rule in words: "total of 7.0 or more", "best 40 %"."""
    kept: int
    criteria: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Criterion to its scores."""
    selections: tuple[Selection, ...] = ()
    """What `compare_selections` returns."""
    groups: dict[str, tuple[int, int, float]] = Field(default_factory=dict)
    """Where the best part is taken by group: group to rows scored, rows kept, and the lowest total kept."""
    rubric_digest: str = ""


class Drop(Closed):
    """One row that did not make it, with what convinced the stage."""

    row: str
    """Id that `curate trace` takes."""
    stage: str
    reason: str
    text: str
    kind: Kind = "instruction"
    twin: str | None = None
    """Id of the row it was compared with."""
    twin_text: str | None = None
    measure: str = ""
    """What the number is: "Jaccard", "cosine", "total"."""
    value: float | None = None
    evidence: str = ""
    cluster: str | None = None
    """Of a duplicate: the row that stands for all that are like it."""
    label: str | None = None
    twin_label: str | None = None


class ProtectedSuite(Closed):
    """A protected evaluation set and how the screen was set for it."""

    name: str
    file: str
    items: int
    screened: int
    """Rows compared with it."""
    flagged: int
    operating_point: str
    """In words: "score of 0.74 or more; 1 % of clean rows expected above"."""
    threshold: float | None = None
    scores: tuple[float, ...] = ()
    """Each screened row's score against its nearest item, where the screen keeps it."""
    digest: str = ""


class Leak(Closed):
    """A row that repeats or rewords a protected item."""

    row: str
    suite: str
    item: str
    method: str
    """What found it: "exact", "shared span", "lexical and dense", "leak judge"."""
    text: str
    item_text: str
    score: float | None = None
    evidence: str = ""


class Conflict(Closed):
    """Texts that say the same under different labels."""

    row: str
    text: str
    label: str
    twin: str
    twin_text: str
    twin_label: str
    similarity: float | None = None
    outcome: str = ""
    """What happened to them: "both left out", "sent to review"."""


class ClassCount(Closed):
    """One class of a distribution."""

    name: str
    before: int
    after: int
    planned: int | None = None


class Distribution(Closed):
    """Counts by label, topic, difficulty or any attribute, before the gates and after."""

    name: str
    classes: tuple[ClassCount, ...]


class CoverageCell(Closed):
    """Planned examples of one crossing of the plan, and those whose row is approved or may still be."""

    row: str
    column: str
    planned: int
    have: int


class Coverage(Closed):
    """How far the plan is filled, over two of its attributes."""

    rows: str
    """Name of the attribute down the side."""
    columns: str
    cells: tuple[CoverageCell, ...]
