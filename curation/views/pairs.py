"""Properties of the preference pairs before the gates and after them (`curation.distribution.preference_bias`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.decide import ACTIVE_VERDICTS, Decision
from curation.distribution import preference_bias
from curation.findings import FindingKind
from curation.report import schema
from curation.store.records import Row

if TYPE_CHECKING:
    from curation.views.state import ProjectState

SHOWN = 40
"""Nearly identical pairs that the page shows."""
NO_PAIRS = (FindingKind.FLIPS, FindingKind.JUDGE_PREFERS_OTHER, "neither", "tie")
"""Reasons for which two responses make no pair."""


def pair_hygiene(state: ProjectState, decisions: Mapping[int, Decision]) -> schema.PairHygiene | None:
    """Describe the pairs before the gates and after; None where there are none.

    Args:
        state: of the project.
        decisions: by seq.
    """
    rows = [row for row in state.rows["preference"] if row.seq in decisions]
    before = [(row, row.better) for row in rows if row.better is not None]
    active = [row for row in rows if decisions[row.seq].verdict in ACTIVE_VERDICTS]
    after = [(row, better) for row in active if (better := decisions[row.seq].better) is not None]
    if not before and not after:
        return None
    left, out = preference_bias.describe_pairs(texts_of_pairs(after)), Counter[str]()
    for row in rows:
        if decisions[row.seq].verdict not in ACTIVE_VERDICTS:
            out.update({reason.kind for reason in decisions[row.seq].reasons if reason.kind in NO_PAIRS})
    near = [after[place] for place in left.near_identical[:SHOWN]]
    return schema.PairHygiene(
        before=preference_bias.describe_pairs(texts_of_pairs(before)),
        after=left,
        left_out=dict(out.most_common()),
        near_identical=tuple((row.id, *pair) for (row, _), pair in zip(near, texts_of_pairs(near), strict=True)),
    )


def texts_of_pairs(pairs: Sequence[tuple[Row, int | None]]) -> list[preference_bias.Pair]:
    """Return the chosen and rejected texts, given the canonical index of the better response."""
    out = []
    for row, better in pairs:
        if row.kind == "preference" and better is not None:
            texts = row.answers
            out.append(preference_bias.Pair(texts[better], texts[1 - better]))
    return out


def frozen_pairs(tables: Mapping[str, pa.Table]) -> list[preference_bias.Pair]:
    """Return the texts of the pairs in the tables of a snapshot."""
    sides = [[turns[0]["content"] for table in tables.values() for turns in table[side].to_pylist()] for side in ("chosen", "rejected")]
    return [preference_bias.Pair(*pair) for pair in zip(*sides, strict=True)]


def hygiene_values(found: schema.PairHygiene) -> dict[str, Any]:
    """Return plain values for the store and the manifest."""
    return {"before": preference_bias.as_values(found.before), "after": preference_bias.as_values(found.after), "left_out": found.left_out}
