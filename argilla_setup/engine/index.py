"""The index: one SQLite file (WAL) that holds what Argilla searches by, for all datasets, and answers exactly.

Every write is one transaction and is seen by the next read. A record keeps its `seq` when it is updated, so pages stay stable.
Nothing here knows Argilla; `adapter` translates.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from argilla_setup.engine import text
from argilla_setup.engine.documents import RecordDoc, ResponseDoc, SuggestionDoc, searchable_values
from argilla_setup.engine.vectors import VectorCache, raise_generation, write_vector
from argilla_setup.engine.where import Scope, attribute_name

SCHEMA = """
CREATE TABLE IF NOT EXISTS datasets (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, fields TEXT NOT NULL, questions TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY, dataset INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, external_id TEXT, status TEXT NOT NULL,
    inserted_at REAL, updated_at REAL, shuffle INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS records_by_dataset ON records (dataset, status);
CREATE TABLE IF NOT EXISTS attributes (record INTEGER NOT NULL, name TEXT NOT NULL, value NOT NULL, PRIMARY KEY (record, name, value))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS responses (seq INTEGER PRIMARY KEY, record INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, user TEXT, status TEXT);
CREATE INDEX IF NOT EXISTS responses_by_record ON responses (record, user, status);
CREATE TABLE IF NOT EXISTS answers (
    response INTEGER NOT NULL, question TEXT NOT NULL, value NOT NULL, PRIMARY KEY (response, question, value)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vectors (record INTEGER NOT NULL, vector TEXT NOT NULL, value BLOB NOT NULL, UNIQUE (record, vector));
CREATE INDEX IF NOT EXISTS vectors_by_name ON vectors (vector);
CREATE TABLE IF NOT EXISTS generations (vector TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""
SEARCHED_QUESTIONS = frozenset({"label_selection", "multi_label_selection", "rating"})


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


class Index:
    """The file. Safe to use from several threads: each gets its own connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.vectors = VectorCache()
        self._local = threading.local()
        with self.write() as db:
            for statement in SCHEMA.split(";"):
                db.execute(statement)

    @property
    def db(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._local, "db"):
            db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            self._local.db = db
        return self._local.db  # type: ignore[no-any-return]

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction; the lock is taken at its start, so two processes wait for each other instead of failing."""
        db = self.db
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def find_dataset(self, dataset: str) -> DatasetRow | None:
        """The dataset's row, when it has been created."""
        row = self.db.execute("SELECT seq, fields, questions FROM datasets WHERE id = ?", (dataset,)).fetchone()
        return None if row is None else DatasetRow(row[0], tuple(json.loads(row[1])), json.loads(row[2]))

    def create_dataset(self, dataset: str, *, fields: Sequence[str], questions: Mapping[str, str]) -> None:
        """Make room for a dataset's records; what an earlier one of the same id left is removed."""
        self.delete_dataset(dataset)
        with self.write() as db:
            cursor = db.execute(
                "INSERT INTO datasets (id, fields, questions) VALUES (?, ?, ?)",
                (dataset, json.dumps(list(fields)), json.dumps(dict(questions))),
            )
            text.create_table(db, f"text_{cursor.lastrowid}", columns=len(fields))

    def delete_dataset(self, dataset: str) -> None:
        """Forget a dataset and its records; nothing happens when there is none."""
        row = self.find_dataset(dataset)
        if row is None:
            return
        with self.write() as db:
            mine = "(SELECT seq FROM records WHERE dataset = ?)"
            db.execute(f"DELETE FROM answers WHERE response IN (SELECT seq FROM responses WHERE record IN {mine})", (row.seq,))
            for table in ("responses", "attributes", "vectors"):
                db.execute(f"DELETE FROM {table} WHERE record IN {mine}", (row.seq,))
            db.execute("DELETE FROM records WHERE dataset = ?", (row.seq,))
            db.execute("DELETE FROM datasets WHERE seq = ?", (row.seq,))
            text.drop_table(db, row.table)

    def put_records(self, dataset: str, docs: Sequence[RecordDoc]) -> None:
        """Add records or replace them whole."""
        row = self.find_dataset(dataset)
        if row is None:
            raise LookupError(f"the index has no dataset {dataset}; run search-engine reindex")
        with self.write() as db:
            for doc in docs:
                seq = _put_record(db, row, doc)
                text.put_text(db, row.table, seq=seq, texts=[doc.fields.get(name, "") for name in row.fields])
                _put_details(db, row, seq=seq, doc=doc)
            raise_generation(db, sorted({vector for doc in docs for vector in doc.vectors}))

    def delete_records(self, dataset: str, records: Sequence[str]) -> None:
        """Forget these records."""
        row = self.find_dataset(dataset)
        if row is None:
            return
        with self.write() as db:
            for record in records:
                seq = _find_seq(db, record)
                if seq is None:
                    continue
                _delete_details(db, seq)
                text.delete_text(db, row.table, seq=seq)
                db.execute("DELETE FROM records WHERE seq = ?", (seq,))
            # Rows have gone from matrices that other threads may hold.
            raise_generation(db, [vector for (vector,) in db.execute("SELECT vector FROM generations").fetchall()])

    def set_status(self, record: str, status: str) -> bool:
        """Set a record's status; False when the index does not hold the record."""
        with self.write() as db:
            return db.execute("UPDATE records SET status = ? WHERE id = ?", (status, record)).rowcount > 0

    def put_response(self, dataset: str, record: str, response: ResponseDoc) -> bool:
        """Add a response or replace the one with its id; False when the index does not hold the record."""
        row = self.find_dataset(dataset)
        with self.write() as db:
            seq = _find_seq(db, record)
            if seq is None or row is None:
                return False
            _delete_response(db, response.id)
            _put_response(db, row, seq=seq, response=response)
        return True

    def delete_response(self, response: str) -> None:
        """Forget a response."""
        with self.write() as db:
            _delete_response(db, response)

    def put_suggestion(self, dataset: str, record: str, suggestion: SuggestionDoc) -> bool:
        """Add a suggestion or replace the one for its question; False when the index does not hold the record."""
        row = self.find_dataset(dataset)
        with self.write() as db:
            seq = _find_seq(db, record)
            if seq is None or row is None:
                return False
            _delete_suggestion(db, seq, suggestion.question)
            _put_suggestion(db, row, seq=seq, suggestion=suggestion)
        return True

    def delete_suggestion(self, record: str, question: str) -> None:
        """Forget a record's suggestion for a question."""
        with self.write() as db:
            seq = _find_seq(db, record)
            if seq is not None:
                _delete_suggestion(db, seq, question)


def _put_record(db: sqlite3.Connection, row: DatasetRow, doc: RecordDoc) -> int:
    # The order shown to annotators hangs on the id, not on `seq`, so that rebuilding the index does not reshuffle anybody's queue.
    shuffle = int.from_bytes(blake2b(doc.id.encode(), digest_size=4).digest()) >> 1
    values = (row.seq, doc.id, doc.external_id, doc.status, doc.inserted_at, doc.updated_at, shuffle)
    db.execute(
        "INSERT INTO records (dataset, id, external_id, status, inserted_at, updated_at, shuffle) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET dataset = excluded.dataset, external_id = excluded.external_id, status = excluded.status,"
        " inserted_at = excluded.inserted_at, updated_at = excluded.updated_at",
        values,
    )
    seq = _find_seq(db, doc.id)
    assert seq is not None
    return seq


def _put_details(db: sqlite3.Connection, row: DatasetRow, *, seq: int, doc: RecordDoc) -> None:
    _delete_details(db, seq)
    # All metadata is kept, declared or not: a property added later finds the values that are already there.
    for name, value in doc.metadata.items():
        _put_attribute(db, seq, attribute_name(Scope("metadata", name)), value)
    for suggestion in doc.suggestions:
        _put_suggestion(db, row, seq=seq, suggestion=suggestion)
    for response in doc.responses:
        _put_response(db, row, seq=seq, response=response)
    for vector, value in doc.vectors.items():
        write_vector(db, seq, vector=vector, value=value)


def _delete_details(db: sqlite3.Connection, seq: int) -> None:
    db.execute("DELETE FROM answers WHERE response IN (SELECT seq FROM responses WHERE record = ?)", (seq,))
    for table in ("responses", "attributes", "vectors"):
        db.execute(f"DELETE FROM {table} WHERE record = ?", (seq,))


def _put_attribute(db: sqlite3.Connection, seq: int, name: str, value: Any) -> None:
    rows = [(seq, name, item) for item in searchable_values(value)]
    db.executemany("INSERT OR IGNORE INTO attributes (record, name, value) VALUES (?, ?, ?)", rows)


def _put_suggestion(db: sqlite3.Connection, row: DatasetRow, *, seq: int, suggestion: SuggestionDoc) -> None:
    parts = {"score": suggestion.score, "agent": suggestion.agent, "type": suggestion.type}
    if row.questions.get(suggestion.question) in SEARCHED_QUESTIONS:
        parts["value"] = suggestion.value
    for part, value in parts.items():
        _put_attribute(db, seq, attribute_name(Scope("suggestion", suggestion.question, part)), value)


def _delete_suggestion(db: sqlite3.Connection, seq: int, question: str) -> None:
    names = [(seq, attribute_name(Scope("suggestion", question, part))) for part in ("value", "score", "agent", "type")]
    db.executemany("DELETE FROM attributes WHERE record = ? AND name = ?", names)


def _put_response(db: sqlite3.Connection, row: DatasetRow, *, seq: int, response: ResponseDoc) -> None:
    sql = "INSERT INTO responses (record, id, user, status) VALUES (?, ?, ?, ?)"
    number = db.execute(sql, (seq, response.id, response.user, response.status)).lastrowid
    answers = [
        (number, question, item)
        for question, value in response.values.items()
        if row.questions.get(question) in SEARCHED_QUESTIONS
        for item in searchable_values(value)
    ]
    db.executemany("INSERT OR IGNORE INTO answers (response, question, value) VALUES (?, ?, ?)", answers)


def _delete_response(db: sqlite3.Connection, response: str) -> None:
    db.execute("DELETE FROM answers WHERE response IN (SELECT seq FROM responses WHERE id = ?)", (response,))
    db.execute("DELETE FROM responses WHERE id = ?", (response,))


def _find_seq(db: sqlite3.Connection, record: str) -> int | None:
    row = db.execute("SELECT seq FROM records WHERE id = ?", (record,)).fetchone()
    return None if row is None else int(row[0])
