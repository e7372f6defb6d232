"""Exact nearest-neighbour search by cosine. Vectors are float32 blobs in SQLite; a search multiplies a matrix of unit rows in memory.

Every write stores a growing number with its rows, so that a process reads only what was written since its last read. After a deletion the
epoch changes and the matrix is read again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argilla_setup.engine.rows import Bitmap, Numbers, raise_generation, read_generation, select_page

CHUNK = 4096
SPARE = 1.25
"""Growth factor of a full matrix, so that a push does not copy it for every batch."""

SCATTERED = 8
"""If fewer than one in this many rows are searched, only those rows are multiplied."""


@dataclass
class Matrix:
    """Unit rows and their records; only the first `count` rows are in use."""

    records: Numbers
    rows: NDArray[np.float32]
    count: int = 0
    epoch: int = -1
    changed: int = 0
    places: Numbers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """The row of each record; negative for records without a vector."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def nearest(
        self, value: Sequence[float], *, among: Bitmap, limit: int, threshold: float | None = None
    ) -> tuple[Numbers, NDArray[np.float64], int]:
        """Return the records whose vectors are nearest.

        Args:
            value: a vector of shape (dimensions,).
            among: the records to search.
            limit: maximum number of records.
            threshold: minimum score.

        Returns:
            Records and scores, (1 + cosine) / 2, best first and ties by record number; and the number of records with a vector.
        """
        (unit,) = _unit_rows(np.asarray([value]))
        with self.lock:
            # Records that were added after this read transaction began are beyond the bitmap.
            records = self.records[: self.count]
            kept = np.flatnonzero(among[np.minimum(records, len(among) - 1)] & (records < len(among))) if len(among) else records[:0]
            records = records[kept]
            rows = self.rows[: self.count]
            # A gathered row costs more than a contiguous one. einsum instead of BLAS, whose threads wait for each other on a busy machine:
            # a product of 0.1 ms took 8 ms and four times the processor time.
            scattered = len(kept) * SCATTERED < self.count
            cosines = np.einsum("ij,j->i", rows[kept], unit) if scattered else np.einsum("ij,j->i", rows, unit)[kept]
        scores = (1.0 + np.clip(cosines.astype(np.float64), -1.0, 1.0)) / 2.0
        if threshold is not None:
            records, scores = records[scores >= threshold], scores[scores >= threshold]
        best = select_page(-scores, records, offset=0, limit=limit)
        return records[best], scores[best], len(records)

    def put(self, records: Numbers, rows: NDArray[np.float32]) -> None:
        """Set the rows of records; both arrays have one element per record."""
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
    """The cached matrices, one per vector of a dataset."""

    def __init__(self) -> None:
        self._matrices: dict[str, Matrix] = {}
        self._lock = threading.Lock()

    def load_matrix(self, db: sqlite3.Connection, vector: str, *, dimensions: int) -> Matrix:
        """Return the current matrix of a vector.

        Args:
            db: a connection inside a read transaction.
            vector: name of the vector, from `DatasetRow.vector`.
            dimensions: size of the vectors; rows of another size are ignored.
        """
        with self._lock:
            changed, epoch = read_generation(db, vector)
            matrix = self._matrices.get(vector)
            if matrix is None or matrix.epoch != epoch or matrix.rows.shape[1] != dimensions:
                (count,) = db.execute("SELECT count(*) FROM vectors WHERE vector = ?", (vector,)).fetchone()
                matrix = Matrix(np.empty(count, dtype=np.int64), np.empty((count, dimensions), dtype=np.float32), epoch=epoch)
            if matrix.changed < changed:
                sql = "SELECT record, value FROM vectors WHERE vector = ? AND changed > ? AND length(value) = ? ORDER BY record"
                with matrix.lock:
                    cursor = db.execute(sql, (vector, matrix.changed, 4 * dimensions))
                    while found := cursor.fetchmany(CHUNK):
                        rows = np.frombuffer(b"".join(value for _, value in found), dtype=np.float32).reshape(len(found), dimensions)
                        matrix.put(np.array([record for record, _ in found]), _unit_rows(rows))
                    matrix.changed = changed
            self._matrices[vector] = matrix
            return matrix

    def forget(self, vectors: Iterable[str]) -> None:
        """Remove the matrices of a deleted dataset from the cache."""
        with self._lock:
            for vector in vectors:
                self._matrices.pop(vector, None)


def put_vectors(db: sqlite3.Connection, dataset: int, rows: Iterable[tuple[int, Mapping[str, Sequence[float]]]]) -> None:
    """Store vectors of records.

    Args:
        db: a connection inside a write transaction.
        dataset: number of the dataset.
        rows: the records, each with its vectors by name.
    """
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
    """Delete the vectors of records; every process then reads the affected matrices again."""
    gone: set[str] = set()
    for record in records:
        gone.update(name for (name,) in db.execute("SELECT vector FROM vectors WHERE record = ?", (record,)))
        db.execute("DELETE FROM vectors WHERE record = ?", (record,))
    for vector in sorted(gone):
        raise_generation(db, vector, "epoch")


def _unit_rows(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return the rows scaled to length one; rows without a direction become zero, which has cosine 0 with everything."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
    has_direction = np.isfinite(norms) & (norms > 0)
    return np.where(has_direction, rows / np.where(has_direction, norms, 1), 0).astype(np.float32)
