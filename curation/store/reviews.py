"""What was pushed, what people answered, and which snapshots were written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson


class StoredAnswer(NamedTuple):
    """One answer of one person, as it stood at one time."""

    response: str
    updated: str
    seq: int
    user: str
    status: str
    """submitted, discarded or draft."""
    values: dict[str, Any]
    payload: str
    """Digest of exactly what was shown."""
    form: str
    simulated: bool


def pushed_payloads(db: sqlite3.Connection, dataset: str) -> dict[int, str]:
    """Payload digest by seq: what Argilla holds of ours."""
    return {row["seq"]: row["payload"] for row in db.execute("SELECT seq, payload FROM pushed WHERE dataset = ?", (dataset,))}


def pushed_seqs(db: sqlite3.Connection) -> set[int]:
    """Records that people may have seen."""
    return {row["seq"] for row in db.execute("SELECT DISTINCT seq FROM pushed")}


def mark_pushed(db: sqlite3.Connection, dataset: str, payloads: Iterable[tuple[int, str]]) -> None:
    """Remember what Argilla accepted."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    with db:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT OR REPLACE INTO pushed VALUES (?, ?, ?, ?)", [(seq, dataset, digest, at) for seq, digest in payloads])


def add_answers(db: sqlite3.Connection, answers: Iterable[StoredAnswer], run: int) -> int:
    """Append answers; one that is already there is not written twice. Returns how many were new."""
    rows = [
        (a.response, a.updated, a.seq, a.user, a.status, json.dumps(a.values, ensure_ascii=False, sort_keys=True), a.payload, a.form,
         int(a.simulated), run)
        for a in answers
    ]  # fmt: skip
    with db:
        db.execute("BEGIN IMMEDIATE")
        return db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows).rowcount


def answers_by_seq(db: sqlite3.Connection) -> dict[int, list[StoredAnswer]]:
    """The latest state of each response, by record."""
    latest: dict[str, StoredAnswer] = {}
    names = "response, updated, seq, user, status, body, payload, form, simulated"
    for response, updated, seq, user, status, body, payload, form, simulated in db.execute(
        f"SELECT {names} FROM answers ORDER BY response, updated"
    ):
        latest[response] = StoredAnswer(response, updated, seq, user, status, orjson.loads(body), payload, form, bool(simulated))
    out: dict[int, list[StoredAnswer]] = {}
    for answer in sorted(latest.values(), key=lambda a: (a.user, a.response)):
        out.setdefault(answer.seq, []).append(answer)
    return out


def add_snapshot(db: sqlite3.Connection, *, digest: str, name: str, version: int, kind: str, path: str, rows: int) -> None:
    """Remember a snapshot that stands complete on disk."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    db.execute("INSERT OR IGNORE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?)", (digest, name, version, kind, path, rows, at))


def list_snapshots(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """Every snapshot, oldest first."""
    return [dict(row) for row in db.execute("SELECT * FROM snapshots ORDER BY created, name, version")]
