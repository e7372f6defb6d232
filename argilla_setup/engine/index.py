"""The search index: one SQLite file in WAL mode with the searchable values of all datasets.

Every write is one transaction and is visible to the next read. A record keeps its `seq` when it is updated, so that pages stay stable.
Metadata, suggestions, responses and answers are stored as rows of their own, which SQLite indexes. This module does not depend on Argilla;
`adapter` translates.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from argilla_setup.engine import fulltext
from argilla_setup.engine.documents import RecordDoc, ResponseDoc, SuggestionDoc, searchable_values
from argilla_setup.engine.filters import Scope, attribute_name
from argilla_setup.engine.rows import RowCache, raise_generation
from argilla_setup.engine.schema import prepare_schema
from argilla_setup.engine.vectors import VectorCache, delete_vectors, put_vectors

CACHE_MB = 64
SEARCHED_QUESTIONS = frozenset({"label_selection", "multi_label_selection", "rating"})
"""Types of questions whose answers can be filtered and sorted by."""
DETAIL_TABLES = ("responses", "attributes", "suggestions")
"""Tables with rows of a record, except `answers` and `vectors`."""


class InconsistentIndex(LookupError):
    """The index contradicts the database: it has one record in two datasets."""


@dataclass(frozen=True)
class DatasetRow:
    """A dataset in the index."""

    seq: int
    fields: tuple[str, ...]
    questions: Mapping[str, str]
    """Type by name."""

    @property
    def table(self) -> str:
        """The name of its full-text table."""
        return f"text_{self.seq}"

    def vector(self, name: str) -> str:
        """Return the name of a vector, unique among all datasets."""
        return f"{self.seq}/{name}"


class Index:
    """The index file. Threads may share an instance: each gets a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = RowCache()
        self.vectors = VectorCache()
        self._local = threading.local()
        self._writing = threading.Lock()
        with self.write() as db:
            prepare_schema(db)

    @property
    def db(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._local, "db"):
            db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            # A power failure may lose the last commits, which the check at the next start repairs.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA cache_size = -{CACHE_MB * 1024}")
            # Up to 1 GB is read through the page cache without a copy.
            db.execute("PRAGMA mmap_size = 1073741824")
            self._local.db = db
        return self._local.db  # type: ignore[no-any-return]

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Return a connection inside a write transaction, for a `with` block."""
        db = self.db
        # Threads of one process queue here: SQLite would let them sleep and retry.
        with self._writing:
            # Locked from the start, so that two processes wait for each other instead of failing at their first write.
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Return a connection inside a read transaction, for a `with` block: writes of others are invisible in it."""
        db = self.db
        # Inside a write transaction of this thread, reads must see its changes.
        if db.in_transaction:
            yield db
            return
        db.execute("BEGIN")
        try:
            yield db
        finally:
            db.execute("ROLLBACK")

    def find_dataset(self, dataset: str) -> DatasetRow | None:
        """Return the dataset, or None if it was not created."""
        row = self.db.execute("SELECT seq, fields, questions FROM datasets WHERE id = ?", (dataset,)).fetchone()
        return None if row is None else DatasetRow(row[0], tuple(json.loads(row[1])), json.loads(row[2]))

    def create_dataset(self, dataset: str, *, fields: Sequence[str], questions: Mapping[str, str]) -> None:
        """Create a dataset; an existing one with this id is deleted.

        Args:
            dataset: id of the dataset.
            fields: names of the searched fields.
            questions: types of the questions by name.
        """
        self.delete_dataset(dataset)
        with self.write() as db:
            cursor = db.execute(
                "INSERT INTO datasets (id, fields, questions) VALUES (?, ?, ?)",
                (dataset, json.dumps(list(fields)), json.dumps(dict(questions))),
            )
            fulltext.create_table(db, f"text_{cursor.lastrowid}", columns=len(fields))

    def delete_dataset(self, dataset: str) -> None:
        """Delete a dataset and its records, if it exists."""
        with self.write() as db:
            row = self.find_dataset(dataset)
            if row is None:
                return
            names = [name for (name,) in db.execute("SELECT DISTINCT vector FROM vectors WHERE dataset = ?", (row.seq,))]
            # Other processes hold these in memory and notice the deletion by the epoch.
            for name in (*names, str(row.seq)):
                raise_generation(db, name, "epoch")
            for table in ("answers", "vectors", *DETAIL_TABLES, "records"):
                db.execute(f"DELETE FROM {table} WHERE dataset = ?", (row.seq,))
            db.execute("DELETE FROM datasets WHERE seq = ?", (row.seq,))
            fulltext.drop_table(db, row.table)
        self.rows.forget(row.seq)
        self.vectors.forget(names)

    def put_records(self, dataset: str, docs: Sequence[RecordDoc]) -> None:
        """Add records; existing ones with the same ids are replaced completely."""
        with self.write() as db:
            row = self.find_dataset(dataset)
            if row is None:
                raise LookupError(f"the index has no dataset {dataset}; run `search-engine reindex`")
            # If an id occurs twice in a batch, the later record wins, as it would in two batches.
            docs = list({doc.id: doc for doc in docs}.values())
            seqs = [_put_record(db, row, doc) for doc in docs]
            _delete_details(db, seqs)
            values = [(seq, [doc.fields.get(name, "") for name in row.fields]) for seq, doc in zip(seqs, docs, strict=True)]
            fulltext.put_texts(db, row.table, columns=row.fields, rows=values)
            _put_details(db, row, list(zip(seqs, docs, strict=True)))
            raise_generation(db, str(row.seq), "changed")

    def delete_records(self, dataset: str, records: Sequence[str]) -> None:
        """Delete records."""
        with self.write() as db:
            row = self.find_dataset(dataset)
            if row is None:
                return
            seqs = [seq for seq in (_find_seq(db, record) for record in records) if seq is not None]
            _delete_details(db, seqs)
            delete_vectors(db, seqs)
            fulltext.delete_texts(db, row.table, seqs)
            db.executemany("DELETE FROM records WHERE seq = ?", [(seq,) for seq in seqs])
            raise_generation(db, str(row.seq), "epoch")

    def set_status(self, record: str, status: str, *, updated_at: int | None = None) -> bool:
        """Set a record's status.

        Args:
            record: id of the record.
            status: the new status.
            updated_at: microseconds since 1970; None keeps the time.

        Returns:
            False if the index does not have the record.
        """
        with self.write() as db:
            sql = "UPDATE records SET status = ?, updated_at = coalesce(?, updated_at) WHERE id = ?"
            return db.execute(sql, (status, updated_at, record)).rowcount > 0

    def put_response(self, dataset: str, record: str, response: ResponseDoc) -> bool:
        """Add a response or replace the one with its id.

        Args:
            dataset: id of the dataset.
            record: id of the record.
            response: the response.

        Returns:
            False if the index does not have the record.
        """
        with self.write() as db:
            row, seq = self.find_dataset(dataset), _find_seq(db, record)
            if seq is None or row is None:
                return False
            held = db.execute("SELECT updated_at FROM responses WHERE id = ?", (response.id,)).fetchone()
            # Requests may arrive here in another order than in the database: the later state stays.
            if held and held[0] and response.updated_at and held[0] > response.updated_at:
                return True
            _delete_response(db, response.id)
            _put_responses(db, row, [(seq, response)])
        return True

    def delete_response(self, response: str) -> None:
        """Delete a response."""
        with self.write() as db:
            _delete_response(db, response)

    def put_suggestion(self, dataset: str, record: str, suggestion: SuggestionDoc) -> bool:
        """Add a suggestion or replace the one for its question.

        Args:
            dataset: id of the dataset.
            record: id of the record.
            suggestion: the suggestion.

        Returns:
            False if the index does not have the record.
        """
        with self.write() as db:
            row, seq = self.find_dataset(dataset), _find_seq(db, record)
            if seq is None or row is None:
                return False
            _delete_suggestion(db, seq, suggestion.question)
            _put_suggestions(db, row, [(seq, suggestion)])
        return True

    def delete_suggestion(self, record: str, question: str) -> None:
        """Delete a record's suggestion for a question."""
        with self.write() as db:
            seq = _find_seq(db, record)
            if seq is not None:
                _delete_suggestion(db, seq, question)


def _put_record(db: sqlite3.Connection, row: DatasetRow, doc: RecordDoc) -> int:
    # The order shown to annotators depends on the id and not on `seq`, so that a rebuilt index does not reshuffle their queues.
    shuffle = int.from_bytes(blake2b(doc.id.encode(), digest_size=4).digest()) >> 1
    values = (row.seq, doc.id, doc.external_id, doc.status, doc.inserted_at, doc.updated_at, shuffle)
    found = db.execute(
        "INSERT INTO records (dataset, id, external_id, status, inserted_at, updated_at, shuffle) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET external_id = excluded.external_id, status = excluded.status,"
        " inserted_at = excluded.inserted_at, updated_at = excluded.updated_at WHERE dataset = excluded.dataset RETURNING seq",
        values,
    ).fetchone()
    if found is None:
        raise InconsistentIndex(f"record {doc.id} belongs to another dataset of the index; run `search-engine reindex`")
    return int(found[0])


def _find_seq(db: sqlite3.Connection, record: str) -> int | None:
    row = db.execute("SELECT seq FROM records WHERE id = ?", (record,)).fetchone()
    return None if row is None else int(row[0])


def _put_details(db: sqlite3.Connection, row: DatasetRow, rows: Sequence[tuple[int, RecordDoc]]) -> None:
    """Add metadata, suggestions, responses and vectors of records whose earlier details were deleted."""
    # All metadata is stored, declared or not, so that a property that is added later finds existing values.
    _put_attributes(
        db, row, [(seq, attribute_name(Scope("metadata", name)), value) for seq, doc in rows for name, value in doc.metadata.items()]
    )
    _put_suggestions(db, row, [(seq, suggestion) for seq, doc in rows for suggestion in doc.suggestions])
    _put_responses(db, row, [(seq, response) for seq, doc in rows for response in doc.responses])
    vectors = [(seq, {row.vector(name): value for name, value in doc.vectors.items()}) for seq, doc in rows]
    # Only records that lost a vector: a deletion makes every process read the whole matrix again.
    names = {seq: {name for (name,) in db.execute("SELECT vector FROM vectors WHERE record = ?", (seq,))} for seq, _ in vectors}
    delete_vectors(db, [seq for seq, given in vectors if names[seq] - set(given)])
    put_vectors(db, row.seq, vectors)


def _delete_details(db: sqlite3.Connection, seqs: Sequence[int]) -> None:
    """Delete metadata, suggestions and responses of records, but not their vectors."""
    records = [(seq,) for seq in seqs]
    db.executemany("DELETE FROM answers WHERE response IN (SELECT seq FROM responses WHERE record = ?)", records)
    for table in DETAIL_TABLES:
        db.executemany(f"DELETE FROM {table} WHERE record = ?", records)


def _put_suggestions(db: sqlite3.Connection, row: DatasetRow, suggestions: Sequence[tuple[int, SuggestionDoc]]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO suggestions (record, question, dataset, updated_at) VALUES (?, ?, ?, ?)",
        [(seq, suggestion.question, row.seq, suggestion.updated_at) for seq, suggestion in suggestions],
    )
    parts: list[tuple[int, str, Any]] = []
    for seq, suggestion in suggestions:
        values = {"score": suggestion.score, "agent": suggestion.agent, "type": suggestion.type}
        if row.questions.get(suggestion.question) in SEARCHED_QUESTIONS:
            values["value"] = suggestion.value
        parts += [(seq, attribute_name(Scope("suggestion", suggestion.question, part)), value) for part, value in values.items()]
    _put_attributes(db, row, parts)


def _delete_suggestion(db: sqlite3.Connection, seq: int, question: str) -> None:
    names = [(seq, attribute_name(Scope("suggestion", question, part))) for part in ("value", "score", "agent", "type")]
    db.executemany("DELETE FROM attributes WHERE record = ? AND name = ?", names)
    db.execute("DELETE FROM suggestions WHERE record = ? AND question = ?", (seq, question))


def _put_responses(db: sqlite3.Connection, row: DatasetRow, responses: Sequence[tuple[int, ResponseDoc]]) -> None:
    """Add responses and their searchable answers to records."""
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


def _delete_response(db: sqlite3.Connection, response: str) -> None:
    db.execute("DELETE FROM answers WHERE response IN (SELECT seq FROM responses WHERE id = ?)", (response,))
    db.execute("DELETE FROM responses WHERE id = ?", (response,))


def _put_attributes(db: sqlite3.Connection, row: DatasetRow, values: Iterable[tuple[int, str, Any]]) -> None:
    rows = [(seq, name, item, row.seq) for seq, name, value in values for item in searchable_values(value)]
    db.executemany("INSERT OR IGNORE INTO attributes (record, name, value, dataset) VALUES (?, ?, ?, ?)", rows)
