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


def similar_pairs(sketched: Sketched) -> tuple[Array, Array, Array]:
    """Return (row, twin, similarity) of every similar pair, as `find_near_pairs` does."""
    equal = np.flatnonzero(sketched.first != np.arange(len(sketched.first)))
    later, earlier, scores = _compared(sketched, sketched.close.packed)
    rows, twins = sketched.which[later], sketched.which[earlier]
    columns = (rows, equal), (twins, sketched.first[equal]), (scores, np.ones(len(equal)))
    rows, twins, scores = map(np.concatenate, columns)
    return rows, twins, scores


def pairs_apart(sketched: Sketched, sides: Array) -> tuple[Array, Array, Array]:
    """Return (row, twin) of similar texts on different sides, and for each row the first of the equal texts on its side, its head.

    Of equal texts on one side only the head is paired. Every candidate pair is compared here and now; nothing is concluded from clusters.

    Args:
        sketched: the texts.
        sides: number of each row's side, from 0.
    """
    first, n = sketched.first, len(sketched.first)
    # The head of each group of equal texts on each side, -1 for none. Where an index occurs twice, NumPy keeps the last value.
    heads = np.full((int(sides.max(initial=0)) + 1, n), -1, np.int32)
    heads[sides[::-1], first[::-1]] = np.arange(n)[::-1]
    held = ((heads >= 0) << np.arange(len(heads))[:, None]).sum(axis=0)
    later, earlier = (sketched.which[places] for places in _places_in(sketched.close.packed))
    either = held[later] | held[earlier]
    one, other, _ = _compared(sketched, sketched.close.packed[(either & (either - 1)) != 0])
    equal = np.flatnonzero(held & (held - 1))
    a, b = (np.concatenate([sketched.which[places], equal]) for places in (one, other))
    rows, twins = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for s, t in itertools.permutations(range(len(heads)), 2):
        # A group and itself are a pair once.
        is_pair = (heads[s, a] >= 0) & (heads[t, b] >= 0) & ((a != b) | (s < t))
        rows.append(heads[s, a[is_pair]])
        twins.append(heads[t, b[is_pair]])
    return np.concatenate(rows), np.concatenate(twins), heads[sides, first]


def _places_in(packed: Array) -> tuple[Array, Array]:
    """Return the later and the earlier places of packed pairs."""
    return (packed >> np.uint64(32)).astype(np.int64), (packed & _LOW).astype(np.int64)


def _compared(sketched: Sketched, packed: Array) -> tuple[Array, Array, Array]:
    """Return (later place, earlier place, similarity) of those packed pairs that are similar."""
    from curation.dedup.kernels.compare import compare_pairs

    pairs, scores = np.stack(_places_in(packed), axis=1), np.empty(len(packed))
    spread(compare_pairs, len(pairs), pairs, sketched.places, scores)
    is_alike = scores >= 0
    return pairs[is_alike, 0], pairs[is_alike, 1], scores[is_alike]


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
