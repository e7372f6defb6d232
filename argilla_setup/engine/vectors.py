"""Nearest records by cosine. Vectors are float32 rows in SQLite; a search multiplies one matrix of unit rows that is kept in memory.

Each write marks its rows with a number that only grows, so that a process reads what others have written since it last looked, and no
more. Where rows have gone the epoch grows and the matrix is read anew.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argilla_setup.engine.rows import Bitmap, Numbers, first_of, raise_generation, read_generation

CHUNK = 4096
SPARE = 1.25
"""A matrix that is full grows by this factor, so that a push does not copy it for every batch."""

SCATTERED = 8
"""Where fewer than one in so many rows are asked about, only theirs are read."""


@dataclass
class Matrix:
    """Unit rows, and the record each belongs to; only the first `count` are in use."""

    records: Numbers
    rows: NDArray[np.float32]
    count: int = 0
    epoch: int = -1
    changed: int = 0
    places: Numbers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """By record, its row; below zero without one."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def nearest(
        self, value: Sequence[float], *, among: Bitmap, limit: int, threshold: float | None = None
    ) -> tuple[Numbers, NDArray[np.float64], int]:
        """The records most like the value with (1 + cosine) / 2, and how many there are; equal ones in the order of the records.

        With a threshold those of a lower score are left out.
        """
        (unit,) = _unit_rows(np.asarray([value]))
        with self.lock:
            # Records that came after the view of the file that is being asked are beyond the bitmap.
            records = self.records[: self.count]
            kept = np.flatnonzero(among[np.minimum(records, len(among) - 1)] & (records < len(among))) if len(among) else records[:0]
            records = records[kept]
            rows = self.rows[: self.count]
            # Rows that lie apart cost more each than rows side by side. Not by BLAS, whose threads wait for each other where others work:
            # a product that takes 0.1 ms took 8 there, and four times the processor time.
            apart = len(kept) * SCATTERED < self.count
            cosines = np.einsum("ij,j->i", rows[kept], unit) if apart else np.einsum("ij,j->i", rows, unit)[kept]
        scores = (1.0 + np.clip(cosines.astype(np.float64), -1.0, 1.0)) / 2.0
        if threshold is not None:
            records, scores = records[scores >= threshold], scores[scores >= threshold]
        best = first_of(-scores, records, offset=0, limit=limit)
        return records[best], scores[best], len(records)

    def put(self, records: Numbers, rows: NDArray[np.float32]) -> None:
        """Set these records' rows."""
        last = int(records.max())
        if last >= len(self.places):
            self.places = np.append(self.places, np.full(int(last * SPARE) + 1 - len(self.places), -1))
        at = self.places[records]
        end = self.count + int(np.count_nonzero(at < 0))
        if end > len(self.records):
            size = max(CHUNK, int(end * SPARE))
            self.records = np.resize(self.records, size)
            grown = np.empty((size, self.rows.shape[1]), dtype=np.float32)
            grown[: self.count] = self.rows[: self.count]
            self.rows = grown
        at[at < 0] = np.arange(self.count, end)
        self.places[records], self.records[at], self.rows[at], self.count = at, records, rows, end


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

    def forget(self, vectors: Iterable[str]) -> None:
        """Let go of the matrices of a dataset that is no more."""
        with self._lock:
            for vector in vectors:
                self._matrices.pop(vector, None)


def put_vectors(db: sqlite3.Connection, dataset: int, rows: Iterable[tuple[int, Mapping[str, Sequence[float]]]]) -> None:
    """Keep these records' vectors, by record and name."""
    rows = [(record, vectors) for record, vectors in rows if vectors]
    numbers = {vector: raise_generation(db, vector, "changed") for vector in sorted({name for _, vectors in rows for name in vectors})}
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
        raise_generation(db, vector, "epoch")


def _read_changes(db: sqlite3.Connection, matrix: Matrix, vector: str) -> None:
    width = matrix.rows.shape[1]
    sql = "SELECT record, value FROM vectors WHERE vector = ? AND changed > ? AND length(value) = ? ORDER BY record"
    cursor = db.execute(sql, (vector, matrix.changed, 4 * width))
    while found := cursor.fetchmany(CHUNK):
        rows = np.frombuffer(b"".join(value for _, value in found), dtype=np.float32).reshape(len(found), width)
        matrix.put(np.array([record for record, _ in found]), _unit_rows(rows))


def _unit_rows(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length one; what has no direction is zero, and so neither like nor unlike anything."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
    has_direction = np.isfinite(norms) & (norms > 0)
    return np.where(has_direction, rows / np.where(has_direction, norms, 1), 0).astype(np.float32)
