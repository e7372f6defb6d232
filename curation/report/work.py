"""What the report shows of the work: review, cost, failures, snapshots, runs.

Shares are 0 to 1, money is US dollars.
"""

from __future__ import annotations

from datetime import datetime

from curation.records import Kind
from curation.report.rows import Closed


class Reviewer(Closed):
    """One person's (or simulated reviewer's) answers."""

    name: str
    simulated: bool
    answers: int
    approved: int = 0
    rejected: int = 0
    edited: int = 0
    disputed: int = 0
    """Answers on rows where the reviewers disagreed."""


class Agreement(Closed):
    """Krippendorff's alpha of one question."""

    question: str
    alpha: float | None
    """None where it cannot be computed (one answer a row, or all answers alike)."""
    rows: int
    """Rows with at least two answers."""
    answers: int


class Dispute(Closed):
    """A row whose reviewers disagreed."""

    row: str
    text: str
    answers: dict[str, str]
    """Reviewer to answer."""
    comment: str = ""


class ErrorRate(Closed):
    """How often reviewers err, estimated from their answers, beside the truth where it is known (simulated reviewers)."""

    name: str
    estimated: float | None
    true: float | None = None


class Review(Closed):
    """What people said."""

    simulated: bool
    """True when any answer came from a simulated reviewer."""
    overlap: int
    rows: int
    answers: int
    approved: int
    rejected: int
    edited: int
    disputed: int
    waiting: int = 0
    agreements: tuple[Agreement, ...] = ()
    reviewers: tuple[Reviewer, ...] = ()
    disputes: tuple[Dispute, ...] = ()
    error_rates: tuple[ErrorRate, ...] = ()


class ModelCost(Closed):
    """Tokens and list-price cost of one model in one stage."""

    model: str
    stage: str
    calls: int
    input_tokens: int
    output_tokens: int
    usd: float
    cached_tokens: int = 0
    """Input tokens read from the provider's cache, part of `input_tokens`."""


class Cost(Closed):
    """What the project has cost."""

    models: tuple[ModelCost, ...]
    prices_date: str
    """Date of the price list."""
    simulated: bool
    """True when the offline stand-in answered and nothing was billed."""
    approved_rows: int
    budget_usd: float | None = None
    uncertain_calls: int = 0
    """Calls in flight when a run was killed; charged to the budget, result unknown."""

    @property
    def usd(self) -> float:
        """All stages together."""
        return sum(model.usd for model in self.models)


class FailureCount(Closed):
    """Calls or answers that did not become rows."""

    stage: str
    reason: str
    count: int
    category: str = ""
    """For refusals the provider's category."""
    example: str = ""


class SnapshotFacts(Closed):
    """A frozen data set."""

    name: str
    version: int
    kind: Kind
    splits: dict[str, int]
    digest: str
    created: datetime
    signed_by: str | None = None
    lost: str = ""
    """Why it may not be used, signed or not: it was revoked, or its folder is gone."""


class RunFacts(Closed):
    """One run of a stage."""

    stage: str
    started: datetime
    seconds: float | None
    """None while it runs, or when it was cut off."""
    state: str
    entered: int | None = None
    left: int | None = None
