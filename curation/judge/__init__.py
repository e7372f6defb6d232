"""The judge: what it is asked and what its answers become (judgment.py), a panel of judges (panel.py), whether a judge can be
believed (crosscheck.py), and how far it says what people say (people.py).
"""

from curation.judge.panel import PanelDecision, combine, decide_panel, judges_of, settle_panel, spread
from curation.judge.rubric import (
    DIFFICULTY,
    DISAGREEMENT,
    SCALE,
    Order,
    PairChoice,
    Reference,
    Scorable,
    Scores,
    again_digest,
    choice_from,
    pair_digest,
    pair_requests_for,
    requests_for,
    rubric_digest,
    scores_from,
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
    "again_digest",
    "choice_from",
    "combine",
    "decide_panel",
    "judges_of",
    "pair_digest",
    "pair_requests_for",
    "requests_for",
    "rubric_digest",
    "scores_from",
    "settle_panel",
    "spread",
    "total_of",
]
