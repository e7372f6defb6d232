"""All near pairs with their true similarity, so that a threshold can be moved without reading a text again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.dedup.arrow_text import Array, Texts, spread
from curation.dedup.near import LOOKS, Firsts, read_firsts, roots_of, sorted_bands
from curation.dedup.resolve import MEASURES, Decided, drop_table


def find_clusters(texts: Texts, *, threshold: float = 0.7, shingle: int = 5) -> Array:
    """For each row the smallest row of its cluster.

    Dedup asks which row stands for another; here every pair counts, those among rows that dedup drops too.
    """
    from curation.dedup.kernels.keep import join_buckets

    firsts = read_firsts(texts, threshold=threshold, shingle=shingle)
    which, n = firsts.which, len(texts)
    parent = np.arange(len(which))
    for packed in sorted_bands(firsts.keys, which):
        places = np.bincount((packed & np.uint64(0xFFFFFFFF)).astype(np.int64), minlength=len(which))
        begins = np.concatenate([[0], np.cumsum(places)])
        common = (which, firsts.counts, firsts.keyed.rows.arguments, firsts.shingle, threshold, firsts.signatures)
        join_buckets(packed, begins, *common, LOOKS, parent)
    root = np.arange(n)
    root[which] = which[roots_of(parent)]
    root = root[firsts.first]
    smallest = np.arange(n)
    np.minimum.at(smallest, root, np.arange(n))
    return np.asarray(smallest[root])


PAIRS = pa.schema({"row": pa.int64(), "twin": pa.int64(), "similarity": pa.float64(), "measure": pa.string(), "place": pa.int64()})
"""`twin` stands before `row` in keeping order, in which `place` is the row's place and the lines are sorted."""

WHOLE, FIRST = 256, 64
"""Rows that share a band up to which every pair is looked at; above, each row with the first so many of them."""


def find_near_pairs(
    texts: Texts,
    *,
    floor: float = 0.5,
    shingle: int = 5,
    labels: Sequence[str | None] | pa.Array | None = None,
    rank: Sequence[int] | None = None,
) -> pa.Table:
    """Find every pair of texts whose Jaccard similarity is at least `floor`; equal texts are paired with the first of them.

    Where more than 256 rows share a band, each is held only against the first 64; the table's metadata counts such rows
    (`crowded`), and for them a higher threshold may keep a row that `find_near` would drop.

    Returns one line per pair: row, twin, similarity, measure ("exact" or "jaccard"), place.
    """
    firsts = read_firsts(texts, threshold=floor, shingle=shingle, labels=labels, rank=rank)
    pairs, crowded = candidate_pairs(sorted_bands(firsts.keys, firsts.which))
    scores = similarities(firsts, pairs, floor)
    pairs, scores = pairs[scores >= 0], scores[scores >= 0]
    place = np.empty(len(firsts.first), np.int64)
    place[firsts.order] = np.arange(len(place))
    copies = np.flatnonzero(firsts.first != np.arange(len(place)))
    rows = np.concatenate([firsts.which[pairs[:, 0]], copies])
    twins = np.concatenate([firsts.which[pairs[:, 1]], firsts.first[copies]])
    measure = np.repeat([MEASURES.index("jaccard"), MEASURES.index("exact")], [len(pairs), len(copies)])
    names = pa.DictionaryArray.from_arrays(pa.array(measure), pa.array(MEASURES)).cast(pa.string())
    columns = [rows, twins, np.concatenate([scores, np.ones(len(copies))]), names, place[rows]]
    table = pa.table([pa.array(column) for column in columns], schema=PAIRS)
    told = {"floor": str(floor), "rows": str(len(place)), "crowded": str(crowded)}
    return table.take(pa.array(np.lexsort((place[twins], place[rows])))).replace_schema_metadata(told)


def rethreshold(pairs: pa.Table, threshold: float) -> pa.Table:
    """Decide again from pairs that were measured once: what `find_near` would give at this threshold.

    Raises:
        ValueError: the threshold lies under the floor the pairs were measured at.
    """
    told = pairs.schema.metadata or {}
    if threshold < float(told.get(b"floor", b"0")):
        raise ValueError(f"threshold {threshold} lies under {told[b'floor'].decode()}, the least similarity these pairs were measured at")
    n = int(told.get(b"rows", b"0")) or 1 + max(pairs["row"].to_pylist() + pairs["twin"].to_pylist(), default=-1)
    first, kept, similarity, parent = np.arange(n), np.arange(n), np.ones(n), list(range(n))
    is_exact = pairs["measure"].to_numpy(zero_copy_only=False) == "exact"
    exact, lines = pairs.filter(pa.array(is_exact)), pairs.filter(pa.array(~is_exact & (pairs["similarity"].to_numpy() >= threshold)))
    first[exact["row"].to_numpy()] = exact["twin"].to_numpy()
    columns = zip(*(lines[name].to_pylist() for name in ("row", "twin", "similarity")), strict=True)
    for row, group in itertools.groupby(columns, key=lambda line: line[0]):
        standing = [(twin, score) for _, twin, score in group if kept[twin] == twin]
        if standing:
            kept[row], similarity[row] = max(standing, key=lambda pair: pair[1])  # of equals the first, so the best kept
            for twin, _ in standing:
                _join(parent, row, twin)
    everyone = np.arange(n)
    roots = np.array([_root(parent, row) for row in range(n)], np.int64)
    measure = np.full(n, MEASURES.index("jaccard"), np.int8)
    return drop_table(first, Decided(everyone, kept, similarity, measure, roots))


def candidate_pairs(bands: Sequence[Array]) -> tuple[Array, int]:
    """((later place, earlier place) of each pair that shares a band, sorted and once each; places in crowded runs)."""
    from curation.dedup.kernels.runs import pairs_in_runs

    parts, most_crowded = list[Array](), 0
    for packed in bands:
        count, crowded = pairs_in_runs(packed, WHOLE, FIRST, packed, False)
        part = np.empty(count, np.uint64)
        pairs_in_runs(packed, WHOLE, FIRST, part, True)
        parts, most_crowded = [*parts, np.unique(part)], max(most_crowded, crowded)
    merged = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
    return np.stack([merged >> np.uint64(32), merged & np.uint64(0xFFFFFFFF)], axis=1).astype(np.int64), most_crowded


def similarities(firsts: Firsts, pairs: Array, floor: float) -> Array:
    """The true similarity of each pair of places, -1 under the floor."""
    from curation.dedup.kernels.compare import compare_pairs

    scores = np.empty(len(pairs))
    common = (firsts.which, firsts.counts, firsts.keyed.rows.arguments, firsts.shingle, floor, firsts.signatures)
    spread(compare_pairs, len(pairs), pairs, *common, scores)
    return scores


def _root(parent: list[int], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


def _join(parent: list[int], a: int, b: int) -> None:
    low, high = sorted((_root(parent, a), _root(parent, b)))
    parent[high] = low
