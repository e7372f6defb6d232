"""What hangs on a record, as rows: metadata, suggestions, responses with their answers, vectors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from argilla_setup.engine.documents import RecordDoc, ResponseDoc, SuggestionDoc, searchable_values
from argilla_setup.engine.filters import Scope, attribute_name
from argilla_setup.engine.vectors import delete_vectors, put_vectors

SEARCHED_QUESTIONS = frozenset({"label_selection", "multi_label_selection", "rating"})
DETAILS = ("responses", "attributes", "suggestions")


@dataclass(frozen=True)
class DatasetRow:
    """A dataset as the index keeps it."""

    seq: int
    fields: tuple[str, ...]
    questions: Mapping[str, str]
    """Type by name."""

    @property
    def table(self) -> str:
        """Its full-text table."""
        return f"text_{self.seq}"

    def vector(self, name: str) -> str:
        """A vector's name among those of all datasets."""
        return f"{self.seq}/{name}"


def put_details(db: sqlite3.Connection, row: DatasetRow, rows: Sequence[tuple[int, RecordDoc]]) -> None:
    """Add what hangs on these records, whose earlier details are gone."""
    # All metadata is kept, declared or not: a property added later finds the values that are already there.
    _put_attributes(
        db, row, [(seq, attribute_name(Scope("metadata", name)), value) for seq, doc in rows for name, value in doc.metadata.items()]
    )
    put_suggestions(db, row, [(seq, suggestion) for seq, doc in rows for suggestion in doc.suggestions])
    put_responses(db, row, [(seq, response) for seq, doc in rows for response in doc.responses])
    vectors = [(seq, {row.vector(name): value for name, value in doc.vectors.items()}) for seq, doc in rows]
    delete_vectors(db, [seq for seq, held in vectors if _vector_names(db, seq) - set(held)])
    put_vectors(db, row.seq, vectors)


def delete_details(db: sqlite3.Connection, seqs: Sequence[int]) -> None:
    """Forget what hangs on these records, but for their vectors: those stay while they are named again."""
    records = [(seq,) for seq in seqs]
    db.executemany("DELETE FROM answers WHERE response IN (SELECT seq FROM responses WHERE record = ?)", records)
    for table in DETAILS:
        db.executemany(f"DELETE FROM {table} WHERE record = ?", records)


def put_suggestions(db: sqlite3.Connection, row: DatasetRow, suggestions: Sequence[tuple[int, SuggestionDoc]]) -> None:
    """Add suggestions to records."""
    db.executemany(
        "INSERT OR REPLACE INTO suggestions (record, question, dataset, updated_at) VALUES (?, ?, ?, ?)",
        [(seq, suggestion.question, row.seq, suggestion.updated_at) for seq, suggestion in suggestions],
    )
    parts: list[tuple[int, str, Any]] = []
    for seq, suggestion in suggestions:
        held = {"score": suggestion.score, "agent": suggestion.agent, "type": suggestion.type}
        if row.questions.get(suggestion.question) in SEARCHED_QUESTIONS:
            held["value"] = suggestion.value
        parts += [(seq, attribute_name(Scope("suggestion", suggestion.question, part)), value) for part, value in held.items()]
    _put_attributes(db, row, parts)


def delete_suggestion(db: sqlite3.Connection, seq: int, question: str) -> None:
    """Forget a record's suggestion for a question."""
    names = [(seq, attribute_name(Scope("suggestion", question, part))) for part in ("value", "score", "agent", "type")]
    db.executemany("DELETE FROM attributes WHERE record = ? AND name = ?", names)
    db.execute("DELETE FROM suggestions WHERE record = ? AND question = ?", (seq, question))


def put_responses(db: sqlite3.Connection, row: DatasetRow, responses: Sequence[tuple[int, ResponseDoc]]) -> None:
    """Add responses to records, with the answers that are searched by."""
    sql = "INSERT OR REPLACE INTO responses (record, dataset, id, user, status, updated_at) VALUES (?, ?, ?, ?, ?, ?)"
    answers: list[tuple[int | None, str, Any, int]] = []
    for seq, response in responses:
        number = db.execute(sql, (seq, row.seq, response.id, response.user, response.status, response.updated_at)).lastrowid
        answers += [
            (number, question, item, row.seq)
            for question, value in response.values.items()
            if row.questions.get(question) in SEARCHED_QUESTIONS
            for item in searchable_values(value)
        ]
    db.executemany("INSERT OR IGNORE INTO answers (response, question, value, dataset) VALUES (?, ?, ?, ?)", answers)


def delete_response(db: sqlite3.Connection, response: str) -> None:
    """Forget a response and its answers."""
    db.execute("DELETE FROM answers WHERE response IN (SELECT seq FROM responses WHERE id = ?)", (response,))
    db.execute("DELETE FROM responses WHERE id = ?", (response,))


def _vector_names(db: sqlite3.Connection, seq: int) -> set[str]:
    return {name for (name,) in db.execute("SELECT vector FROM vectors WHERE record = ?", (seq,))}


def _put_attributes(db: sqlite3.Connection, row: DatasetRow, values: Iterable[tuple[int, str, Any]]) -> None:
    rows = [(seq, name, item, row.seq) for seq, name, value in values for item in searchable_values(value)]
    db.executemany("INSERT OR IGNORE INTO attributes (record, name, value, dataset) VALUES (?, ?, ?, ?)", rows)
