"""Texts that mean the same, by the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.dedup.keep import MEASURES, Decided, drop_table, first_of_equal, keeping_order, label_codes
from curation.dedup.nearest import nearest_kept
from curation.dedup.rows import Array, Texts, keyed_rows
from curation.dedup.text import checked_length


def find_semantic(
    texts: Texts,
    vectors: Array,
    *,
    threshold: float = 0.9,
    same_label_threshold: float | None = None,
    labels: Sequence[str | None] | pa.Array | None = None,
    rank: Sequence[int] | None = None,
) -> pa.Table:
    """Pair texts whose embeddings point the same way.

    Args:
        vectors: one L2-normalized row per text (`curation.embed.embed`).
        threshold: cosine from which a row is a twin.
        same_label_threshold: the cosine for rows that carry the same label, where agreement on the class is evidence of
            its own; `threshold` when None.
        labels: the class of each row; rows whose labels differ are never paired.
        rank: lower is kept; ties by position.

    Returns one line per dropped row: row, kept, twin, similarity (true cosine), cluster, measure ("exact" or "cosine").
    The table's metadata says how the rows were searched.
    """
    for column, name in ((vectors, "vectors"), (labels, "labels"), (rank, "rank")):
        checked_length(column, len(texts), name)
    keyed = keyed_rows(texts)
    codes, order = label_codes(labels, len(texts)), keeping_order(len(texts), rank)
    first = first_of_equal(keyed, codes, order)
    which = order[(first[order] == order) & (keyed.lengths[order] > 0)]
    kept, similarity, searches = which.copy(), np.ones(len(which)), set()
    by_label = np.argsort(codes[which], kind="stable")
    cuts = np.flatnonzero(np.diff(codes[which][by_label])) + 1
    for places in np.split(by_label, cuts) if len(which) else ():
        is_labelled = codes[which[places[0]]] >= 0
        cut = same_label_threshold if is_labelled and same_label_threshold is not None else threshold
        twin, cosine, search = nearest_kept(np.ascontiguousarray(vectors[which[places]], dtype=np.float32), cut)
        kept[places], similarity[places] = which[places[twin]], cosine
        searches.add(search)
    measure = np.full(len(which), MEASURES.index("cosine"), np.int8)
    return drop_table(first, Decided(which, kept, similarity, measure, kept), search="; ".join(sorted(searches)))
