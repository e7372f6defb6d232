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

from argilla_setup.engine.filters import RECORD_COLUMNS, Scope, Sql, answers_of, attribute_name, responses_of
from argilla_setup.engine.rows import Bitmap, Numbers, Rows, first_of, read_groups, read_numbers

MARGIN = 256
"""Records looked at beyond those that a page is expected to need."""

EVERY = -1
"""No limit, in SQLite's words."""

WITHOUT = np.iinfo(np.int64).max
"""The rank of a record without a value."""

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
    total = int(np.count_nonzero(among))
    end = min(offset + limit, total)
    # Twice as far as if the records stood evenly in the order.
    stretch = 2 * end * len(rows.seqs) // max(total, 1) + MARGIN if _is_indexed(sorts[0].scope) else EVERY
    if len(sorts) == 1 and stretch != EVERY:
        found = _walk(db, rows, among, dataset=dataset, sort=sorts[0], stretch=stretch)
        if len(found) >= end:
            return found[offset:end]
        stretch = EVERY
    first = _ranks(db, rows, dataset=dataset, sort=sorts[0], values=stretch)
    reached = among & (first != WITHOUT)
    if np.count_nonzero(reached) < end:
        first = first if stretch == EVERY else _ranks(db, rows, dataset=dataset, sort=sorts[0])
        reached = among
    seqs = np.flatnonzero(reached)
    others = [_ranks(db, rows, dataset=dataset, sort=sort)[seqs] for sort in sorts[1:]]
    # Of lexsort's keys the last counts most.
    ordered: Numbers = seqs[np.lexsort((seqs, *reversed(others), first[seqs]))[offset:end]]
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


def _is_indexed(scope: Scope) -> bool:
    return scope.entity in ("metadata", "suggestion") or (scope.entity == "record" and scope.name in INDEXED)


def _walk(db: sqlite3.Connection, rows: Rows, among: Bitmap, *, dataset: int, sort: Sort, stretch: int) -> Numbers:
    """Those of these records that stand in the first stretch of the order, in order."""
    sql, given = _values_sql(sort, dataset=dataset)
    way = "DESC" if sort.descending else "ASC"
    walked = read_numbers(db, f"SELECT n FROM ({sql}) ORDER BY value {way}, n LIMIT {stretch}", given)
    return _first_of_each(walked[among[walked]], size=rows.size)


def _ranks(db: sqlite3.Connection, rows: Rows, *, dataset: int, sort: Sort, values: int = EVERY) -> Numbers:
    """By record, the number of its value among all values, or among so many that come first."""
    sql, given = _values_sql(sort, dataset=dataset)
    seqs, numbers = read_groups(db, f"SELECT n, value FROM ({sql})", given, descending=sort.descending, limit=values)
    ranks = np.full(rows.size, WITHOUT)
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
