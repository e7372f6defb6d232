"""The page's records in the order asked for. An order that an index holds is walked only as far as the page reaches.

What has no value comes last either way, in the order of the records' coming; of several values the one that comes first counts, and
a user's several answers count by their average.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from argilla_setup.engine.rows import Bitmap, Numbers, Rows, first_of, read_numbers, read_pairs
from argilla_setup.engine.where import RECORD_COLUMNS, Scope, Sql, answers_of, attribute_name, responses_of

MARGIN = 256
"""Records looked at beyond those that a page is expected to need."""

INDEXED = ("status", "inserted_at", "updated_at")


@dataclass(frozen=True)
class Sort:
    """What to order by; records without it come last."""

    scope: Scope
    descending: bool = False


def order_by_sorts(
    db: sqlite3.Connection, rows: Rows, among: Bitmap, *, dataset: int, sorts: Sequence[Sort], offset: int, limit: int
) -> Numbers:
    """The page of these records; later sorts settle the ties of earlier ones, and then the order of their coming."""
    if len(sorts) > 1:
        seqs = np.flatnonzero(among)
        ranks = [_ranks(db, rows, _values_sql(sort, dataset=dataset), sort)[seqs] for sort in sorts]
        # Of lexsort's keys the last counts most.
        return seqs[np.lexsort((seqs, *reversed(ranks)))[offset : offset + limit]]
    total = int(np.count_nonzero(among))
    need = min(offset + limit, total)
    left, taken, count = among.copy(), [], 0
    for seqs in _walk(db, _values_sql(sorts[0], dataset=dataset), sorts[0], first=2 * need * len(rows.seqs) // max(total, 1) + MARGIN):
        found = _first_of_each(seqs[left[seqs]], size=rows.size)
        left[found] = False
        taken.append(found)
        count += len(found)
        if count >= need:
            break
    else:
        taken.append(np.flatnonzero(left))
    return np.concatenate(taken)[offset:need]


def order_by_user(rows: Rows, among: Bitmap, *, user: str, offset: int, limit: int) -> Numbers:
    """The page of these records in an order that is the user's own and stays."""
    keys, seqs = rows.order_for(user, among)
    return seqs[first_of(keys, seqs, offset=offset, limit=limit)]


def order_by_score(
    among: Bitmap, ranked: Numbers, scores: NDArray[np.float64], *, offset: int, limit: int
) -> tuple[Numbers, list[float | None]]:
    """The page of these records, best first, with their scores; those without a score come last."""
    kept = among[ranked]
    ranked, scores = ranked[kept], scores[kept]
    best = first_of(-scores, ranked, offset=offset, limit=limit)
    rest = among.copy()
    rest[ranked] = False
    others = np.flatnonzero(rest)[max(offset - len(ranked), 0) : max(offset + limit - len(ranked), 0)]
    return np.concatenate((ranked[best], others)), [*scores[best].tolist(), *([None] * len(others))]


def _walk(db: sqlite3.Connection, source: Sql, sort: Sort, *, first: int) -> Iterator[Numbers]:
    """The records that have a value, in order; one of several values comes several times."""
    scope, way = sort.scope, "DESC" if sort.descending else "ASC"
    walked = scope.entity in ("metadata", "suggestion") or (scope.entity == "record" and scope.name in INDEXED)
    sql, values = source
    at, size = 0, first if walked else -1
    while True:
        seqs = read_numbers(db, f"SELECT n FROM (SELECT n FROM ({sql}) ORDER BY value {way}, n LIMIT ? OFFSET ?)", [*values, size, at])
        yield seqs
        if len(seqs) < size or size < 0:
            return
        at, size = at + size, 8 * size


def _ranks(db: sqlite3.Connection, rows: Rows, source: Sql, sort: Sort) -> Numbers:
    """By record, the number of its value among all values; without one the greatest number."""
    sql, values = source
    way = "DESC" if sort.descending else "ASC"
    seqs, numbers = read_pairs(db, f"SELECT n, dense_rank() OVER (ORDER BY value {way}) AS m FROM ({sql})", values)
    ranks = np.full(rows.size, np.iinfo(np.int64).max)
    np.minimum.at(ranks, seqs, numbers)
    return ranks


def _values_sql(sort: Sort, *, dataset: int) -> Sql:
    """Records `n` with the `value` that they are ordered by."""
    scope, pick = sort.scope, "max" if sort.descending else "min"
    if scope.entity == "record":
        column = scope.name if scope.name in RECORD_COLUMNS else "NULL"
        return f"SELECT seq AS n, {column} AS value FROM records WHERE dataset = ? AND {column} IS NOT NULL", [dataset]
    if scope.entity != "response":
        return "SELECT record AS n, value FROM attributes WHERE dataset = ? AND name = ?", [dataset, attribute_name(scope)]
    if scope.name is None:
        source, values = responses_of(scope, dataset=dataset)
        return f"SELECT s.record AS n, {pick}(s.status) AS value FROM {source} GROUP BY s.record", values
    source, values = answers_of(scope, dataset=dataset)
    value = f"CASE WHEN max(typeof(v.value)) = 'text' THEN {pick}(v.value) ELSE avg(v.value) END"
    return f"SELECT s.record AS n, {value} AS value FROM {source} GROUP BY s.record", values


def _first_of_each(seqs: Numbers, *, size: int) -> Numbers:
    numbers = np.arange(len(seqs))
    first = np.empty(size, dtype=np.int64)
    first[seqs[::-1]] = numbers[::-1]
    kept: Numbers = seqs[first[seqs] == numbers]
    return kept
