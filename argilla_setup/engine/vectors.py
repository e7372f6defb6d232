"""Nearest records by cosine. Vectors are float32 rows in SQLite; a search multiplies one matrix of unit rows that is kept in memory.

Each write marks its rows with a number that only grows, so that a process reads what others have written since it last looked, and no
more. Where rows have gone the epoch grows and the matrix is read anew.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

CHUNK = 4096
SPARE = 1.25
"""A matrix that is full grows by this factor, so that a push does not copy it for every batch."""


@dataclass
class Matrix:
    """Unit rows, and the record each belongs to; only the first `count` are in use."""

    records: NDArray[np.int64]
    rows: NDArray[np.float32]
    count: int = 0
    epoch: int = -1
    changed: int = 0
    places: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def nearest(
        self, value: Sequence[float], *, allowed: NDArray[np.int64] | None, excluded: int | None, limit: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
        """The records most like the value with (1 + cosine) / 2, and how many there are; equal ones in the order of the records."""
        query = np.asarray(value, dtype=np.float32)
        with self.lock:
            records, rows = self.records[: self.count], self.rows[: self.count]
            norm = float(np.linalg.norm(query))
            cosines = rows @ (query / norm) if norm and np.isfinite(norm) else np.zeros(self.count, dtype=np.float32)
            records = records.copy()
        keep = np.ones(len(records), dtype=bool) if allowed is None else np.isin(records, allowed)
        if excluded is not None:
            keep &= records != excluded
        records, cosines = records[keep], cosines[keep]
        if len(records) > limit:
            # All that tie with the last one stay, so that the cut below is by the order of the records.
            least = np.partition(cosines, len(cosines) - limit)[len(cosines) - limit]
            best = cosines >= least
            total, records, cosines = len(records), records[best], cosines[best]
        else:
            total = len(records)
        scores = (1.0 + np.clip(cosines.astype(np.float64), -1.0, 1.0)) / 2.0
        order = np.lexsort((records, -scores))[:limit]
        return records[order], scores[order], total

    def put(self, record: int, row: NDArray[np.float32]) -> None:
        """Set a record's row."""
        at = self.places.get(record)
        if at is None:
            if self.count == len(self.records):
                size = max(CHUNK, int(self.count * SPARE))
                self.records = np.resize(self.records, size)
                grown = np.empty((size, self.rows.shape[1]), dtype=np.float32)
                grown[: self.count] = self.rows[: self.count]
                self.rows = grown
            at = self.places[record] = self.count
            self.count += 1
        self.records[at], self.rows[at] = record, row


class VectorCache:
    """The matrices in use; one for each vector name of each dataset."""

    def __init__(self) -> None:
        self._matrices: dict[str, Matrix] = {}
        self._lock = threading.Lock()

    def load_matrix(self, db: sqlite3.Connection, vector: str, *, dimensions: int) -> Matrix:
        """The current matrix, brought up to what has been written."""
        with self._lock:
            changed, epoch = read_generation(db, vector)
            matrix = self._matrices.get(vector)
            if matrix is None or matrix.epoch != epoch or matrix.rows.shape[1] != dimensions:
                (count,) = db.execute("SELECT count(*) FROM vectors WHERE vector = ?", (vector,)).fetchone()
                matrix = Matrix(np.empty(count, dtype=np.int64), np.empty((count, dimensions), dtype=np.float32), epoch=epoch)
            if matrix.changed < changed:
                with matrix.lock:
                    _read_changes(db, matrix, vector)
                    matrix.changed = changed
            self._matrices[vector] = matrix
            return matrix


def put_vectors(db: sqlite3.Connection, dataset: int, rows: Iterable[tuple[int, Mapping[str, Sequence[float]]]]) -> None:
    """Keep these records' vectors, by record and name."""
    rows = [(record, vectors) for record, vectors in rows if vectors]
    numbers = {vector: _raise(db, vector, "changed") for vector in sorted({name for _, vectors in rows for name in vectors})}
    db.executemany(
        "INSERT OR REPLACE INTO vectors (record, vector, value, dataset, changed) VALUES (?, ?, ?, ?, ?)",
        [
            (record, vector, np.asarray(value, dtype=np.float32).tobytes(), dataset, numbers[vector])
            for record, vectors in rows
            for vector, value in vectors.items()
        ],
    )


def delete_vectors(db: sqlite3.Connection, records: Sequence[int]) -> None:
    """Forget these records' vectors; matrices that hold them are read anew."""
    gone: set[str] = set()
    for record in records:
        gone.update(name for (name,) in db.execute("SELECT vector FROM vectors WHERE record = ?", (record,)))
        db.execute("DELETE FROM vectors WHERE record = ?", (record,))
    for vector in sorted(gone):
        _raise(db, vector, "epoch")


def read_generation(db: sqlite3.Connection, vector: str) -> tuple[int, int]:
    """The number of a vector's last write, and of its last loss."""
    row = db.execute("SELECT changed, epoch FROM generations WHERE vector = ?", (vector,)).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _raise(db: sqlite3.Connection, vector: str, what: str) -> int:
    db.execute("INSERT OR IGNORE INTO generations VALUES (?, 0, 0)", (vector,))
    db.execute(f"UPDATE generations SET {what} = {what} + 1 WHERE vector = ?", (vector,))
    return int(db.execute(f"SELECT {what} FROM generations WHERE vector = ?", (vector,)).fetchone()[0])


def _read_changes(db: sqlite3.Connection, matrix: Matrix, vector: str) -> None:
    width = matrix.rows.shape[1]
    sql = "SELECT record, value FROM vectors WHERE vector = ? AND changed > ? AND length(value) = ? ORDER BY record"
    cursor = db.execute(sql, (vector, matrix.changed, 4 * width))
    while found := cursor.fetchmany(CHUNK):
        rows = np.frombuffer(b"".join(value for _, value in found), dtype=np.float32).reshape(len(found), width)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        units = rows / np.where((norms == 0) | ~np.isfinite(norms), 1, norms)
        for (record, _), row in zip(found, units, strict=True):
            matrix.put(record, row)
