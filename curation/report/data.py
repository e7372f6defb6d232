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
from curation.report.whole import ClassBalance, DifficultyCross, DiversityFacts
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
    """Role to model: {"teacher": …, "judge": …}; only roles that wrote or judged rows."""
    reviewed: str = ""
    """Which rows people review, in a sentence, where that is not all of them."""
    sources: tuple[str, ...] = ()
    """Imported data sets, each in a few words."""
    models_simulated: bool = False
    """True when the offline stand-in wrote or judged the rows."""
    funnel: tuple[FunnelStep, ...] | None = None
    scores: tuple[ScoreSet, ...] | None = None
    judge: JudgeQuality | None = None
    pairs: PairHygiene | None = None
    drops: tuple[Drop, ...] | None = None
    suites: tuple[ProtectedSuite, ...] | None = None
    leaks: tuple[Leak, ...] = ()
    stale: tuple[str, ...] = ()
    """Results that are older than what they were made from, each as a sentence with the command."""
    gate_alarms: tuple[str, ...] = ()
    """Sentences about gates that emptied a class or dropped more than their stated share."""
    conflicts: tuple[Conflict, ...] | None = None
    distributions: tuple[Distribution, ...] | None = None
    coverage: Coverage | None = None
    difficulty: tuple[DifficultyCross, ...] = ()
    """Empty where the plan has no attribute `difficulty`, or no row of it was written."""
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
    names: Literal["pseudonyms", "real"] = "real"
    """What `reviewers` holds."""
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


class Separation(Closed):
    """What was measured between the splits of a snapshot after they were made."""

    near: float | None
    """Jaccard from which prompts have to be in one split."""
    semantic: float | None
    """Cosine; None where prompts were not compared by meaning, for the reason in `why`."""
    model: str
    near_pairs: int | None
    """Pairs at the threshold across splits."""
    semantic_pairs: int | None
    at_least: bool = False
    """Whether `near_pairs` is a lower bound."""
    why: str = ""
    left_out: int = 0
    """Rows that have no place, being similar to rows in two splits, or to one in another split."""
    twins_left_out: int = 0
    """Of these, rows that are similar to a row in another split, where each was frozen before."""
    rows: int = 0
    largest: int = 0
    """Rows in the largest cluster of similar prompts."""
    is_large: bool = False
    in_cut_clusters: int = 0
    """Rows of clusters so large that they were cut at higher thresholds; pairs across splits are all of these."""

    def notes(self) -> list[str]:
        """Sentences for the screen and the card, where there is something to look at."""
        found = []
        if self.is_large:
            share = f"{self.largest:,} of {self.rows:,} rows ({100 * self.largest / self.rows:.0f} %)"
            found.append(
                f"The largest cluster of similar prompts has {share}. If they are not alike, raise splits.near or splits.semantic."
            )
        if self.in_cut_clusters:
            pairs = " and ".join(
                f"{n:,} {how}"
                for how, n in (
                    ("or more by Jaccard" if self.at_least else "by Jaccard", self.near_pairs),
                    ("by cosine", self.semantic_pairs),
                )
                if n
            )
            found.append(
                f"Clusters with {self.in_cut_clusters:,} rows were larger than a fifth of the set and were cut at higher thresholds; "
                f"pairs of theirs across splits: {pairs or 'none'}."
            )
        if self.twins_left_out:
            found.append(f"Left out: {self.twins_left_out:,} rows that are similar to a row in another split.")
        return found


class CardSource(ManifestPart):
    """An imported data set."""

    name: str
    license: str
    written_by: Literal["people", "model", "unknown"]
    files: tuple[str, ...] = ()
    rows: int


class CardProvenance(ManifestPart):
    """Where the rows come from."""

    sources: tuple[CardSource, ...] = ()
    written_by: dict[str, int] = Field(default_factory=dict)
    """Rows by author: model, people, unknown."""
    edited: int = 0
    licence_stated: str = ""
    conditions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    licence_table: str = ""


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
    provenance: CardProvenance | None = None
    """None where it is not known; the rows are then taken for a model's."""
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
    separation: Separation | None = None
    limits: tuple[str, ...] = ()
    """Known limits, each one sentence, added to those that follow from the facts."""
