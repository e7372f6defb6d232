"""What a data lead should look at first, found in the facts. Each notice gives the number and points at its section."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from curation.report.data import ReportData

RELIABLE, TENTATIVE = 0.8, 0.667
"""Krippendorff's own limits: from .800 conclusions may rest on the data, from .667 tentative ones."""
FLIPS = 0.2
"""A judge that changes its mind with the order on more pairs than this has little to say about the rest."""
CLUSTER = 0.05
"""A duplicate cluster above this share of the rows is more often a bad threshold than bad luck."""


@dataclass(frozen=True)
class Notice:
    """One thing to look at: `stop` before using the data, `look` before trusting it, `note` for the record."""

    level: Literal["stop", "look", "note"]
    text: str
    section: str


def find_attention(data: ReportData) -> list[Notice]:
    """All notices, the gravest first."""
    found = [*_simulated(data), *_review(data), *_judge(data), *_gates(data), *_cost(data), *_snapshots(data)]
    order = {"stop": 0, "look": 1, "note": 2}
    return sorted(found, key=lambda notice: order[notice.level])


def describe_alpha(alpha: float | None) -> str:
    """How much weight agreement carries, in Krippendorff's terms."""
    if alpha is None:
        return "cannot be computed from these answers"
    if alpha >= RELIABLE:
        return "reliable"
    return "tentative" if alpha >= TENTATIVE else "too low to rely on"


def _simulated(data: ReportData) -> list[Notice]:
    found = []
    if data.review and data.review.simulated:
        found.append(Notice("stop", "The review is simulated. No person has looked at these rows.", "review"))
    if data.models_simulated:
        found.append(
            Notice(
                "stop", "The offline stand-in wrote and judged the rows. They are for trying things out, never for a real model.", "cost"
            )
        )
    return found


def _review(data: ReportData) -> list[Notice]:
    review = data.review
    if review is None:
        return []
    found = [
        Notice("look", f"Agreement on {a.question} is {a.alpha:.2f} over {a.rows:,} rows: {describe_alpha(a.alpha)}.", "review")
        for a in review.agreements
        if a.alpha is not None and a.alpha < RELIABLE
    ]
    if review.disputed:
        found.append(Notice("look", f"{_rows(review.disputed)} disputed and not approved until someone settles them.", "review"))
    if review.waiting:
        found.append(Notice("note", f"{_rows(review.waiting)} waiting for answers.", "review"))
    return found


def _judge(data: ReportData) -> list[Notice]:
    judge = data.judge
    if judge is None:
        return []
    found = []
    if judge.pairs and judge.flipped / judge.pairs > FLIPS:
        share = judge.flipped / judge.pairs
        found.append(Notice("look", f"The judge changed its mind with the order on {share:.1%} of {judge.pairs:,} pairs.", "judge"))
    if judge.contradictions:
        text = f"{judge.contradictions:,} scores contradict themselves: the overall and the criteria disagree."
        found.append(Notice("look", text, "judge"))
    return found


def _gates(data: ReportData) -> list[Notice]:
    found = []
    if data.leaks:
        suites = ", ".join(sorted({leak.suite for leak in data.leaks}))
        found.append(Notice("note", f"{_rows(len(data.leaks))} left out as leaks of {suites}.", "leaks"))
    entered = max((step.entered for step in data.funnel or ()), default=0)
    clusters = Counter(drop.cluster for drop in data.drops or () if drop.cluster is not None)
    for cluster, members in clusters.most_common(1):
        if entered and members > CLUSTER * entered:
            text = f"Duplicate cluster {cluster} holds {members:,} of {entered:,} rows: check the threshold before trusting it."
            found.append(Notice("look", text, "drops"))
    for distribution in data.distributions or ():
        emptied = [c.name for c in distribution.classes if c.before and not c.after]
        if emptied:
            names = ", ".join(emptied[:4]) + (" and others" if len(emptied) > 4 else "")
            text = f"{len(emptied)} of {len(distribution.classes)} {distribution.name} classes have no row left: {names}."
            found.append(Notice("look", text, "classes"))
    return found


def _cost(data: ReportData) -> list[Notice]:
    cost = data.cost
    if cost is None:
        return []
    found = []
    if cost.budget_usd and cost.usd > 0.9 * cost.budget_usd:
        found.append(Notice("look", f"{cost.usd / cost.budget_usd:.0%} of the budget of ${cost.budget_usd:,.2f} is spent.", "cost"))
    if cost.uncertain_calls:
        calls = "1 call was" if cost.uncertain_calls == 1 else f"{cost.uncertain_calls:,} calls were"
        text = f"{calls} in flight when a run was cut off; the budget counts it as spent."
        found.append(Notice("note", text, "cost"))
    return found


def _snapshots(data: ReportData) -> list[Notice]:
    unsigned = [f"{s.name} v{s.version}" for s in data.snapshots or () if not s.signed_by]
    return [Notice("look", f"Not signed: {', '.join(unsigned)}. Run `curate sign`.", "snapshots")] if unsigned else []


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"
