"""Equal texts: copies when their labels agree, conflicts when they do not."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from curation.dedup.keep import copies, drop_table, equal_groups, keeping_order
from curation.dedup.text import checked_length, normalize, strings

CONFLICTS = pa.schema({"row": pa.int64(), "twin": pa.int64(), "label": pa.string(), "twin_label": pa.string()})


def find_exact(
    texts: Sequence[str] | pa.Array, *, labels: Sequence[str | None] | None = None, rank: Sequence[int] | None = None
) -> pa.Table:
    """Pair texts that are equal once case, width, spacing and invisible marks are folded.

    Args:
        labels: the class of each row; rows whose labels differ are never paired (see `find_conflicts`).
        rank: the row with the lowest is kept, ties by position.

    Returns one line per dropped row: row, kept, twin, similarity (1.0), cluster, measure ("exact").
    """
    values = strings(texts)
    checked_length(labels, len(values), "labels")
    checked_length(rank, len(values), "rank")
    keys = [(normalize(text), labels[row] if labels is not None else None) for row, text in enumerate(values)]
    return drop_table(copies(equal_groups(keys, keeping_order(len(values), rank)), {}))


def find_conflicts(texts: Sequence[str] | pa.Array, labels: Sequence[str | None]) -> pa.Table:
    """Find equal texts that carry different labels: at most one can be right, and a person should say which.

    The first row of each text is the one the others are held against; rows without a label are in no conflict.

    Returns one line per row that disagrees: row, twin, label, twin_label.
    """
    values = strings(texts)
    checked_length(labels, len(values), "labels")
    first: dict[str, int] = {}
    lines = []
    for row, text in enumerate(values):
        if labels[row] is None:
            continue
        twin = first.setdefault(normalize(text), row)
        if labels[twin] != labels[row]:
            lines.append({"row": row, "twin": twin, "label": labels[row], "twin_label": labels[twin]})
    return pa.Table.from_pylist(lines, schema=CONFLICTS)
