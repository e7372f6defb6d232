"""How far people agree with one another, and how often each of them errs, from their answers alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from curation.decide import Annotation

Opinions = Sequence[Annotation]
"""What people said of one row."""


def agreement(opinions_by_row: Iterable[Opinions]) -> float | None:
    """Krippendorff's alpha (nominal) over what people said; None where fewer than two rows were answered twice or all
    said the same everywhere (alpha is then undefined).

    Source: Krippendorff, Content Analysis (2004), through the package `krippendorff`.
    """
    import krippendorff

    everyone = [{o.user: "approve" if o.says == "edit" and o.edited is None else o.says for o in opinions} for opinions in opinions_by_row]
    rows = [row for row in everyone if len(row) >= 2]
    users = sorted({user for row in rows for user in row})
    values = sorted({says for row in rows for says in row.values()})
    if len(rows) < 2 or len(values) < 2:
        return None
    codes = {says: float(n) for n, says in enumerate(values)}
    matrix = [[codes[row[user]] if user in row else float("nan") for row in rows] for user in users]
    return float(krippendorff.alpha(reliability_data=matrix, level_of_measurement="nominal"))


def estimate_error_rate(opinions_by_row: Iterable[Opinions]) -> float | None:
    """Each reviewer's error rate as seen from disagreement alone: two independent people who err at rate e on a two-way
    question disagree at d = 2e(1 - e), so e = (1 - sqrt(1 - 2d)) / 2. None without pairs; .5 when they disagree at random.
    """
    pairs = [tuple(_side(o) for o in opinions[:2]) for opinions in opinions_by_row if len(opinions) >= 2]
    if not pairs:
        return None
    disagreement = sum(a != b for a, b in pairs) / len(pairs)
    return (1 - math.sqrt(max(0.0, 1 - 2 * disagreement))) / 2


def agreement_within(questions: Iterable[Sequence[Opinions]]) -> float | None:
    """The alphas of several questions as one number, each weighted by its answers. Over all answers at once alpha would count it as
    agreement that nobody answers one question with the words of another."""
    known = [(alpha, sum(len(o) for o in rows if len(o) > 1)) for rows in questions if (alpha := agreement(rows)) is not None]
    return sum(alpha * n for alpha, n in known) / sum(n for _, n in known) if known else None


def _side(opinion: Annotation) -> str:
    return {"edit": "reject", "neither": "reject", "tie": "reject"}.get(opinion.says, opinion.says)
