"""Which row of a group of twins stays, and the table that says so.

Rows are taken best first (`rank`, then position). A row that resembles one already kept is dropped and points at it;
any other row is kept. So `twin` is always the kept row itself, every similarity is direct, and the work grows with the
rows that stay, not with the square of a cluster: a thousand equal rows cost a thousand looks at one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa

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
ALARMS = pa.schema({"cluster": pa.int64(), "kept": pa.int64(), "size": pa.int64(), "share": pa.float64()})


class Drop(NamedTuple):
    """A row, the kept row that stands for it, and how alike the two are by which measure."""

    row: int
    kept: int
    similarity: float
    measure: str


def keeping_order(n: int, rank: Sequence[int] | None) -> list[int]:
    """Rows from the one most worth keeping to the least; ties by position."""
    return list(range(n)) if rank is None else sorted(range(n), key=lambda row: (rank[row], row))


def equal_groups(keys: Sequence[Hashable], order: Sequence[int]) -> list[list[int]]:
    """Rows with the same key together, each group and the groups among themselves in keeping order."""
    groups: dict[Hashable, list[int]] = {}
    for row in order:
        groups.setdefault(keys[row], []).append(row)
    return list(groups.values())


def copies(groups: Iterable[Sequence[int]], decided: dict[int, Drop]) -> list[Drop]:
    """Every drop: those decided among the first of each group, and the equal rows behind each first."""
    drops = []
    for first, *rest in groups:
        verdict = decided.get(first)
        if verdict:
            drops.append(verdict)
        drops += [verdict._replace(row=row) if verdict else Drop(row, first, 1.0, "exact") for row in rest]
    return drops


def drop_table(drops: Iterable[Drop], links: Iterable[tuple[int, int]] = ()) -> pa.Table:
    """The drops in row order, each with its cluster: the smallest row of all that hang together.

    Args:
        drops: one per dropped row.
        links: further true pairs of a dropped and a kept row; they join clusters and drop nothing.
    """
    ordered = sorted(drops)
    names = _clusters([*((d.row, d.kept) for d in ordered), *links])
    return pa.table(
        {
            "row": [d.row for d in ordered],
            "kept": [d.kept for d in ordered],
            "twin": [d.kept for d in ordered],
            "similarity": [d.similarity for d in ordered],
            "cluster": [names[d.row] for d in ordered],
            "measure": [d.measure for d in ordered],
        },
        schema=DROPS,
    )


def cluster_alarms(table: pa.Table, n_rows: int, share: float = 0.05, *, least: int = 20) -> pa.Table:
    """Clusters so large that a person should look before they are believed (a shared template, empty rows).

    Returns one line per cluster of at least `least` rows and over `share` of all: cluster, kept (the row that stands
    for most of it), size (dropped and kept rows together), share; largest first.
    """
    kept: dict[int, Counter[int]] = {}
    for cluster, row in zip(table["cluster"].to_pylist(), table["kept"].to_pylist(), strict=True):
        kept.setdefault(cluster, Counter())[row] += 1
    sizes = {cluster: rows.total() + len(rows) for cluster, rows in kept.items()}
    large = sorted((c for c, size in sizes.items() if size >= least and size > share * n_rows), key=lambda c: (-sizes[c], c))
    lines = [{"cluster": c, "kept": kept[c].most_common(1)[0][0], "size": sizes[c], "share": sizes[c] / n_rows} for c in large]
    return pa.Table.from_pylist(lines, schema=ALARMS)


def _clusters(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while (up := parent.setdefault(row, row)) != row:
            parent[row] = parent.get(up, up)
            row = up
        return row

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {row: root(row) for row in list(parent)}
