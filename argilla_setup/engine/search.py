"""Questions to the index: search, similarity, counts. Totals are exact, pages are stable, nothing a person types is an error."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from argilla_setup.engine.documents import KEYWORD
from argilla_setup.engine.filters import Filter, Scope, attribute_name, find_holding
from argilla_setup.engine.fulltext import Column, Texts
from argilla_setup.engine.index import Index
from argilla_setup.engine.query import Node, parse_query
from argilla_setup.engine.record_fields import DatasetRow
from argilla_setup.engine.rows import Bitmap, Numbers, Rows, read_ids
from argilla_setup.engine.sorting import Sort, order_by_score, order_by_sorts, order_by_user

MOST_SIMILAR = 1000


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
        rows = index.rows.load(db, row.seq)
        texts, node = _read_text(db, row, rows, question)
        # Before the records are looked for: what is ranked is then found.
        ranked = texts.rank(node) if node is not None and not sort and user is None else None
        found = _find(texts, node, row, question)
        total = int(np.count_nonzero(found))
        scores: list[float | None] = []
        if offset >= total:
            return Page((), total)
        if sort:
            seqs = order_by_sorts(db, rows, found, dataset=row.seq, sorts=sort, offset=offset, limit=limit)
        elif user is not None:
            seqs = order_by_user(rows, found, user=user, offset=offset, limit=limit)
        elif ranked is not None:
            seqs, scores = order_by_score(found, *ranked, offset=offset, limit=limit)
        else:
            seqs = np.flatnonzero(found)[offset : offset + limit]
        # As in Elasticsearch: where nothing ranks the records each scores 1; where they are sorted by a value none has a score.
        return Page(_hits(db, seqs, scores or [None if sort else 1.0] * len(seqs)), total)


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
    """Return the `limit` records that match and whose vector is nearest by cosine; score (1 + cosine) / 2.

    As in Elasticsearch's k-nearest-neighbour search, the total counts the records that are returned: pages beyond them are empty.
    """
    with index.read() as db:
        row = index.find_dataset(dataset)
        if row is None:
            return Page()
        rows = index.rows.load(db, row.seq)
        found = _find(*_read_text(db, row, rows, question), row, question).copy()
        left_out = db.execute("SELECT seq FROM records WHERE id = ? AND dataset = ?", (excluded, row.seq)).fetchone()
        if left_out is not None:
            found[left_out[0]] = False
        matrix = index.vectors.load_matrix(db, row.vector(vector), dimensions=len(value))
        seqs, scores, total = matrix.nearest(value, among=found, limit=limit, threshold=threshold)
        return Page(_hits(db, seqs, scores.tolist()), min(total, limit, MOST_SIMILAR))


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


def _read_text(db: sqlite3.Connection, row: DatasetRow, rows: Rows, question: Question) -> tuple[Texts, Node | None]:
    """The fields that are asked about, and what is looked for in them."""
    names = (question.field, f"{question.field}{KEYWORD}")
    columns = tuple(Column(n, name) for n, name in enumerate(row.fields) if question.field is None or name in names)
    asked = question.text is not None and columns
    node = parse_query(str(question.text), keywords=any(column.is_keyword for column in columns)) if asked else None
    return Texts(db, row.table, columns, rows), node


def _find(texts: Texts, node: Node | None, row: DatasetRow, question: Question) -> Bitmap:
    rows = texts.rows
    if question.text is not None and node is None:
        return np.zeros(rows.size, dtype=bool)
    found = rows.everything if node is None else texts.find(node)
    return found if question.filter is None else found & find_holding(texts.db, rows, question.filter, dataset=row.seq)


def _hits(db: sqlite3.Connection, seqs: Numbers, scores: Sequence[float | None]) -> tuple[Hit, ...]:
    return tuple(map(Hit, read_ids(db, seqs), scores))
