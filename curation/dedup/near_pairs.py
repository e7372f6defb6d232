"""Find all near pairs with their exact similarity, so that a threshold can change without reading a text again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.dedup.arrow_text import Array, Texts, spread
from curation.dedup.near import LIMIT, read_firsts, roots_of, sorted_bands
from curation.dedup.resolve import MEASURES, Decided, drop_table

PAIRS = pa.schema({"row": pa.int64(), "twin": pa.int64(), "similarity": pa.float64(), "measure": pa.string(), "place": pa.int64()})
"""`twin` comes before `row` when rows are ordered best first; `place` is the row's place in that order, by which lines are sorted."""

# Rows that share a band up to which every pair is a candidate; in a larger group each row is paired with the first FIRST rows.
WHOLE, FIRST = 256, 64
_LOW = np.uint64(0xFFFFFFFF)


def find_clusters(texts: Texts, *, threshold: float = 0.7, shingle: int = 5) -> Array:
    """Return, for each row, the smallest row of its cluster.

    Dedup needs only pairs with a kept row. Here every pair counts, including pairs of rows that dedup drops.

    Args:
        texts: the texts.
        threshold: least Jaccard similarity of a pair.
        shingle: code points in a shingle.
    """
    from curation.dedup.kernels.keep import join_buckets

    firsts = read_firsts(texts, threshold=threshold, shingle=shingle)
    which, n = firsts.places.which, len(texts)
    parent = np.arange(len(which))
    for packed in sorted_bands(firsts.keys, which):
        members = np.bincount((packed & _LOW).astype(np.int64), minlength=len(which))
        join_buckets(packed, np.concatenate([[0], np.cumsum(members)]), firsts.places, LIMIT, parent)
    root = np.arange(n)
    root[which] = which[roots_of(parent)]
    root = root[firsts.first]
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
    from curation.dedup.kernels.compare import compare_pairs
    from curation.dedup.kernels.sketch import pairs_in_runs

    firsts = read_firsts(texts, threshold=floor, shingle=shingle, labels=labels, rank=rank)
    which = firsts.places.which
    # (later place, earlier place) of each pair that shares a band. The first call of the loop only counts, to size the array.
    parts, crowded = [np.empty(0, np.uint64)], 0
    for packed in sorted_bands(firsts.keys, which):
        count, in_crowds = pairs_in_runs(packed, WHOLE, FIRST, packed, False)
        parts.append(np.empty(count, np.uint64))
        pairs_in_runs(packed, WHOLE, FIRST, parts[-1], True)
        parts[-1], crowded = _distinct(parts[-1]), max(crowded, in_crowds)
    merged = _distinct(np.concatenate(parts))
    pairs = np.stack([merged >> np.uint64(32), merged & _LOW], axis=1).astype(np.int64)
    scores = np.empty(len(pairs))
    spread(compare_pairs, len(pairs), pairs, firsts.places, scores)
    pairs, scores = pairs[scores >= 0], scores[scores >= 0]
    place = np.empty(len(firsts.first), np.int64)
    place[firsts.order] = np.arange(len(place))
    equal = np.flatnonzero(firsts.first != np.arange(len(place)))
    rows = np.concatenate([which[pairs[:, 0]], equal])
    twins = np.concatenate([which[pairs[:, 1]], firsts.first[equal]])
    measure = np.repeat([MEASURES.index("jaccard"), MEASURES.index("exact")], [len(pairs), len(equal)])
    names = pa.DictionaryArray.from_arrays(pa.array(measure), pa.array(MEASURES)).cast(pa.string())
    columns = [rows, twins, np.concatenate([scores, np.ones(len(equal))]), names, place[rows]]
    table = pa.table([pa.array(column) for column in columns], schema=PAIRS)
    metadata = {"floor": str(floor), "rows": str(len(place)), "crowded": str(crowded)}
    return table.take(pa.array(np.lexsort((place[twins], place[rows])))).replace_schema_metadata(metadata)


def _distinct(values: Array) -> Array:
    """Return the sorted distinct values, as `np.unique` does by a hash table in ten times the time."""
    ranked = np.sort(values)
    return ranked[np.append(True, ranked[1:] != ranked[:-1])] if len(ranked) else ranked


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
