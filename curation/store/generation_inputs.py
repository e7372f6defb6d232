"""Inputs of the requests to the teacher, from which a resumed run builds the same requests again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

_OPEN = "('reserved', 'sent', 'uncertain')"


def add_asks(db: sqlite3.Connection, stage: str, asks: Iterable[tuple[str, int, bytes]]) -> None:
    """Add rows of (slot, attempt, body); one whose request was sent stays as it was."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        for slot, attempt, body in asks:
            known = db.execute("SELECT 1 FROM calls WHERE stage = ? AND slot = ? AND attempt = ?", (stage, slot, attempt)).fetchone()
            how = "IGNORE" if known else "REPLACE"
            db.execute(f"INSERT OR {how} INTO asks VALUES (?, ?, ?, ?)", (stage, slot, attempt, body))


def load_asks(db: sqlite3.Connection, stage: str) -> dict[tuple[str, int], bytes]:
    """Return (slot, attempt) to body."""
    return {(row["slot"], row["attempt"]): row["body"] for row in db.execute("SELECT * FROM asks WHERE stage = ?", (stage,))}


def open_asks(db: sqlite3.Connection, stage: str) -> list[bytes]:
    """Return the inputs of requests that were sent, or about to be, and have no result: they are sent again unchanged."""
    sql = f"""
      SELECT DISTINCT a.body, a.slot, a.attempt FROM asks a
      JOIN calls c ON c.stage = a.stage AND c.slot = a.slot AND c.attempt = a.attempt
      WHERE a.stage = ? AND (c.state IN {_OPEN} OR (c.state = 'failed' AND c.settled = 0)) ORDER BY a.slot, a.attempt"""
    return [row["body"] for row in db.execute(sql, (stage,))]


def attempts_by_slot(db: sqlite3.Connection, stage: str) -> dict[str, int]:
    """Return slot to the highest attempt that was sent."""
    sql = "SELECT slot, max(attempt) AS attempt FROM calls WHERE stage = ? GROUP BY slot"
    return {row["slot"]: row["attempt"] for row in db.execute(sql, (stage,))}
