"""LLM-as-a-judge: scores on a rubric and pairwise choices, a panel of judges, and measures of a judge's quality.

`rubric.py` scores and combines judges; `diagnostics.py` measures a judge's consistency and its agreement with people.
"""

from curation.judge.rubric import (
    DIFFICULTY,
    DISAGREEMENT,
    SCALE,
    Order,
    PairChoice,
    PanelDecision,
    Reference,
    Scorable,
    Scores,
    choice_from,
    combine,
    decide_panel,
    judges_of,
    pair_digest,
    pair_requests_for,
    repeat_digest,
    requests_for,
    rubric_digest,
    scores_from,
    settle_panel,
    spread,
    total_of,
)

__all__ = [
    "DIFFICULTY",
    "DISAGREEMENT",
    "SCALE",
    "Order",
    "PairChoice",
    "PanelDecision",
    "Reference",
    "Scorable",
    "Scores",
    "choice_from",
    "combine",
    "decide_panel",
    "judges_of",
    "pair_digest",
    "pair_requests_for",
    "repeat_digest",
    "requests_for",
    "rubric_digest",
    "scores_from",
    "settle_panel",
    "spread",
    "total_of",
]
