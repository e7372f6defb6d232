"""Nearest records by cosine. Vectors are float32 rows in SQLite; a search multiplies one matrix that is kept in memory.

Each write raises the vector's generation in the database, so that another process's writes are seen too.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Matrix:
    """Unit rows, and the record each belongs to."""

    generation: int
    records: NDArray[np.int64]
    rows: NDArray[np.float32]


class VectorCache:
    """The matrices in use; one for each vector name of each dataset."""

    def __init__(self) -> None:
        self._matrices: dict[str, Matrix] = {}
        self._lock = threading.Lock()

    def load_matrix(self, db: sqlite3.Connection, vector: str, *, dimensions: int) -> Matrix:
        """The current matrix; read again only when something was written since."""
        generation = read_generation(db, vector)
        with self._lock:
            held = self._matrices.get(vector)
        if held is not None and held.generation == generation and held.rows.shape[1] == dimensions:
            return held
        found = db.execute("SELECT record, value FROM vectors WHERE vector = ? AND length(value) = ?", (vector, 4 * dimensions)).fetchall()
        rows = np.frombuffer(b"".join(value for _, value in found), dtype=np.float32).reshape(len(found), dimensions)
        matrix = Matrix(generation, np.array([record for record, _ in found], dtype=np.int64), _unit_rows(rows))
        with self._lock:
            self._matrices[vector] = matrix
        return matrix


def write_vector(db: sqlite3.Connection, record: int, *, vector: str, value: Sequence[float]) -> None:
    """Keep a record's vector; the caller raises the generation once for the batch."""
    body = np.asarray(value, dtype=np.float32).tobytes()
    db.execute("INSERT OR REPLACE INTO vectors (record, vector, value) VALUES (?, ?, ?)", (record, vector, body))


def read_generation(db: sqlite3.Connection, vector: str) -> int:
    """How often this vector's rows have been written."""
    row = db.execute("SELECT count FROM generations WHERE vector = ?", (vector,)).fetchone()
    return int(row[0]) if row else 0


def raise_generation(db: sqlite3.Connection, vectors: Sequence[str]) -> None:
    """Tell every reader that these vectors' rows have changed."""
    db.executemany(
        "INSERT INTO generations (vector, count) VALUES (?, 1) ON CONFLICT (vector) DO UPDATE SET count = count + 1",
        [(v,) for v in vectors],
    )


def rank_by_cosine(matrix: Matrix, value: Sequence[float], *, allowed: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The allowed records, most similar first, with (1 + cosine) / 2; equal scores stay in the order of the records."""
    query = np.asarray(value, dtype=np.float32)
    norm = float(np.linalg.norm(query))
    mask = np.isin(matrix.records, allowed)
    records, rows = matrix.records[mask], matrix.rows[mask]
    cosines = rows @ (query / norm) if norm else np.zeros(len(records), dtype=np.float32)
    scores = (1.0 + np.clip(cosines.astype(np.float64), -1.0, 1.0)) / 2.0
    order = np.lexsort((records, -scores))
    return records[order], scores[order]


def _unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms == 0, 1, norms)).astype(np.float32)
