"""Filters, sorts and text queries as SQL over the index's tables. Values only ever travel as parameters.

A response filter is nested: user and value must hold in the same response. `pending` means that the user (or, with none named,
anybody) has no response. Sorts put records without a value last; a user's several answers count by their average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from argilla_setup.engine.text import Sql, balanced

RECORD_COLUMNS = ("id", "external_id", "status", "inserted_at", "updated_at")


@dataclass(frozen=True)
class Scope:
    """What a filter or a sort looks at."""

    entity: Literal["record", "metadata", "suggestion", "response"]
    name: str | None = None
    """The record's column, the metadata property, or the question; None for a response's status."""
    property: str = "value"
    """Of a suggestion: value, score, agent or type."""
    user: str | None = None
    """Only this user's responses."""


@dataclass(frozen=True)
class Terms:
    """The value is one of these."""

    scope: Scope
    values: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """The value lies between these, both included."""

    scope: Scope
    ge: float | str | None = None
    le: float | str | None = None


@dataclass(frozen=True)
class All:
    """Every filter holds."""

    filters: tuple[Filter, ...]


Filter = Terms | Range | All


@dataclass(frozen=True)
class Sort:
    """What to order by; records without it come last."""

    scope: Scope
    descending: bool = False


DAY = 24 * 3600 * 1_000_000
NOTHING: Sql = ("0", [])


def filter_sql(condition: Filter, *, dataset: int) -> Sql:
    """A condition on `r`, the record. Each filter is a range of an index, so its cost is that of what it finds."""
    if isinstance(condition, All):
        return balanced([filter_sql(f, dataset=dataset) for f in condition.filters], "AND")
    scope = condition.scope
    if scope.entity == "record":
        return _record_condition(condition)
    if scope.entity == "response":
        return _response_condition(condition, dataset)
    test, values = _value_test("a.value", condition)
    sql = f"r.seq IN (SELECT a.record FROM attributes a WHERE a.dataset = ? AND a.name = ? AND {test})"
    return sql, [dataset, attribute_name(scope), *values]


def sort_sql(order: Sort) -> Sql:
    """One ORDER BY term; what has no value comes last either way."""
    scope, way, pick = order.scope, "DESC" if order.descending else "ASC", "max" if order.descending else "min"
    values: list[Any]
    if scope.entity == "record":
        value, values = (f"r.{scope.name}" if scope.name in RECORD_COLUMNS else "NULL"), []
    elif scope.entity == "response":
        value, values = _response_sort_value(scope, pick)
    else:
        value = f"(SELECT {pick}(a.value) FROM attributes a WHERE a.record = r.seq AND a.name = ?)"
        values = [attribute_name(scope)]
    return f"{value} {way} NULLS LAST", values


def microseconds(moment: datetime) -> int:
    """Since 1970, exactly; a time without a zone is UTC."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def attribute_name(scope: Scope) -> str:
    """The key under which the index keeps a metadata property or a part of a suggestion."""
    return f"metadata.{scope.name}" if scope.entity == "metadata" else f"suggestion.{scope.property}.{scope.name}"


def _record_condition(condition: Terms | Range) -> Sql:
    column = condition.scope.name
    if column not in RECORD_COLUMNS:
        return NOTHING
    if column in ("inserted_at", "updated_at"):
        if isinstance(condition, Terms):
            times = [t for t in map(_timestamp, condition.values) if t is not None]
            return f"r.{column} IN ({_marks(times)})", times
        first = None if condition.ge is None else _timestamp(condition.ge)
        last = None if condition.le is None else _timestamp(condition.le, whole_day=True)
        if (first is None) != (condition.ge is None) or (last is None) != (condition.le is None):
            return NOTHING
        return _range_test(f"r.{column}", first, last)
    if isinstance(condition, Terms):
        return f"r.{column} IN ({_marks(condition.values)})", list(condition.values)
    return _range_test(f"r.{column}", *(None if b is None else str(b) for b in (condition.ge, condition.le)))


def _response_condition(condition: Terms | Range, dataset: int) -> Sql:
    scope = condition.scope
    by_user, users = (" AND s.user = ?", [scope.user]) if scope.user else ("", [])
    if scope.name is not None:
        test, values = _value_test("v.value", condition)
        return (
            "r.seq IN (SELECT s.record FROM answers v JOIN responses s ON s.seq = v.response"
            f" WHERE v.dataset = ? AND v.question = ? AND {test}{by_user})"
        ), [dataset, scope.name, *values, *users]
    if isinstance(condition, Range):
        return NOTHING
    none_yet = f"r.seq NOT IN (SELECT s.record FROM responses s WHERE s.dataset = ?{by_user})", [dataset, *users]
    statuses = [v for v in condition.values if v != "pending"]
    some = (
        f"r.seq IN (SELECT s.record FROM responses s WHERE s.dataset = ?{by_user} AND s.status IN ({_marks(statuses)}))",
        [dataset, *users, *statuses],
    )
    if "pending" not in condition.values:
        return some
    return balanced([none_yet, some], "OR") if statuses else none_yet


def _response_sort_value(scope: Scope, pick: str) -> Sql:
    by_user, users = (" AND s.user = ?", [scope.user]) if scope.user else ("", [])
    if scope.name is None:
        return f"(SELECT {pick}(s.status) FROM responses s WHERE s.record = r.seq{by_user})", list(users)
    return (
        f"(SELECT CASE WHEN max(typeof(v.value)) = 'text' THEN {pick}(v.value) ELSE avg(v.value) END"
        f" FROM responses s JOIN answers v ON v.response = s.seq WHERE s.record = r.seq AND v.question = ?{by_user})"
    ), [scope.name, *users]


def _value_test(value: str, condition: Terms | Range) -> Sql:
    if isinstance(condition, Terms):
        # A filter's values arrive as text; a rating or an integer property is stored as a number.
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
    # Without bounds a range still asks for a value, as Elasticsearch's does.
    return " AND ".join([f"{value} IS NOT NULL", *(sql for sql, _ in kept)]), [bound for _, bound in kept]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _number(value: float | str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _timestamp(value: float | str, *, whole_day: bool = False) -> int | None:
    """Microseconds since 1970 of an ISO date, or of a number of milliseconds as Elasticsearch reads one; of a bare day its end."""
    number = _number(value)
    if number is not None:
        return round(number * 1000) if abs(number) < 1e15 else None
    try:
        moment = microseconds(datetime.fromisoformat(str(value)))
        return moment + DAY - 1 if whole_day and len(str(value)) <= len("2026-01-01") else moment
    except (ValueError, OverflowError):
        return None
