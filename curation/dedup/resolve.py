"""Which row of a group of twins stays, and the table that says so.

Rows are taken best first (`rank`, then position). A row that resembles one already kept is dropped and points at it;
any other row is kept. So `twin` is always the kept row itself, every similarity is direct, and the work grows with the
rows that stay, not with the square of a cluster: a thousand equal rows cost a thousand looks at one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curation.dedup.arrow_text import Array, Keyed, spread

DROPS = pa.schema(
    {
        "row": pa.int64(),
        "kept": pa.int64(),
        "twin": pa.int64(),
        "similarity": pa.float64(),
        "cluster": pa.int64(),
        "measure": pa.string(),
    }
)
ALARMS = pa.schema(
    {"cluster": pa.int64(), "kept": pa.int64(), "size": pa.int64(), "share": pa.float64(), "elsewhere": pa.int64(), "reason": pa.string()}
)
MEASURES = ("exact", "jaccard", "levenshtein", "cosine")


@dataclass(frozen=True)
class Decided:
    """What stands for each of some rows: `kept` is the row itself where it stays; `root` one row of all that hang together."""

    rows: Array
    kept: Array
    similarity: Array
    measure: Array
    """Place in MEASURES."""
    root: Array


def keeping_order(n: int, rank: Sequence[int] | None) -> Array:
    """Rows from the one most worth keeping to the least; ties by position."""
    return np.arange(n) if rank is None else np.argsort(np.asarray(rank), kind="stable")


def label_codes(labels: Sequence[str | None] | pa.Array | None, n: int) -> Array:
    """A number for each label, -1 for none: rows whose numbers differ are never paired."""
    if labels is None:
        return np.full(n, -1, np.int64)
    if isinstance(labels, pa.Array | pa.ChunkedArray):
        whole: Any = labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels
        return np.asarray(whole.dictionary_encode().indices.fill_null(-1)).astype(np.int64)
    numbers: defaultdict[str | None, int] = defaultdict(lambda: len(numbers) - 1)
    numbers[None] = -1
    return np.fromiter((numbers[label] for label in labels), np.int64, n)


def salts_of(codes: Array) -> Array:
    """The labels as 64-bit numbers that mix well into keys."""
    return (codes.astype(np.uint64) + np.uint64(2)) * np.uint64(0xD6E8FEB86659FD93)


def first_of_equal(keyed: Keyed, codes: Array, order: Array) -> Array:
    """For each row the first, in keeping order, of those with its text and label; equal hashes are proven by the texts."""
    from curation.dedup.kernels.sketch import equal_rows

    n = len(order)
    first = np.arange(n)
    if n < 2:
        return first
    keys = (keyed.keys ^ salts_of(codes))[order]
    bits = np.uint64(max(1, (n - 1).bit_length()))
    packed = np.sort((keys >> bits << bits) | np.arange(n, dtype=np.uint64))
    places = (packed & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(packed >> bits) != 0]))
    heads = np.repeat(places[starts], np.diff(np.append(starts, n)))
    same = keys[heads] == keys[places]
    for place in places[~same].tolist():  # keys alike in the bits that were sorted and no others: some of a million million
        rivals = places[(packed >> bits) == (keys[place] >> bits)]
        heads[places == place] = rivals[keys[rivals] == keys[place]][0]
    pairs = np.stack([order[heads], order[places]], axis=1)[heads != places]
    equal = np.ones(len(pairs), np.bool_)
    spread(equal_rows, len(pairs), pairs, *keyed.rows.arguments, equal)
    first[pairs[equal, 1]] = pairs[equal, 0]
    return first


def drop_table(first: Array, decided: Decided, **told: Any) -> pa.Table:
    """The drops in row order: those decided among the first of each group of equal rows, and the equal rows behind each first.

    Args:
        first: for each row the first of its group.
        told: noted in the table's metadata.
    """
    n = len(first)
    kept, similarity, measure, root = np.arange(n), np.ones(n), np.zeros(n, np.int8), np.arange(n)
    kept[decided.rows], similarity[decided.rows] = decided.kept, decided.similarity
    measure[decided.rows], root[decided.rows] = np.where(decided.kept == decided.rows, 0, decided.measure), decided.root
    kept, similarity, measure, root = kept[first], similarity[first], measure[first], root[first]
    rows = np.flatnonzero(kept != np.arange(n))
    smallest = np.arange(n)
    np.minimum.at(smallest, root, np.arange(n))
    names = pa.DictionaryArray.from_arrays(pa.array(measure[rows]), pa.array(MEASURES)).cast(pa.string())
    columns = [rows, kept[rows], kept[rows], similarity[rows], smallest[root[rows]], names]
    table = pa.table([pa.array(column) for column in columns], schema=DROPS)
    return table.replace_schema_metadata({key: str(value) for key, value in told.items()}) if told else table


def cluster_alarms(table: pa.Table, n_rows: int, share: float = 0.05, *, least: int = 20, disagree: float = 0.5) -> pa.Table:
    """Clusters that a person should look at before they are believed: so large that a template or empty rows may be behind
    them, or chains whose members mostly resemble something else than the row that stands for the cluster.

    Returns one line per cluster of at least `least` rows and over `share` of all ("large"), or with more than `disagree` of its
    dropped rows standing behind other kept rows ("chained"): cluster, kept (the row that stands for most of it), size (dropped
    and kept rows together), share, elsewhere (rows that are no twins of that kept row), reason; largest first.
    """
    clusters, kept = table["cluster"].to_numpy(), table["kept"].to_numpy()
    pairs, counts = np.unique(np.stack([clusters, kept], axis=1), axis=0, return_counts=True) if len(kept) else (np.empty((0, 2)), [])
    by_cluster: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for (cluster, row), count in zip(np.asarray(pairs, np.int64).tolist(), np.asarray(counts).tolist(), strict=True):
        by_cluster[cluster].append((count, -row))
    lines: list[dict[str, Any]] = []
    for cluster, found in by_cluster.items():
        (most, row), dropped = max(found), sum(count for count, _ in found)
        size = dropped + len(found)
        reason = "large" if size > share * n_rows else "chained" if dropped - most > disagree * dropped else None
        if size >= least and reason:
            where = {"cluster": cluster, "kept": -row, "size": size, "share": size / n_rows}
            lines.append({**where, "elsewhere": dropped - most, "reason": reason})
    return pa.Table.from_pylist(sorted(lines, key=lambda line: (-line["size"], line["cluster"])), schema=ALARMS)
