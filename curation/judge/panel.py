"""A panel of judges: who sits on it, whether it may be asked at its price, and how several opinions become one.

Judges of one family share their blind spots, so a panel of small judges of several families is worth more than one large judge
(Verga et al., "Replacing Judges with Juries", 2024). Each member's scores stay its own, under its own digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from curation.config.project import ModelSpec, Project
from curation.judge.rubric import rubric_digest

SHARE = 0.1
"""What the panel may cost, as a share of what the writing costs, before `panel: auto` leaves it out."""


@dataclass(frozen=True, slots=True)
class PanelDecision:
    """Whether the panel scores too, and why."""

    used: bool
    why: str
    panel_usd: float = 0.0
    writing_usd: float = 0.0


def judges_of(project: Project) -> tuple[ModelSpec, ...]:
    """The judge, then the other members of the panel; a model named twice is one judge."""
    judges = {rubric_digest(project): project.models.judge}
    if project.score.panel != "never":
        judges = {rubric_digest(project, spec): spec for spec in project.models.panel} | judges
    first = project.models.judge
    return (first, *(spec for spec in judges.values() if spec is not first))


def decide_panel(project: Project, *, panel_usd: float, writing_usd: float) -> PanelDecision:
    """Whether the panel is asked. Both sums are upper bounds made in the same way, so their ratio is fair."""
    names = ", ".join(spec.model for spec in judges_of(project)[1:])
    if project.score.panel == "never" and project.models.panel:
        return PanelDecision(False, "Panel: off, because project.yaml says score: {panel: never}.")
    if not names:
        return PanelDecision(False, "")
    cost = f"at most ${panel_usd:.4f} to ask {names}"
    if project.score.panel == "always":
        return PanelDecision(True, f"Panel: on, because project.yaml says score: {{panel: always}}; {cost}.", panel_usd, writing_usd)
    if not writing_usd and panel_usd:
        why = f"Panel: off; {cost}, and nothing was planned to be written whose cost that could be held against."
        return PanelDecision(False, f"{why} score: {{panel: always}} asks them all the same.", panel_usd, writing_usd)
    share = panel_usd / writing_usd if writing_usd else 0.0
    used = share <= SHARE
    tail = "" if used else " score: {panel: always} asks them all the same."
    why = f"Panel: {'on' if used else 'off'}; {cost} is {share:.1%} of the ${writing_usd:.4f} of the writing (auto asks up to {SHARE:.0%})."
    return PanelDecision(used, why + tail, panel_usd, writing_usd)


def combine(totals: Sequence[float], how: Literal["mean", "median"]) -> float:
    """One total of several judges'."""
    return fmean(totals) if how == "mean" else float(median(totals))


def spread(totals: Sequence[float]) -> float:
    """Points between the kindest judge and the harshest."""
    return max(totals) - min(totals)


def settle_panel(choices: Sequence[Mapping[str, int | None]]) -> int | None:
    """The answer that more than half of the judges prefer in both orders; a judge that flips or ties has no vote for either.

    Args:
        choices: for each judge that was asked in both orders, the winner by order shown.
    """
    votes = [winners.pop() if len(winners := set(by_order.values())) == 1 else None for by_order in choices if len(by_order) == 2]
    return next((side for side in (0, 1) if votes.count(side) * 2 > len(votes)), None)
