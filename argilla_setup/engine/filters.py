"""Filters, evaluated to sets of records. Each filter reads one range of an SQLite index, so its cost depends on what it finds.

As in Elasticsearch's nested queries, user and value of a response filter must match in the same response. The status `pending` means that
the user (or, without a user, anybody) has no response. Values are passed as SQL parameters only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np

from argilla_setup.engine.rows import Bitmap, Rows, read_numbers

RECORD_COLUMNS = ("id", "external_id", "status", "inserted_at", "updated_at")
DAY = 24 * 3600 * 1_000_000
Sql = tuple[str, list[Any]]
"""SQL and the values of its parameters."""
NOTHING: Sql = ("0", [])
"""A condition that no row meets."""


@dataclass(frozen=True)
class Scope:
    """The value that a filter or a sort reads."""

    entity: Literal["record", "metadata", "suggestion", "response"]
    name: str | None = None
    """The column of the record, the metadata property, or the question; None for the status of a response."""
    property: str = "value"
    """For suggestions: value, score, agent or type."""
    user: str | None = None
    """The user whose responses are read; None for all."""


@dataclass(frozen=True)
class Terms:
    """A condition: the value is one of these."""

    scope: Scope
    values: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """A condition: the value is between these bounds, inclusive."""

    scope: Scope
    ge: float | str | None = None
    le: float | str | None = None


@dataclass(frozen=True)
class All:
    """A condition: every filter matches."""

    filters: tuple[Filter, ...]


Filter = Terms | Range | All


def find_matching(db: sqlite3.Connection, rows: Rows, condition: Filter, *, dataset: int) -> Bitmap:
    """Return the records of a dataset that match a filter.

    Args:
        db: a connection inside a read transaction.
        rows: the records of the dataset in the same transaction.
        condition: the filter.
        dataset: number of the dataset.

    Returns:
        Booleans of shape (rows.size,).
    """
    if isinstance(condition, All):
        found = rows.everything
        for part in condition.filters:
            found = found & find_matching(db, rows, part, dataset=dataset)
        return found
    scope = condition.scope
    if scope.entity == "response" and scope.name is None:
        return _find_by_status(db, rows, condition, dataset=dataset)
    if scope.entity == "record":
        test, values = _record_test(condition)
        sql, values = f"SELECT seq AS n FROM records WHERE dataset = ? AND {test}", [dataset, *values]
    elif scope.entity == "response":
        test, values = _value_test("v.value", condition)
        source, given = answers_of(scope, dataset=dataset)
        sql, values = f"SELECT s.record AS n FROM {source} AND {test}", [*given, *values]
    else:
        test, values = _value_test("value", condition)
        sql = f"SELECT record AS n FROM attributes WHERE dataset = ? AND name = ? AND {test}"
        values = [dataset, attribute_name(scope), *values]
    return rows.bitmap(read_numbers(db, sql, values))


def answers_of(scope: Scope, *, dataset: int) -> Sql:
    """Return FROM and WHERE for the answers to a question, joined with their responses."""
    if scope.user is None:
        return "answers v CROSS JOIN responses s ON s.seq = v.response WHERE v.dataset = ? AND v.question = ?", [dataset, scope.name]
    # CROSS JOIN fixes the order of the join: a user's responses are fewer than all answers to a question.
    source = "responses s CROSS JOIN answers v ON v.response = s.seq WHERE s.dataset = ? AND s.user = ? AND v.question = ?"
    return source, [dataset, scope.user, scope.name]


def responses_of(scope: Scope, *, dataset: int) -> Sql:
    """Return FROM and WHERE for a user's responses, or everybody's."""
    if scope.user is None:
        return "responses s WHERE s.dataset = ?", [dataset]
    return "responses s WHERE s.dataset = ? AND s.user = ?", [dataset, scope.user]


def attribute_name(scope: Scope) -> str:
    """Return the name under which the index stores a metadata property or a property of a suggestion."""
    return f"metadata.{scope.name}" if scope.entity == "metadata" else f"suggestion.{scope.property}.{scope.name}"


def microseconds(moment: datetime) -> int:
    """Return exact microseconds since 1970; a time without a zone is UTC."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _find_by_status(db: sqlite3.Connection, rows: Rows, condition: Terms | Range, *, dataset: int) -> Bitmap:
    if isinstance(condition, Range):
        return np.zeros(rows.size, dtype=bool)
    source, values = responses_of(condition.scope, dataset=dataset)
    statuses = [status for status in condition.values if status != "pending"]
    sql = f"SELECT s.record AS n FROM {source} AND s.status IN ({_marks(statuses)})"
    found = rows.bitmap(read_numbers(db, sql, [*values, *statuses]))
    if "pending" in condition.values:
        found |= rows.everything & ~rows.bitmap(read_numbers(db, f"SELECT s.record AS n FROM {source}", values))
    return found


def _record_test(condition: Terms | Range) -> Sql:
    column = condition.scope.name
    if column not in RECORD_COLUMNS:
        return NOTHING
    if column in ("inserted_at", "updated_at"):
        if isinstance(condition, Terms):
            times = [t for t in map(_timestamp, condition.values) if t is not None]
            return f"{column} IN ({_marks(times)})", times
        first = None if condition.ge is None else _timestamp(condition.ge)
        last = None if condition.le is None else _timestamp(condition.le, whole_day=True)
        if (first is None) != (condition.ge is None) or (last is None) != (condition.le is None):
            return NOTHING
        return _range_test(column, first, last)
    if isinstance(condition, Terms):
        return f"{column} IN ({_marks(condition.values)})", list(condition.values)
    return _range_test(column, *(None if b is None else str(b) for b in (condition.ge, condition.le)))


def _value_test(value: str, condition: Terms | Range) -> Sql:
    if isinstance(condition, Terms):
        # Values of filters arrive as text, but ratings and integer properties are stored as numbers.
        wanted = [*condition.values, *(n for n in map(_number, condition.values) if n is not None)]
        return f"{value} IN ({_marks(wanted)})", wanted
    bounds = [_number(b) if b is not None else None for b in (condition.ge, condition.le)]
    if any(given is not None and bound is None for given, bound in zip((condition.ge, condition.le), bounds, strict=True)):
        return NOTHING
    test, values = _range_test(value, *bounds)
    return f"typeof({value}) <> 'text' AND {test}", values


def _range_test(value: str, ge: Any, le: Any) -> Sql:
    tests = [(f"{value} >= ?", ge), (f"{value} <= ?", le)]
    kept = [(sql, bound) for sql, bound in tests if bound is not None]
    # A range without bounds still requires a value, as in Elasticsearch.
    return " AND ".join([f"{value} IS NOT NULL", *(sql for sql, _ in kept)]), [bound for _, bound in kept]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _number(value: float | str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _timestamp(value: float | str, *, whole_day: bool = False) -> int | None:
    """Return microseconds since 1970 of an ISO date or of a number of milliseconds (Elasticsearch's default date formats)."""
    number = _number(value)
    if number is not None:
        # Microseconds must fit into the 64 bits of SQLite's integers.
        return round(number * 1000) if abs(number) < 1e15 else None
    try:
        moment = microseconds(datetime.fromisoformat(str(value)))
        # A day without a time, as the upper bound of a range, includes the whole day.
        return moment + DAY - 1 if whole_day and len(str(value)) <= len("2026-01-01") else moment
    except (ValueError, OverflowError):
        return None
