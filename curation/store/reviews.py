"""What was pushed, what people answered, and which snapshots were written."""

from __future__ import annotations

import itertools
import json
import secrets
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
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


def sample_key(db: sqlite3.Connection) -> bytes:
    """Return the project's secret by which the rows of a review sample are drawn; made on first use."""
    db.execute("INSERT OR IGNORE INTO meta VALUES ('sample_key', ?)", (secrets.token_hex(16),))
    return bytes.fromhex(db.execute("SELECT value FROM meta WHERE key = 'sample_key'").fetchone()["value"])


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


def has_answers(db: sqlite3.Connection) -> bool:
    """Whether anybody has answered."""
    return db.execute("SELECT 1 FROM answers LIMIT 1").fetchone() is not None


def latest_answers(db: sqlite3.Connection) -> Iterator[StoredAnswer]:
    """The latest state of each response, one at a time, in the order of the responses' ids."""
    names = "response, updated, seq, user, status, body, payload, form, simulated"
    told = db.execute(f"SELECT {names} FROM answers ORDER BY response, updated")
    for _, states in itertools.groupby(told, key=itemgetter(0)):
        response, updated, seq, user, status, body, payload, form, simulated = deque(states, maxlen=1).pop()
        yield StoredAnswer(response, updated, seq, user, status, orjson.loads(body), payload, form, bool(simulated))


def answers_by_seq(db: sqlite3.Connection) -> dict[int, list[StoredAnswer]]:
    """The latest state of each response, by record; in the order of who gave it."""
    out: dict[int, list[StoredAnswer]] = {}
    for answer in latest_answers(db):
        out.setdefault(answer.seq, []).append(answer)
    return {seq: sorted(answers, key=attrgetter("user")) for seq, answers in out.items()}


def add_snapshot(db: sqlite3.Connection, *, digest: str, name: str, version: int, kind: str, path: str, rows: int) -> None:
    """Remember a snapshot that stands complete on disk."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    db.execute("INSERT OR IGNORE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?)", (digest, name, version, kind, path, rows, at))


def list_snapshots(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """Every snapshot, oldest first."""
    return [dict(row) for row in db.execute("SELECT * FROM snapshots ORDER BY created, name, version")]
