"""What `render_report` and `render_card` take: frozen values that the pipeline fills from the store.

A part that is None was not run and the page says so; an empty part was run and found nothing, which is also said.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from curation.distribution.facts import Comparison, Description
from curation.hygiene import Hygiene
from curation.records import Kind
from curation.report.judge import JudgeQuality, PairHygiene
from curation.report.rows import Closed, Conflict, Coverage, Distribution, Drop, FunnelStep, Leak, ProtectedSuite, ScoreSet
from curation.report.whole import ClassBalance, DiversityFacts
from curation.report.work import Cost, FailureCount, Review, RunFacts, SnapshotFacts


class ReportData(Closed):
    """The whole page."""

    project: str
    brief: str
    created: datetime
    digest: str
    """Digest of what shaped the result: settings, prompts, protected sets."""
    versions: dict[str, str]
    """Package to version."""
    intended_use: str = ""
    models: dict[str, str] = Field(default_factory=dict)
    """Role to model: {"teacher": …, "judge": …}."""
    models_simulated: bool = False
    """True when the offline stand-in wrote or judged the rows."""
    funnel: tuple[FunnelStep, ...] | None = None
    scores: tuple[ScoreSet, ...] | None = None
    judge: JudgeQuality | None = None
    pairs: PairHygiene | None = None
    drops: tuple[Drop, ...] | None = None
    suites: tuple[ProtectedSuite, ...] | None = None
    leaks: tuple[Leak, ...] = ()
    gate_alarms: tuple[str, ...] = ()
    """Sentences about gates that emptied a class or dropped more than their stated share."""
    conflicts: tuple[Conflict, ...] | None = None
    distributions: tuple[Distribution, ...] | None = None
    coverage: Coverage | None = None
    balance: tuple[ClassBalance, ...] | None = None
    descriptions: tuple[Description, ...] | None = None
    comparison: Comparison | None = None
    diversity: DiversityFacts | None = None
    review: Review | None = None
    cost: Cost | None = None
    failures: tuple[FailureCount, ...] | None = None
    snapshots: tuple[SnapshotFacts, ...] | None = None
    runs: tuple[RunFacts, ...] | None = None


class ManifestPart(BaseModel):
    """Part of a manifest as it stands there; what the card does not show is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class CardModels(ManifestPart):
    """Who wrote and who judged."""

    teacher: str | None = None
    judge: str | None = None
    simulated: bool = False


class CardSample(ManifestPart):
    """What people found in the random sample that they looked at."""

    rows: int
    population: int
    strata: int = 1
    bad: int
    rate: float | None
    low: float
    high: float
    max_error: float | None = None


class CardReview(ManifestPart):
    """What people (or simulated reviewers) said, in numbers."""

    mode: Literal["none", "sample", "all"] = "all"
    sample: CardSample | None = None
    simulated: bool = False
    reviewers: tuple[str, ...] = ()
    overlap: int = 1
    agreement: float | None = None
    """Krippendorff's alpha."""
    answers: int = 0
    disputed: int = 0


class CardSuite(ManifestPart):
    """A protected evaluation set the rows were screened against."""

    name: str
    file: str
    items: int
    sha256: str


class CardInput(Closed):
    """What the dataset card of a snapshot needs, known before its manifest is written."""

    name: str
    version: int
    kind: Kind
    created: datetime
    splits: dict[str, int]
    """Split to rows."""
    licence: str
    intended_use: str
    brief: str
    digest: str
    models: CardModels = CardModels()
    review: CardReview = CardReview()
    settings: dict[str, object] = Field(default_factory=dict)
    """Thresholds and digests of the gates; may be nested, the card names them by their path."""
    protected: tuple[CardSuite, ...] = ()
    description: Description | None = None
    """What the rows are made of; of a sample where they are many."""
    hygiene: Hygiene | None = None
    """For preference pairs: what tells chosen from rejected beside substance."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Rows at each step, for example generated, duplicates, leaks, approved."""
    language: str = "en"
    limits: tuple[str, ...] = ()
    """Known limits, each one sentence, added to those that follow from the facts."""
