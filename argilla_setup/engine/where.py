"""Filters, sorts and text queries as SQL over the index's tables. Values only ever travel as parameters.

A response filter is nested: user and value must hold in the same response. `pending` means that the user (or, with none named,
anybody) has no response. Sorts put records without a value last; a user's several answers count by their average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from argilla_setup.engine.query import Both, Leaf, Node, Not

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


Sql = tuple[str, list[Any]]
NOTHING: Sql = ("0", [])


def filter_sql(condition: Filter) -> Sql:
    """A condition on `r`, the record."""
    if isinstance(condition, All):
        return _balanced([filter_sql(f) for f in condition.filters], "AND")
    scope = condition.scope
    if scope.entity == "record":
        return _record_condition(condition)
    if scope.entity == "response":
        return _response_condition(condition)
    test, values = _value_test("a.value", condition)
    return f"EXISTS (SELECT 1 FROM attributes a WHERE a.record = r.seq AND a.name = ? AND {test})", [attribute_name(scope), *values]


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
    return f"{value} IS NULL, {value} {way}", values * 2


def text_sql(node: Node, *, table: str, match: Callable[[Leaf], str]) -> Sql:
    """The condition of a parsed query; each word is one look into the full-text table, so negation works anywhere."""
    if isinstance(node, Leaf):
        return f"r.seq IN (SELECT rowid FROM {table} WHERE {table} MATCH ?)", [match(node)]
    if isinstance(node, Not):
        sql, values = text_sql(node.node, table=table, match=match)
        return f"NOT ({sql})", values
    parts = [text_sql(child, table=table, match=match) for child in node.nodes]
    return _balanced(parts, "AND" if isinstance(node, Both) else "OR")


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
        bounds = [None if b is None else _timestamp(b) for b in (condition.ge, condition.le)]
        if any(given is not None and bound is None for given, bound in zip((condition.ge, condition.le), bounds, strict=True)):
            return NOTHING
        return _range_test(f"r.{column}", *bounds)
    if isinstance(condition, Terms):
        return f"r.{column} IN ({_marks(condition.values)})", list(condition.values)
    return _range_test(f"r.{column}", *(None if b is None else str(b) for b in (condition.ge, condition.le)))


def _response_condition(condition: Terms | Range) -> Sql:
    scope = condition.scope
    by_user, users = (" AND s.user = ?", [scope.user]) if scope.user else ("", [])
    if scope.name is not None:
        test, values = _value_test("v.value", condition)
        return (
            "EXISTS (SELECT 1 FROM responses s JOIN answers v ON v.response = s.seq"
            f" WHERE s.record = r.seq AND v.question = ? AND {test}{by_user})"
        ), [scope.name, *values, *users]
    if isinstance(condition, Range):
        return NOTHING
    none_yet = f"NOT EXISTS (SELECT 1 FROM responses s WHERE s.record = r.seq{by_user})", users
    statuses = [v for v in condition.values if v != "pending"]
    some = f"EXISTS (SELECT 1 FROM responses s WHERE s.record = r.seq AND s.status IN ({_marks(statuses)}){by_user})", [*statuses, *users]
    if "pending" not in condition.values:
        return some
    return _balanced([none_yet, some], "OR") if statuses else none_yet


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


def _balanced(parts: Sequence[Sql], word: str) -> Sql:
    """Join conditions as a tree of even depth: SQLite refuses expressions nested more than a thousand deep."""
    if not parts:
        return "1", []
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    (left, left_values), (right, right_values) = _balanced(parts[:half], word), _balanced(parts[half:], word)
    return f"({left}) {word} ({right})", [*left_values, *right_values]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _number(value: float | str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _timestamp(value: float | str) -> float | None:
    """Seconds since 1970 of an ISO date, or of a number of milliseconds as Elasticsearch reads one."""
    number = _number(value)
    if number is not None:
        return number / 1000
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
