"""The page's records in the order asked for. An order that an index holds is walked only as far as the page reaches.

What has no value comes last either way, in the order of the records' coming; of several values the one that comes first counts, and
a user's several answers count by their average.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from argilla_setup.engine.rows import Bitmap, Numbers, Rows, first_of, read_groups, read_numbers
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
    end = min(offset + limit, int(np.count_nonzero(among)))
    if len(sorts) == 1 and (found := _walk(db, rows, among, dataset=dataset, sort=sorts[0], end=end)) is not None:
        return found[offset:end]
    seqs = np.flatnonzero(among)
    ranks = [_ranks(db, rows, dataset=dataset, sort=sort)[seqs] for sort in sorts]
    # Of lexsort's keys the last counts most.
    ordered: Numbers = seqs[np.lexsort((seqs, *reversed(ranks)))[offset:end]]
    return ordered


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


def _walk(db: sqlite3.Connection, rows: Rows, among: Bitmap, *, dataset: int, sort: Sort, end: int) -> Numbers | None:
    """The first of these records by the index that holds the order; None where none does, or where they stand too far apart in it."""
    scope, way = sort.scope, "DESC" if sort.descending else "ASC"
    if scope.entity == "response" or (scope.entity == "record" and scope.name not in INDEXED):
        return None
    sql, values = _values_sql(sort, dataset=dataset)
    # Twice as far as if they stood evenly.
    stretch = 2 * end * len(rows.seqs) // max(int(np.count_nonzero(among)), 1) + MARGIN
    walked = read_numbers(db, f"SELECT n FROM ({sql}) ORDER BY value {way}, n LIMIT {stretch}", values)
    found = _first_of_each(walked[among[walked]], size=rows.size)
    return found if len(found) >= end else None


def _ranks(db: sqlite3.Connection, rows: Rows, *, dataset: int, sort: Sort) -> Numbers:
    """By record, the number of its value among all values; without one the greatest number."""
    sql, values = _values_sql(sort, dataset=dataset)
    seqs, numbers = read_groups(db, f"SELECT n, value FROM ({sql})", values, descending=sort.descending)
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
