"""workbench.db: everything that still moves. The only SQL of the project stands in this folder.

SQLite in WAL mode. Facts key on `records.seq`; hex ids exist only at the edges. Transactions hold at most 5,000 rows and
never span a network call.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from curation.errors import ProjectError
from curation.store import facts, records, reviews, runs
from curation.store.calls import CALLS_SCHEMA, CallLedger
from curation.store.schema import SCHEMA, VERSION

__all__ = ["CallLedger", "Database", "facts", "hold_lock", "open_store", "records", "reviews", "runs"]

Database = sqlite3.Connection
LOCK_SECONDS = 60
"""A lock whose holder has not shown a sign of life for this long is free."""


@contextmanager
def open_store(folder: Path) -> Iterator[Database]:
    """Open FOLDER/workbench.db, making it on first use.

    Raises:
        ProjectError: the file is not a workbench, or was written by a newer version.
    """
    path = folder / "workbench.db"
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        db.row_factory = sqlite3.Row
        _prepare(db, path)
        yield db
    except sqlite3.DatabaseError as error:
        if "disk is full" in str(error) or "disk I/O" in str(error):
            raise ProjectError(
                str(path), f"cannot be written ({error})", "make space on the disk and run again; nothing is lost"
            ) from error
        if "not a database" in str(error) or "malformed" in str(error):
            raise ProjectError(str(path), f"is damaged ({error})", "restore it from a backup") from error
        raise
    finally:
        db.close()


@contextmanager
def hold_lock(db: Database, name: str) -> Iterator[None]:
    """Let one process at a time do a set-wide stage; a second one is told who holds it."""
    owner = f"{os.uname().nodename}:{os.getpid()}"
    with db:
        db.execute("BEGIN IMMEDIATE")
        row = db.execute("SELECT owner, heartbeat FROM locks WHERE name = ?", (name,)).fetchone()
        if row and row["owner"] != owner and time.time() - row["heartbeat"] < LOCK_SECONDS and _is_alive(row["owner"]):
            raise ProjectError(f"curate {name}", f"is already running on this project ({row['owner']})", "wait for it to end and run again")
        db.execute("INSERT OR REPLACE INTO locks VALUES (?, ?, ?)", (name, owner, time.time()))
    try:
        yield
    finally:
        db.execute("DELETE FROM locks WHERE name = ? AND owner = ?", (name, owner))


def batched(rows: Iterable[tuple[object, ...]], size: int = 5000) -> Iterator[list[tuple[object, ...]]]:
    """Lists of at most SIZE rows, one transaction each."""
    chunk: list[tuple[object, ...]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _prepare(db: Database, path: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # a paid response that was committed survives a power cut
    db.execute("PRAGMA foreign_keys = ON")
    has_meta = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
    found = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() if has_meta else None
    if found and int(found["value"]) > VERSION:
        raise ProjectError(str(path), f"has schema {found['value']}; this version reads up to {VERSION}", "pip install --upgrade seedcorn")
    if not found:
        db.executescript(SCHEMA)
        db.executescript(CALLS_SCHEMA)
        stamp = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds")})
        db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", [("schema", str(VERSION)), ("created", stamp)])


def _is_alive(owner: str) -> bool:
    host, _, pid = owner.rpartition(":")
    return host != os.uname().nodename or Path(f"/proc/{pid}").exists() or not Path("/proc/self").exists()
