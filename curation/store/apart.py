"""Read the workbench in processes of their own, into memory that this process shares: Arrow columns, of which none is copied.

The driver has an SQLite of its own. Two of them in one process lose one another's locks (sqlite.org/howtocorrupt.html, 2.2.1), so it is
loaded by forked processes only.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from curation.store.processes import count_processes, in_processes
from curation.store.spill import held, mapped

Numbers = np.ndarray[Any, np.dtype[np.int64]]

ENOUGH = 50_000
"""Rows from which a process pays."""
NULL = secrets.token_hex(8)
"""A text in the place of NULL."""
_BATCH = 16_384
"""Rows of a part of a table."""


@dataclass(frozen=True)
class Found:
    """The result of a query in shared memory."""

    memory: mmap.mmap
    table: pa.Table

    def places(self, name: str) -> tuple[Numbers, Numbers]:
        """Return the start in `memory`, and the size, of each value of a column of bytes."""
        first = pa.py_buffer(self.memory).address
        starts, sizes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for chunk in self.table[name].chunks:
            _, offsets, values = chunk.buffers()
            at = np.frombuffer(offsets, np.int32, len(chunk) + 1).astype(np.int64)
            starts.append(at[:-1] + values.address - first)
            sizes.append(np.diff(at))
        return np.concatenate(starts), np.concatenate(sizes)


def workbench_file(db: sqlite3.Connection) -> Path:
    """Return the path of an open workbench."""
    return Path(db.execute("PRAGMA database_list").fetchone()[2])


def read_apart(db: sqlite3.Connection, queries: Sequence[str]) -> list[Found] | None:
    """Return the results of queries, each read by another process.

    None where this process must read itself: a workbench with few records, within a transaction, whose changes no other process sees,
    and where no process can be forked. A result without rows has no types.

    Args:
        db: the workbench.
        queries: whose columns are integers, texts and bytes, with `NULL` in the place of NULL, which has no type.

    Raises:
        ProjectError: a process was killed.
        sqlite3.DatabaseError: the workbench cannot be read.
    """
    rows = db.execute("SELECT max(seq) FROM records").fetchone()[0] or 0
    path = workbench_file(db)
    if rows < ENOUGH or db.in_transaction or not path.name or (processes := count_processes(rows)) == 1:
        return None
    files = [_memory(path) for _ in queries]
    for _ in in_processes(partial(_read_into, path, queries, files), range(len(queries)), processes=processes, what="curate"):
        pass
    shared = [mapped(file) for file in files]
    return [Found(one, pa.ipc.open_file(pa.py_buffer(one)).read_all()) for one in shared]


def _memory(path: Path) -> IO[bytes]:
    """Return an empty file without a name, of a small workbench in memory."""
    if path.stat().st_size > held():
        return tempfile.TemporaryFile(dir=path.parent)
    return os.fdopen(os.memfd_create("rows"), "w+b")


def _read_into(path: Path, queries: Sequence[str], files: Sequence[IO[bytes]], place: int) -> None:
    """Write the result of a query to its file."""
    import adbc_driver_sqlite.dbapi as driver

    options = {"adbc.sqlite.query.batch_rows": _BATCH}
    try:
        with driver.connect(f"file:{quote(str(path))}?mode=ro") as db, db.cursor(adbc_stmt_kwargs=options) as cursor:
            cursor.execute(queries[place])
            found = cursor.fetch_record_batch()
            with pa.ipc.new_file(files[place], found.schema) as out:
                for batch in found:
                    out.write_batch(batch)
    except driver.Error as error:  # it cannot be pickled
        raise sqlite3.DatabaseError(str(error)) from None
    files[place].flush()
