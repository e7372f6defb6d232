"""Gather what the preference pairs would teach, as they were written and as they would leave. Read-only. Core: hygiene.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from curation import report as page
from curation.distribution import preference_bias
from curation.store import records
from curation.store.records import Row
from curation.views.classes import STANDING
from curation.workspace import Workspace

SHOWN = 40
NO_PAIRS = ("flips", "judge_prefers_other", "neither", "tie")
"""Why two answers are no pair."""


def pair_hygiene(workspace: Workspace, verdicts: Mapping[int, Mapping[str, Any]]) -> page.PairHygiene | None:
    """The pairs before the gates and after; None where there are none."""
    rows = [row for row in records.list_rows(workspace.db, "preference") if row.seq in verdicts]
    before = [(row, row.better) for row in rows if row.better is not None]
    after = [(row, verdicts[row.seq]["better"]) for row in rows if verdicts[row.seq]["verdict"] in STANDING]
    after = [(row, better) for row, better in after if better is not None]
    if not before and not after:
        return None
    left, out = preference_bias.describe_pairs(texts_of_pairs(after)), Counter[str]()
    for row in rows:
        if verdicts[row.seq]["verdict"] not in STANDING:
            out.update({reason["kind"] for reason in verdicts[row.seq]["reasons"] if reason["kind"] in NO_PAIRS})
    near = [after[place] for place in left.near_identical[:SHOWN]]
    return page.PairHygiene(
        before=preference_bias.describe_pairs(texts_of_pairs(before)),
        after=left,
        left_out=dict(out.most_common()),
        near_identical=tuple((row.id, *pair) for (row, _), pair in zip(near, texts_of_pairs(near), strict=True)),
    )


def texts_of_pairs(pairs: Sequence[tuple[Row, int | None]]) -> list[preference_bias.Pair]:
    """Chosen and rejected texts, given who is better."""
    out = []
    for row, better in pairs:
        if row.kind == "preference" and better is not None:
            texts = row.answers
            out.append(preference_bias.Pair(texts[better], texts[1 - better]))
    return out


def frozen_pairs(tables: Mapping[str, pa.Table]) -> list[preference_bias.Pair]:
    """The texts of the pairs that leave."""
    sides = [[turns[0]["content"] for table in tables.values() for turns in table[side].to_pylist()] for side in ("chosen", "rejected")]
    return [preference_bias.Pair(*pair) for pair in zip(*sides, strict=True)]


def hygiene_values(found: page.PairHygiene) -> dict[str, Any]:
    """For the store and the manifest."""
    return {"before": preference_bias.as_values(found.before), "after": preference_bias.as_values(found.after), "left_out": found.left_out}
