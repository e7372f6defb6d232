"""Who has to look at a row before it may leave: everybody's, a random sample of them, or nobody's. Core: sampling.py, decide.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curation.decide import Decision, Reason, Verdict
from curation.records import KINDS, Kind
from curation.sampling import clopper_pearson, draw_sample
from curation.store import reviews
from curation.store.records import Row
from curation.workspace import Workspace, label_of

HELD = Reason("review", "outside_sample", "waits until people have answered the random sample")
NOT_REVIEWED = Reason("review", "not_reviewed", "project.yaml has review: none")
NO_PREFERENCE = Reason("review", "no_preference", "nobody said which answer is better, and project.yaml has review: none")
RELEASED = "released"
"""Kind of the reason of a row that left because the sample was answered."""


@dataclass(frozen=True)
class Sample:
    """The rows of one kind that people look at for all of them, and what came of it."""

    kind: Kind
    drawn: frozenset[int]
    """Seqs."""
    population: int
    """Rows that the machines let through, which the sample was drawn from."""
    strata: int
    answered: int = 0
    waiting: int = 0
    bad: int = 0
    """Of the answered rows those that people rejected, changed, disagreed on or took out."""
    max_error: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the error rate."""
        return clopper_pearson(self.bad, self.answered)

    @property
    def is_answered(self) -> bool:
        """Whether nobody has to answer any more."""
        return not self.waiting

    @property
    def releases(self) -> bool:
        """Whether the rows that nobody looked at may leave."""
        return self.is_answered and bool(self.answered) and (self.max_error is None or self.interval[1] <= self.max_error)

    @property
    def sentence(self) -> str:
        """The result in words."""
        low, high = self.interval
        found = f"{self.bad:,} of {self.answered:,} sampled rows are bad"
        if not self.answered:
            return f"0 of {len(self.drawn):,} sampled rows answered"
        rate = f"{self.bad / self.answered:.1%}, 95 % interval {low:.1%} to {high:.1%}"
        return f"{found} ({rate})" + (f"; {self.waiting:,} are not answered yet" if self.waiting else "")

    def as_values(self) -> dict[str, Any]:
        """For the manifest and `--json`."""
        low, high = self.interval
        return {
            "rows": self.answered, "population": self.population, "strata": self.strata, "bad": self.bad,
            "rate": round(self.bad / self.answered, 6) if self.answered else None, "low": round(low, 6), "high": round(high, 6),
            "max_error": self.max_error,
        }  # fmt: skip


def draw(workspace: Workspace, kind: Kind, rows: Sequence[Row], passes: Callable[[Row], bool]) -> Sample | None:
    """Draw the rows of a kind that people look at; None where the project does not sample, or has nothing to sample.

    Rows that a person changed, and pairs of which nobody has said who is better, always go to people and are not drawn from.

    Args:
        passes: whether the machines let a row through, whatever people said of it.
    """
    settings = workspace.project.review
    if settings.mode != "sample":
        return None
    frame = [row for row in rows if row.how != "edited" and not needs_preference(row) and passes(row)]
    if not frame:
        return None
    strata = [label_of(workspace, row) for row in frame]
    places = draw_sample([row.id for row in frame], strata, size=settings.sample, key=reviews.sample_key(workspace.db))
    drawn = frozenset(frame[place].seq for place in places)
    return Sample(kind, drawn, len(frame), len(set(strata)), waiting=len(drawn), max_error=settings.max_error)


def unseen_verdict(workspace: Workspace, row: Row, sample: Sample | None) -> tuple[Verdict, Reason] | None:
    """The verdict on a row that people are not asked about; None where they are."""
    mode = workspace.project.review.mode
    if mode == "none":
        return ("dropped", NO_PREFERENCE) if needs_preference(row) else ("approved", NOT_REVIEWED)
    if mode == "all" or sample is None or row.seq in sample.drawn or row.how == "edited" or needs_preference(row):
        return None
    return "held", HELD


def needs_preference(row: Row) -> bool:
    """Whether only people can say which answer of a pair is better."""
    return row.kind == "preference" and row.better is None


def settle(sample: Sample, verdicts: Mapping[int, Decision]) -> Sample:
    """Count what people said of the drawn rows. A row that a cap left out says nothing of the others and is not counted."""
    found = [verdicts[seq] for seq in sample.drawn if not _over_cap(verdicts[seq])]
    waiting = sum(decision.verdict in ("to_review", "in_review", "unscored") for decision in found)
    bad = sum(decision.verdict in ("rejected", "edited", "disputed", "dropped") for decision in found)
    return replace(sample, answered=len(found) - waiting, waiting=waiting, bad=bad)


def release(decisions: Sequence[Decision], kinds: Mapping[int, Kind], samples: Mapping[Kind, Sample]) -> list[Decision]:
    """Approve what was held back, of each kind whose sample was answered well enough."""
    reasons = {kind: Reason("review", RELEASED, samples[kind].sentence) for kind in KINDS if kind in samples and samples[kind].releases}
    if not reasons:
        return list(decisions)
    out = []
    for decision in decisions:
        why = reasons.get(kinds[decision.seq]) if decision.verdict == "held" else None
        out.append(replace(decision, verdict="approved", reasons=(why, *decision.reasons[1:])) if why else decision)
    return out


def is_unseen(decision: Decision) -> bool:
    """Whether a row was approved without anybody having looked at it."""
    return decision.verdict == "approved" and any(reason.kind in (RELEASED, NOT_REVIEWED.kind) for reason in decision.reasons[:1])


def _over_cap(decision: Decision) -> bool:
    return decision.verdict == "dropped" and any(reason.stage == "balance" for reason in decision.reasons)
