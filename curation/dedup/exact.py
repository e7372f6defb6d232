"""Equal texts: copies when their labels agree, conflicts when they do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.dedup.arrow_text import Texts, keyed_rows
from curation.dedup.normalization import checked_length
from curation.dedup.resolve import Decided, drop_table, first_of_equal, keeping_order, label_codes

CONFLICTS = pa.schema({"row": pa.int64(), "twin": pa.int64(), "label": pa.string(), "twin_label": pa.string()})


def find_exact(texts: Texts, *, labels: Sequence[str | None] | pa.Array | None = None, rank: Sequence[int] | None = None) -> pa.Table:
    """Pair texts that are equal once case, width, spacing and invisible marks are folded.

    Args:
        labels: the class of each row; rows whose labels differ are never paired (see `find_conflicts`).
        rank: the row with the lowest is kept, ties by position.

    Returns one line per dropped row: row, kept, twin, similarity (1.0), cluster, measure ("exact").
    """
    checked_length(labels, len(texts), "labels")
    checked_length(rank, len(texts), "rank")
    first = first_of_equal(keyed_rows(texts), label_codes(labels, len(texts)), keeping_order(len(texts), rank))
    return drop_table(first, Decided(first, first, np.ones(len(first)), np.zeros(len(first), np.int8), first))


def find_conflicts(texts: Texts, labels: Sequence[str | None]) -> pa.Table:
    """Find equal texts that carry different labels: at most one can be right, and a person should say which.

    The first row of each text is the one the others are held against; rows without a label are in no conflict.

    Returns one line per row that disagrees: row, twin, label, twin_label.
    """
    checked_length(labels, len(texts), "labels")
    keyed, n = keyed_rows(texts), len(texts)
    codes = label_codes(labels, n)
    # Rows without a label come last, so that the first of each text has one where any has.
    first = first_of_equal(keyed, np.full(n, -1, np.int64), np.argsort(codes < 0, kind="stable"))
    rows = np.flatnonzero((codes >= 0) & (codes != codes[first])).tolist()
    twins = first[rows].tolist() if rows else []
    lines = [{"row": row, "twin": twin, "label": labels[row], "twin_label": labels[twin]} for row, twin in zip(rows, twins, strict=True)]
    return pa.Table.from_pylist(lines, schema=CONFLICTS)
