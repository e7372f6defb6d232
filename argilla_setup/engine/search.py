"""Questions to the index: search, similarity, counts. Totals are exact, pages are stable, nothing a person types is an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from argilla_setup.engine import text
from argilla_setup.engine.index import DatasetRow, Index
from argilla_setup.engine.query import Node, parse_query
from argilla_setup.engine.vectors import rank_by_cosine
from argilla_setup.engine.where import NOTHING, Filter, Scope, Sort, Sql, attribute_name, filter_sql, sort_sql, text_sql

MOST_SIMILAR = 1000
PRIME = 2_147_483_647


@dataclass(frozen=True)
class Hit:
    record: str
    score: float | None = None


@dataclass(frozen=True)
class Page:
    hits: tuple[Hit, ...] = ()
    total: int = 0


@dataclass(frozen=True)
class Question:
    """Which records: a text, in one field or in all, and filters."""

    text: str | None = None
    field: str | None = None
    filter: Filter | None = None


def search(
    index: Index, dataset: str, *, question: Question, sort: Sequence[Sort] = (), offset: int = 0, limit: int = 100, user: str | None = None
) -> Page:
    """One page of the records that match.

    Order: the sort; else, for a user, shuffled in a way that is theirs and stays; else by relevance; else as they came.
    """
    row = index.find_dataset(dataset)
    if row is None:
        return Page()
    node = None if question.text is None else parse_query(question.text)
    condition, values = _condition_sql(index, row, question=question, node=node)
    (total,) = index.db.execute(f"SELECT count(*) FROM records r WHERE {condition}", values).fetchone()
    joined, score, order, order_values = _order_sql(index, row, question=question, node=node, sort=sort, user=user)
    sql = f"SELECT r.id, {score} FROM records r {joined} WHERE {condition} ORDER BY {order} LIMIT ? OFFSET ?"
    before, after = order_values
    found = index.db.execute(sql, [*before, *values, *after, limit, offset]).fetchall()
    return Page(tuple(Hit(record, relevance) for record, relevance in found), total)


def search_similar(
    index: Index,
    dataset: str,
    *,
    vector: str,
    value: Sequence[float],
    question: Question,
    excluded: str | None = None,
    limit: int = 100,
    threshold: float | None = None,
) -> Page:
    """The records whose vector is nearest by cosine, among those that match; score (1 + cosine) / 2."""
    row = index.find_dataset(dataset)
    if row is None:
        return Page()
    node = None if question.text is None else parse_query(question.text)
    condition, values = _condition_sql(index, row, question=question, node=node)
    ids = dict(index.db.execute(f"SELECT r.seq, r.id FROM records r WHERE {condition}", values).fetchall())
    matrix = index.vectors.load_matrix(index.db, vector, dimensions=len(value))
    allowed = np.array([seq for seq, record in ids.items() if record != excluded], dtype=np.int64)
    records, scores = rank_by_cosine(matrix, value, allowed=allowed)
    if threshold is not None:
        records, scores = records[scores >= threshold], scores[scores >= threshold]
    hits = tuple(Hit(ids[int(seq)], float(score)) for seq, score in zip(records[:limit], scores[:limit], strict=True))
    return Page(hits, min(len(records), MOST_SIMILAR))


def count_statuses(index: Index, dataset: str) -> dict[str, int]:
    """Records by status."""
    row = index.find_dataset(dataset)
    seq = row.seq if row else -1
    return dict(index.db.execute("SELECT status, count(*) FROM records WHERE dataset = ? GROUP BY status", (seq,)).fetchall())


def count_responses(index: Index, dataset: str, *, user: str) -> dict[str, int]:
    """A user's responses by status."""
    row = index.find_dataset(dataset)
    sql = (
        "SELECT s.status, count(*) FROM responses s JOIN records r ON r.seq = s.record WHERE r.dataset = ? AND s.user = ? GROUP BY s.status"
    )
    return dict(index.db.execute(sql, (row.seq if row else -1, user)).fetchall())


def count_terms(index: Index, dataset: str, *, metadata: str) -> list[tuple[str, int]]:
    """A metadata property's values with the number of records that hold each, most frequent first."""
    sql = "SELECT a.value, count(*) AS n {} GROUP BY a.value ORDER BY n DESC, a.value"
    return [(str(value), count) for value, count in _metadata_rows(index, dataset, sql=sql, metadata=metadata)]


def find_extent(index: Index, dataset: str, *, metadata: str) -> tuple[float | None, float | None]:
    """A numeric metadata property's least and greatest value."""
    sql = "SELECT min(a.value), max(a.value) {} AND typeof(a.value) <> 'text'"
    ((least, greatest),) = _metadata_rows(index, dataset, sql=sql, metadata=metadata)
    return least, greatest


def _metadata_rows(index: Index, dataset: str, *, sql: str, metadata: str) -> list[Any]:
    row = index.find_dataset(dataset)
    source = "FROM records r JOIN attributes a ON a.record = r.seq WHERE r.dataset = ? AND a.name = ?"
    values = (row.seq if row else -1, attribute_name(Scope("metadata", metadata)))
    return index.db.execute(sql.format(source), values).fetchall()


def _condition_sql(index: Index, row: DatasetRow, *, question: Question, node: Node | None) -> Sql:
    parts: list[Sql] = [("r.dataset = ?", [row.seq])]
    if question.text is not None:
        parts.append(_text_condition(index, row, question=question, node=node))
    if question.filter is not None:
        parts.append(filter_sql(question.filter))
    return " AND ".join(f"({sql})" for sql, _ in parts), [value for _, values in parts for value in values]


def _text_condition(index: Index, row: DatasetRow, *, question: Question, node: Node | None) -> Sql:
    if node is None or (question.field is not None and question.field not in row.fields):
        return NOTHING
    column = _column(row, question)
    return text_sql(node, table=row.table, match=lambda leaf: text.match_expression(index.db, row.table, leaf=leaf, column=column))


def _column(row: DatasetRow, question: Question) -> int | None:
    return None if question.field is None else row.fields.index(question.field)


def _order_sql(
    index: Index, row: DatasetRow, *, question: Question, node: Node | None, sort: Sequence[Sort], user: str | None
) -> tuple[str, str, str, tuple[list[Any], list[Any]]]:
    """The join, the score's expression, the ORDER BY, and the values before and after those of the condition."""
    if sort:
        parts = [sort_sql(order) for order in sort]
        return "", "NULL", ", ".join([*(sql for sql, _ in parts), "r.seq"]), ([], [value for _, values in parts for value in values])
    if user is not None:
        a, b, c, d = (int.from_bytes(part) % PRIME for part in _seed_parts(user))
        # Two rounds of a quadratic hash modulo a prime: no value leaves 62 bits, and SQLite needs no function of ours.
        once = f"((r.shuffle * {a} + {b}) % {PRIME})"
        return "", "NULL", f"(({once} * {once}) % {PRIME} * {c} + {d}) % {PRIME}, r.seq", ([], [])
    expression = None
    if node is not None and (question.field is None or question.field in row.fields):
        expression = text.ranking_expression(index.db, row.table, node=node, column=_column(row, question))
    if expression is None:
        return "", "NULL", "r.seq", ([], [])
    ranked = f"(SELECT rowid AS seq, -bm25({row.table}) AS score FROM {row.table} WHERE {row.table} MATCH ?)"
    return f"LEFT JOIN {ranked} k ON k.seq = r.seq", "k.score", "k.score IS NULL, k.score DESC, r.seq", ([expression], [])


def _seed_parts(user: str) -> list[bytes]:
    digest = blake2b(user.encode(), digest_size=16).digest()
    return [digest[n : n + 4] for n in range(0, 16, 4)]
