"""The judge: what it is asked and what its answers become (judgment.py), a panel of judges (panel.py), whether a judge can be
believed (crosscheck.py), and how far it says what people say (people.py).
"""

from curation.score.judgment import (
    DISAGREEMENT,
    SCALE,
    Order,
    PairChoice,
    Reference,
    Scorable,
    Scores,
    choice_from,
    pair_digest,
    pair_requests_for,
    passes,
    requests_for,
    rubric_digest,
    scores_from,
    settle,
    top_cut,
    total_of,
)

__all__ = [
    "DISAGREEMENT",
    "SCALE",
    "Order",
    "PairChoice",
    "Reference",
    "Scorable",
    "Scores",
    "choice_from",
    "pair_digest",
    "pair_requests_for",
    "passes",
    "requests_for",
    "rubric_digest",
    "scores_from",
    "settle",
    "top_cut",
    "total_of",
]
