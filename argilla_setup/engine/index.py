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
from hashlib import blake2b
from pathlib import Path

from argilla_setup.engine import fulltext
from argilla_setup.engine.documents import RecordDoc, ResponseDoc, SuggestionDoc
from argilla_setup.engine.record_fields import (
    DETAILS,
    DatasetRow,
    delete_details,
    delete_response,
    delete_suggestion,
    put_details,
    put_responses,
    put_suggestions,
)
from argilla_setup.engine.rows import RowCache, raise_generation
from argilla_setup.engine.schema import prepare_schema
from argilla_setup.engine.vectors import VectorCache, delete_vectors

CACHE_MB = 64


class Contradiction(LookupError):
    """The index says what the database cannot mean: one record in two datasets."""


class Index:
    """The file. Safe to use from several threads: each gets its own connection."""

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
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA cache_size = -{CACHE_MB * 1024}")
            db.execute("PRAGMA mmap_size = 1073741824")
            self._local.db = db
        return self._local.db  # type: ignore[no-any-return]

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction; the lock is taken at its start, so two processes wait for each other instead of failing.

        Threads of one process wait in line for it: SQLite would have them sleep and try again.
        """
        db = self.db
        with self._writing:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One view of the file: what others write meanwhile shows in none of its answers."""
        db = self.db
        if db.in_transaction:
            yield db
            return
        db.execute("BEGIN")
        try:
            yield db
        finally:
            db.execute("ROLLBACK")

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
            fulltext.create_table(db, f"text_{cursor.lastrowid}", columns=len(fields))

    def delete_dataset(self, dataset: str) -> None:
        """Forget a dataset and its records; nothing happens when there is none."""
        with self.write() as db:
            row = self.find_dataset(dataset)
            if row is None:
                return
            names = [name for (name,) in db.execute("SELECT DISTINCT vector FROM vectors WHERE dataset = ?", (row.seq,))]
            for name in (*names, str(row.seq)):
                raise_generation(db, name, "epoch")
            for table in ("answers", "vectors", *DETAILS, "records"):
                db.execute(f"DELETE FROM {table} WHERE dataset = ?", (row.seq,))
            db.execute("DELETE FROM datasets WHERE seq = ?", (row.seq,))
            fulltext.drop_table(db, row.table)
        self.rows.forget(row.seq)
        self.vectors.forget(names)

    def put_records(self, dataset: str, docs: Sequence[RecordDoc]) -> None:
        """Add records or replace them whole."""
        with self.write() as db:
            row = self.find_dataset(dataset)
            if row is None:
                raise LookupError(f"the index has no dataset {dataset}; run search-engine reindex")
            # One id twice in a batch: the later one counts, as it would in two batches.
            docs = list({doc.id: doc for doc in docs}.values())
            seqs = [_put_record(db, row, doc) for doc in docs]
            delete_details(db, seqs)
            values = [(seq, [doc.fields.get(name, "") for name in row.fields]) for seq, doc in zip(seqs, docs, strict=True)]
            fulltext.put_texts(db, row.table, columns=row.fields, rows=values)
            put_details(db, row, list(zip(seqs, docs, strict=True)))
            raise_generation(db, str(row.seq), "changed")

    def delete_records(self, dataset: str, records: Sequence[str]) -> None:
        """Forget these records."""
        with self.write() as db:
            row = self.find_dataset(dataset)
            if row is None:
                return
            seqs = [seq for seq in (_find_seq(db, record) for record in records) if seq is not None]
            delete_details(db, seqs)
            delete_vectors(db, seqs)
            fulltext.delete_texts(db, row.table, seqs)
            db.executemany("DELETE FROM records WHERE seq = ?", [(seq,) for seq in seqs])
            raise_generation(db, str(row.seq), "epoch")

    def set_status(self, record: str, status: str, *, updated_at: int | None = None) -> bool:
        """Set a record's status; False when the index does not hold the record."""
        with self.write() as db:
            sql = "UPDATE records SET status = ?, updated_at = coalesce(?, updated_at) WHERE id = ?"
            return db.execute(sql, (status, updated_at, record)).rowcount > 0

    def put_response(self, dataset: str, record: str, response: ResponseDoc) -> bool:
        """Add a response or replace the one with its id; False when the index does not hold the record."""
        with self.write() as db:
            row, seq = self.find_dataset(dataset), _find_seq(db, record)
            if seq is None or row is None:
                return False
            held = db.execute("SELECT updated_at FROM responses WHERE id = ?", (response.id,)).fetchone()
            # Two requests may reach us in another order than the database.
            if held and held[0] and response.updated_at and held[0] > response.updated_at:
                return True
            delete_response(db, response.id)
            put_responses(db, row, [(seq, response)])
        return True

    def delete_response(self, response: str) -> None:
        """Forget a response."""
        with self.write() as db:
            delete_response(db, response)

    def put_suggestion(self, dataset: str, record: str, suggestion: SuggestionDoc) -> bool:
        """Add a suggestion or replace the one for its question; False when the index does not hold the record."""
        with self.write() as db:
            row, seq = self.find_dataset(dataset), _find_seq(db, record)
            if seq is None or row is None:
                return False
            delete_suggestion(db, seq, suggestion.question)
            put_suggestions(db, row, [(seq, suggestion)])
        return True

    def delete_suggestion(self, record: str, question: str) -> None:
        """Forget a record's suggestion for a question."""
        with self.write() as db:
            seq = _find_seq(db, record)
            if seq is not None:
                delete_suggestion(db, seq, question)


def _put_record(db: sqlite3.Connection, row: DatasetRow, doc: RecordDoc) -> int:
    # The order shown to annotators hangs on the id, not on `seq`, so that rebuilding the index does not reshuffle anybody's queue.
    shuffle = int.from_bytes(blake2b(doc.id.encode(), digest_size=4).digest()) >> 1
    values = (row.seq, doc.id, doc.external_id, doc.status, doc.inserted_at, doc.updated_at, shuffle)
    found = db.execute(
        "INSERT INTO records (dataset, id, external_id, status, inserted_at, updated_at, shuffle) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET external_id = excluded.external_id, status = excluded.status,"
        " inserted_at = excluded.inserted_at, updated_at = excluded.updated_at WHERE dataset = excluded.dataset RETURNING seq",
        values,
    ).fetchone()
    if found is None:
        raise Contradiction(f"record {doc.id} belongs to another dataset of the index; run search-engine reindex")
    return int(found[0])


def _find_seq(db: sqlite3.Connection, record: str) -> int | None:
    row = db.execute("SELECT seq FROM records WHERE id = ?", (record,)).fetchone()
    return None if row is None else int(row[0])
