"""What `describe` and `compare` find, as frozen values that the workbench keeps and the report shows.

Shares are 0 to 1. Examples hold no personal data: what was found is masked in them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from curation.records import Kind


class Closed(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(Closed):
    """A column of numbers in brief."""

    count: int
    mean: float
    low: float
    p5: float
    median: float
    p95: float
    high: float
    edges: tuple[float, ...] = ()
    """Edges of the bars; the last bar takes all above the 99th percentile."""
    bars: tuple[int, ...] = ()


class Length(Closed):
    """How long one part of the rows is."""

    part: Literal["prompt", "completion"]
    unit: Literal["characters", "tokens"]
    spread: Spread


class Example(Closed):
    """Where something was found: the row, the part, the offsets in its characters, and the place with personal data masked."""

    row: str
    part: Literal["prompt", "completion"]
    start: int
    end: int
    shown: str


class Share(Closed):
    """A value and how many rows have it."""

    name: str
    rows: int
    share: float


class Topic(Closed):
    """A cluster of the prompts' vectors, named by the terms that set it apart from the others."""

    name: str
    terms: tuple[str, ...]
    rows: int
    share: float
    central: str
    """The prompt nearest the middle, masked."""


class Wording(Closed):
    """A refusal or a stock phrase in the answers."""

    phrase: str
    kind: str
    rows: int
    share: float
    source: str
    examples: tuple[Example, ...] = ()


class Personal(Closed):
    """Personal data or a secret of one kind."""

    kind: str
    rows: int
    found: int
    found_by: str
    examples: tuple[Example, ...] = ()


class Description(Closed):
    """What the rows of one kind are made of."""

    kind: Kind
    rows: int
    scope: str
    """Which rows these are, in words."""
    lengths: tuple[Length, ...]
    tokenizer: str | None
    """Whose tokens were counted; None when there was no tokenizer."""
    turns: tuple[Share, ...]
    languages: tuple[Share, ...]
    openings: tuple[Share, ...]
    """The first words of the answers that open most of them."""
    wording: tuple[Wording, ...]
    refusals: int
    """Rows with an answer that refuses."""
    personal: tuple[Personal, ...]
    topics: tuple[Topic, ...] = ()
    no_topics: str = ""
    """Why there are none, where there are none."""
    classes: dict[str, tuple[Share, ...]] = {}
    """Labels and attributes, the largest class first."""


class Point(Closed):
    """A row in the picture."""

    x: float
    y: float


class Uncovered(Closed):
    """A real row that no training row is near, with the nearest one."""

    text: str
    nearest: str
    """Its text, masked."""
    row: str
    """Id of the nearest training row."""
    distance: float


class Comparison(Closed):
    """The rows beside a sample of real use."""

    file: str
    column: str
    scope: str
    training_rows: int
    real_rows: int
    """Different texts; equal ones count once."""
    tested: tuple[int, int]
    """Training and real rows in the two-sample test: a seeded sample where there are more."""
    mmd2: float
    """Squared maximum mean discrepancy, unbiased: near 0 for equal distributions, and then as often below as above."""
    p_value: float
    permutations: int
    auc: float
    """How often a linear classifier, cross-validated, ranks a real row above a training row: .5 when it cannot tell them apart."""
    covered: float
    """Share of the real rows whose nearest training row is within `radius`."""
    baseline: float
    """Share of the real rows that have another real row within `radius`: what coverage can be expected to reach."""
    radius: float
    """Cosine distance."""
    uncovered: tuple[Uncovered, ...]
    """The farthest first; at most the number asked for."""
    gaps: tuple[Topic, ...] = ()
    """What the uncovered rows are about."""
    more_real: tuple[str, ...] = ()
    """Terms that set the real rows apart."""
    more_training: tuple[str, ...] = ()
    training_points: tuple[Point, ...] = ()
    covered_points: tuple[Point, ...] = ()
    uncovered_points: tuple[Point, ...] = ()
    variance: float = 0.0
    """Share of the variance that the picture's two axes hold."""

    @property
    def is_sampled(self) -> bool:
        """Whether the two-sample test saw a sample of the rows, not all."""
        return self.tested[0] < self.training_rows or self.tested[1] < self.real_rows
