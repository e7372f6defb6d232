"""Questions to the index: search, similarity, counts. Totals are exact, pages are stable, nothing a person types is an error."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from argilla_setup.engine.documents import KEYWORD
from argilla_setup.engine.index import DatasetRow, Index
from argilla_setup.engine.query import parse_query
from argilla_setup.engine.text import Column, Sql, Texts
from argilla_setup.engine.where import NOTHING, Filter, Scope, Sort, attribute_name, filter_sql, sort_sql

MOST_SIMILAR = 1000
PRIME = 2_147_483_647


@dataclass(frozen=True)
class Hit:
    """A record found, with its likeness where one was asked for."""

    record: str
    score: float | None = None


@dataclass(frozen=True)
class Page:
    """The records of one page, and how many there are in all."""

    hits: tuple[Hit, ...] = ()
    total: int = 0


@dataclass(frozen=True)
class Question:
    """Which records: a text, in one field or in all, and filters."""

    text: str | None = None
    field: str | None = None
    filter: Filter | None = None


@dataclass(frozen=True)
class _Asked:
    """A question put to one dataset: which records, as SQL over `r`, the record."""

    source: str
    """What is read: the records, or the full-text table with the record beside each row."""
    condition: Sql
    score: str | None
    """The relevance, where the source can tell it."""
    ranking: str | None
    """The full-text expression that tells it otherwise."""
    table: str


def search(
    index: Index, dataset: str, *, question: Question, sort: Sequence[Sort] = (), offset: int = 0, limit: int = 100, user: str | None = None
) -> Page:
    """One page of the records that match.

    Order: the sort; else, for a user, shuffled in a way that is theirs and stays; else by relevance; else as they came.
    """
    with index.read() as db:
        row = index.find_dataset(dataset)
        if row is None:
            return Page()
        asked = _ask(db, row, question)
        condition, values = asked.condition
        (total,) = db.execute(f"SELECT count(*) FROM {asked.source} WHERE {condition}", values).fetchone()
        if offset >= total:
            return Page((), total)
        joined, score, order, before, after = _order_sql(asked, sort=sort, user=user)
        sql = f"SELECT r.id, {score} AS relevance FROM {asked.source} {joined} WHERE {condition} ORDER BY {order} LIMIT ? OFFSET ?"
        # SQLite's integers end at 64 bits.
        found = db.execute(sql, [*before, *values, *after, min(limit, 2**62), min(offset, 2**62)]).fetchall()
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
    with index.read() as db:
        row = index.find_dataset(dataset)
        if row is None:
            return Page()
        allowed = None
        if question.text is not None or question.filter is not None:
            asked = _ask(db, row, question)
            condition, values = asked.condition
            found = db.execute(f"SELECT r.seq FROM {asked.source} WHERE {condition}", values)
            allowed = np.fromiter((seq for (seq,) in found), dtype=np.int64)
        left_out = db.execute("SELECT seq FROM records WHERE id = ?", (excluded,)).fetchone()
        matrix = index.vectors.load_matrix(db, row.vector(vector), dimensions=len(value))
        records, scores, total = matrix.nearest(value, allowed=allowed, excluded=left_out[0] if left_out else None, limit=limit)
        if threshold is not None:
            records, scores = records[scores >= threshold], scores[scores >= threshold]
            total = len(records) if len(records) < limit else total
        names = {seq: db.execute("SELECT id FROM records WHERE seq = ?", (seq,)).fetchone()[0] for seq in records.tolist()}
    hits = tuple(Hit(names[seq], score) for seq, score in zip(records.tolist(), scores.tolist(), strict=True))
    return Page(hits, min(total, MOST_SIMILAR))


def count_statuses(index: Index, dataset: str) -> dict[str, int]:
    """Records by status."""
    row = index.find_dataset(dataset)
    seq = row.seq if row else -1
    return dict(index.db.execute("SELECT status, count(*) FROM records WHERE dataset = ? GROUP BY status", (seq,)).fetchall())


def count_responses(index: Index, dataset: str, *, user: str) -> dict[str, int]:
    """A user's responses by status."""
    row = index.find_dataset(dataset)
    sql = "SELECT status, count(*) FROM responses WHERE dataset = ? AND user = ? GROUP BY status"
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
    values = (row.seq if row else -1, attribute_name(Scope("metadata", metadata)))
    return index.db.execute(sql.format("FROM attributes a WHERE a.dataset = ? AND a.name = ?"), values).fetchall()


def _ask(db: sqlite3.Connection, row: DatasetRow, question: Question) -> _Asked:
    names = (question.field, f"{question.field}{KEYWORD}")
    columns = tuple(Column(n, name) for n, name in enumerate(row.fields) if question.field is None or name in names)
    texts = Texts(db, row.table, columns)
    node = None if question.text is None else parse_query(question.text, keywords=any(column.is_keyword for column in columns))
    parts: list[Sql] = [("r.dataset = ?", [row.seq])]
    source, score, ranking = "records r", None, None
    if question.text is not None and (node is None or not columns):
        parts.append(NOTHING)
    elif node is not None and (expression := texts.expression(node)) is not None:
        # From the words to the records: what a query costs is then what it finds.
        source, score = f"{row.table} k CROSS JOIN records r ON r.seq = k.rowid", f"-bm25({row.table})"
        parts.append((f"{row.table} MATCH ?", [expression]))
    elif node is not None:
        parts.append(texts.condition(node))
        ranking = texts.ranking_expression(node)
    if question.filter is not None:
        parts.append(filter_sql(question.filter, dataset=row.seq))
    condition = " AND ".join(f"({sql})" for sql, _ in parts), [value for _, values in parts for value in values]
    return _Asked(source, condition, score, ranking, row.table)


def _order_sql(asked: _Asked, *, sort: Sequence[Sort], user: str | None) -> tuple[str, str, str, list[Any], list[Any]]:
    """The join, the score's expression, the ORDER BY, and the values before and after those of the condition."""
    if sort:
        parts = [sort_sql(order) for order in sort]
        return "", "NULL", ", ".join([*(sql for sql, _ in parts), "r.seq"]), [], [value for _, values in parts for value in values]
    if user is not None:
        a, b, c, d = (int.from_bytes(part) % PRIME for part in _seed_parts(user))
        # Two rounds of a quadratic hash modulo a prime: no value leaves 62 bits, and SQLite needs no function of ours.
        once = f"((r.shuffle * {a} + {b}) % {PRIME})"
        return "", "NULL", f"(({once} * {once}) % {PRIME} * {c} + {d}) % {PRIME}, r.seq", [], []
    if asked.score is not None:
        return "", asked.score, "relevance DESC, r.seq", [], []
    if asked.ranking is None:
        return "", "NULL", "r.seq", [], []
    ranked = f"(SELECT rowid AS seq, -bm25({asked.table}) AS score FROM {asked.table} WHERE {asked.table} MATCH ?)"
    return f"LEFT JOIN {ranked} k ON k.seq = r.seq", "k.score", "k.score DESC NULLS LAST, r.seq", [asked.ranking], []


def _seed_parts(user: str) -> list[bytes]:
    digest = blake2b(user.encode(), digest_size=16).digest()
    return [digest[n : n + 4] for n in range(0, 16, 4)]
