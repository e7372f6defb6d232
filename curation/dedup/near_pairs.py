"""Find all near pairs with their exact similarity, so that a threshold can change without reading a text again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.dedup.arrow_text import Array, Rows, Texts, spread
from curation.dedup.near import LIMIT, WHOLE, Sketched, roots_of, sketch
from curation.dedup.resolve import MEASURES, Decided, drop_table

PAIRS = pa.schema({"row": pa.int64(), "twin": pa.int64(), "similarity": pa.float64(), "measure": pa.string(), "place": pa.int64()})
"""`twin` comes before `row` when rows are ordered best first; `place` is the row's place in that order, by which lines are sorted."""

_LOW = np.uint64(0xFFFFFFFF)


def find_clusters(texts: Texts | Rows | Sketched, *, threshold: float = 0.7, shingle: int = 5) -> Array:
    """Return, for each row, the smallest row of its cluster.

    Dedup needs only pairs with a kept row. Here every pair counts, including pairs of rows that dedup drops.

    Args:
        texts: the texts; of a sketch the threshold and the shingle are its own.
        threshold: least Jaccard similarity of a pair.
        shingle: code points in a shingle.
    """
    from curation.dedup.kernels.keep import join_buckets, join_pairs

    sketched = texts if isinstance(texts, Sketched) else sketch(texts, threshold=threshold, shingle=shingle)
    which, n = sketched.which, len(sketched.first)
    parent, most = np.arange(len(which)), int(sketched.places.rows.sizes.max(initial=1))
    join_pairs(sketched.close.packed, sketched.places, most, parent)
    # Of crowded bands not every pair is among the close ones.
    for packed in sketched.shared if sketched.close.crowded else ():
        join_buckets(packed, WHOLE, sketched.places, most, LIMIT, parent)
    root = np.arange(n)
    root[which] = which[roots_of(parent)]
    root = root[sketched.first]
    smallest = np.arange(n)
    np.minimum.at(smallest, root, np.arange(n))
    return np.asarray(smallest[root])


def find_near_pairs(
    texts: Texts,
    *,
    floor: float = 0.5,
    shingle: int = 5,
    labels: Sequence[str | None] | pa.Array | None = None,
    rank: Sequence[int] | None = None,
) -> pa.Table:
    """Find every pair of texts whose Jaccard similarity is at least `floor`; equal texts are paired with the first of them.

    Where more than 256 rows share a band, each is compared with the first 64 only. The table's metadata counts such rows
    (`crowded`); for them a higher threshold may keep a row that `find_near` would drop.

    Args:
        texts: the texts.
        floor: least Jaccard similarity of a pair.
        shingle: code points in a shingle.
        labels: class of each row; rows with different labels are never paired.
        rank: lower comes first; ties by position.

    Returns:
        One line per pair: row, twin, similarity, measure ("exact" or "jaccard"), place.
    """
    sketched = sketch(texts, threshold=floor, shingle=shingle, labels=labels, rank=rank)
    rows, twins, scores = similar_pairs(sketched)
    place = np.empty(len(sketched.first), np.int64)
    place[sketched.order] = np.arange(len(place))
    measure = np.where(sketched.first[rows] == twins, MEASURES.index("exact"), MEASURES.index("jaccard"))
    names = pa.DictionaryArray.from_arrays(pa.array(measure), pa.array(MEASURES)).cast(pa.string())
    table = pa.table([pa.array(column) for column in (rows, twins, scores, names, place[rows])], schema=PAIRS)
    metadata = {"floor": str(floor), "rows": str(len(place)), "crowded": str(sketched.close.crowded)}
    return table.take(pa.array(np.lexsort((place[twins], place[rows])))).replace_schema_metadata(metadata)


def similar_pairs(sketched: Sketched, *, apart: Array | None = None) -> tuple[Array, Array, Array]:
    """Return (row, twin, similarity) of every similar pair as `find_near_pairs` does, each compared here and now.

    Args:
        sketched: the texts.
        apart: number of each row's group; only pairs of two groups are compared. None: all are.
    """
    from curation.dedup.kernels.compare import compare_pairs

    which, packed = sketched.which, sketched.close.packed
    equal = np.flatnonzero(sketched.first != np.arange(len(sketched.first)))
    if apart is not None:
        of_place = apart[which]
        packed = packed[of_place[(packed >> np.uint64(32)).astype(np.int64)] != of_place[(packed & _LOW).astype(np.int64)]]
        equal = equal[apart[equal] != apart[sketched.first[equal]]]
    pairs = np.stack([packed >> np.uint64(32), packed & _LOW], axis=1).astype(np.int64)
    scores = np.empty(len(pairs))
    spread(compare_pairs, len(pairs), pairs, sketched.places, scores)
    pairs, scores = pairs[scores >= 0], scores[scores >= 0]
    rows = np.concatenate([which[pairs[:, 0]], equal])
    twins = np.concatenate([which[pairs[:, 1]], sketched.first[equal]])
    return rows, twins, np.concatenate([scores, np.ones(len(equal))])


def rethreshold(pairs: pa.Table, threshold: float) -> pa.Table:
    """Decide from measured pairs which rows are dropped at a threshold, as `find_near` would.

    Raises:
        ValueError: the threshold is below the floor of the pairs.
    """
    metadata = pairs.schema.metadata or {}
    if threshold < float(metadata.get(b"floor", b"0")):
        raise ValueError(f"threshold {threshold} is below {metadata[b'floor'].decode()}, the least similarity these pairs were measured at")
    n = int(metadata.get(b"rows", b"0")) or 1 + max(pairs["row"].to_pylist() + pairs["twin"].to_pylist(), default=-1)
    first, kept, similarity, parent = np.arange(n), np.arange(n), np.ones(n), list(range(n))
    is_exact = pairs["measure"].to_numpy(zero_copy_only=False) == "exact"
    exact, lines = pairs.filter(pa.array(is_exact)), pairs.filter(pa.array(~is_exact & (pairs["similarity"].to_numpy() >= threshold)))
    first[exact["row"].to_numpy()] = exact["twin"].to_numpy()

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    columns = zip(*(lines[name].to_pylist() for name in ("row", "twin", "similarity")), strict=True)
    for row, group in itertools.groupby(columns, key=lambda line: line[0]):
        rivals = [(twin, score) for _, twin, score in group if kept[twin] == twin]
        if rivals:
            # Of equally similar rows max takes the first, which is the best ranked.
            kept[row], similarity[row] = max(rivals, key=lambda pair: pair[1])
            for twin, _ in rivals:
                low, high = sorted((root(row), root(twin)))
                parent[high] = low
    roots = np.array([root(row) for row in range(n)], np.int64)
    measure = np.full(n, MEASURES.index("jaccard"), np.int8)
    return drop_table(first, Decided(np.arange(n), kept, similarity, measure, roots))
