"""A panel of judges: its members, whether its cost is acceptable, and how several judgments are combined.

Judges of one model family share their errors, so a panel of small judges of several families beats one large judge (Verga et al. 2024,
"Replacing Judges with Juries", arXiv:2404.18796). The scores of each member are kept under its own digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from curation.config.project import ModelSpec, Project
from curation.judge.rubric import rubric_digest

SHARE = 0.1
"""Cost of the panel, as a share of the cost of writing, above which `panel: auto` leaves it out."""


@dataclass(frozen=True, slots=True)
class PanelDecision:
    """Decision about the panel, with the reason."""

    used: bool
    why: str
    panel_usd: float = 0.0
    writing_usd: float = 0.0


def judges_of(project: Project) -> tuple[ModelSpec, ...]:
    """Return the judge, then the other members of the panel; a model that is named twice counts once."""
    # Keyed by digest: a model that is named twice, or as judge and member, has one set of scores.
    judges = {rubric_digest(project): project.models.judge}
    if project.score.panel != "never":
        judges = {rubric_digest(project, spec): spec for spec in project.models.panel} | judges
    first = project.models.judge
    return (first, *(spec for spec in judges.values() if spec is not first))


def decide_panel(project: Project, *, panel_usd: float, writing_usd: float) -> PanelDecision:
    """Decide whether the panel scores too.

    Args:
        project: its `score.panel` setting and models.
        panel_usd: upper bound of the panel's cost.
        writing_usd: upper bound of the cost of writing, computed in the same way.
    """
    names = ", ".join(spec.model for spec in judges_of(project)[1:])
    if project.score.panel == "never" and project.models.panel:
        return PanelDecision(False, "Panel: off, because project.yaml says score: {panel: never}.")
    if not names:
        return PanelDecision(False, "")
    cost = f"at most ${panel_usd:.4f} for scores by {names}"
    if project.score.panel == "always":
        return PanelDecision(True, f"Panel: on, because project.yaml says score: {{panel: always}}; {cost}.", panel_usd, writing_usd)
    hint = "Set score: {panel: always} to use it anyway."
    if not writing_usd and panel_usd:
        return PanelDecision(False, f"Panel: off; {cost}, and no writing is planned to compare that with. {hint}", panel_usd, writing_usd)
    share = panel_usd / writing_usd if writing_usd else 0.0
    used = share <= SHARE
    why = f"Panel: {'on' if used else 'off'}; {cost}, {share:.1%} of the ${writing_usd:.4f} for writing (auto allows {SHARE:.0%})."
    return PanelDecision(used, why if used else f"{why} {hint}", panel_usd, writing_usd)


def combine(totals: Sequence[float], how: Literal["mean", "median"]) -> float:
    """Return one total for the totals of several judges."""
    return fmean(totals) if how == "mean" else float(median(totals))


def spread(totals: Sequence[float]) -> float:
    """Return the difference of the highest and the lowest total."""
    return max(totals) - min(totals)


def settle_panel(choices: Sequence[Mapping[str, int | None]]) -> int | None:
    """Return the answer (0 or 1) that more than half of the judges prefer in both orders, or None.

    A judge that ties, or whose choice changes with the order, votes for neither.

    Args:
        choices: for each judge, the winner by order shown.
    """
    # A judge votes only where its choice is the same in both orders.
    votes = [winners.pop() if len(winners := set(by_order.values())) == 1 else None for by_order in choices if len(by_order) == 2]
    return next((side for side in (0, 1) if votes.count(side) * 2 > len(votes)), None)
