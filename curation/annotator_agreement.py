"""Estimate the agreement of annotators and their error rate, from their annotations alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from curation.decide import Annotation

RowAnnotations = Sequence[Annotation]
"""The annotations of one row."""


def agreement(rows_annotated: Iterable[RowAnnotations]) -> float | None:
    """Return Krippendorff's alpha (nominal) of the annotations.

    None if fewer than two rows have two annotations, or if all annotations are equal, since alpha is then undefined.

    Source: Krippendorff, Content Analysis (2004), by the package `krippendorff`.
    """
    import krippendorff

    # An edit without a change is an approval.
    everyone = [{a.user: "approve" if a.says == "edit" and a.edited is None else a.says for a in row} for row in rows_annotated]
    rows = [row for row in everyone if len(row) >= 2]
    users = sorted({user for row in rows for user in row})
    values = sorted({says for row in rows for says in row.values()})
    if len(rows) < 2 or len(values) < 2:
        return None
    codes = {says: float(n) for n, says in enumerate(values)}
    matrix = [[codes[row[user]] if user in row else float("nan") for row in rows] for user in users]
    return float(krippendorff.alpha(reliability_data=matrix, level_of_measurement="nominal"))


def estimate_error_rate(rows_annotated: Iterable[RowAnnotations]) -> float | None:
    """Estimate the error rate of an annotator from disagreement; None without pairs, .5 if annotators disagree at random.

    Two independent annotators who err at rate e on a binary question disagree at d = 2e(1 - e), so e = (1 - sqrt(1 - 2d)) / 2.
    """
    # Binary: everything but an approval counts as a rejection.
    binary = {"edit": "reject", "neither": "reject", "tie": "reject"}
    pairs = [tuple(binary.get(a.says, a.says) for a in row[:2]) for row in rows_annotated if len(row) >= 2]
    if not pairs:
        return None
    disagreement = sum(a != b for a, b in pairs) / len(pairs)
    return (1 - math.sqrt(max(0.0, 1 - 2 * disagreement))) / 2


def agreement_within(questions: Iterable[Sequence[RowAnnotations]]) -> float | None:
    """Return the mean alpha of several questions, weighted by their annotations."""
    # One alpha over all questions would count it as agreement that nobody answers one question with the values of another.
    known = [(alpha, sum(len(o) for o in rows if len(o) > 1)) for rows in questions if (alpha := agreement(rows)) is not None]
    return sum(alpha * n for alpha, n in known) / sum(n for _, n in known) if known else None
