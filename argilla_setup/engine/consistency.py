"""The comparison of the index with Argilla's database.

Argilla commits to its database before it updates the index, so a crash in between leaves the index incomplete. Missing rows show in counts
by dataset and status. Missed updates show in the sum of the update times, in microseconds modulo a prime number, because plain sums exceed
64 bits after about five thousand records.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

COUNTS = {
    "records": "SELECT d.id, r.status, count(*), {1} FROM records r JOIN datasets d ON {0} GROUP BY 1, 2",
    "responses": (
        "SELECT d.id, s.status, count(*), {3} + count(s.{4}) FROM responses s JOIN records r ON {2} JOIN datasets d ON {0} GROUP BY 1, 2"
    ),
    "suggestions": "SELECT d.id, '', count(*), {3} FROM suggestions s JOIN records r ON {2} JOIN datasets d ON {0} GROUP BY 1",
    "vectors": "SELECT d.id, '', count(*), 0 FROM vectors s JOIN records r ON {2} JOIN datasets d ON {0} GROUP BY 1",
}
"""Queries for rows by dataset and status with the sum of their update times; `*_COLUMNS` fill in each schema's columns."""
TRANSIENT_ERRORS = frozenset(
    getattr(sqlite3, f"SQLITE_{name}")
    for name in ("BUSY", "LOCKED", "FULL", "IOERR", "READONLY", "CANTOPEN", "PERM", "AUTH", "NOMEM", "INTERRUPT")
)
"""SQLite's error codes for an intact file that is in use, on a full disk or not accessible."""
PRIME = 2**31 - 1
# SQLite's date functions have milliseconds only and round .9996 s up, so seconds and microseconds are parsed separately.
_SECONDS = "CAST(strftime('%s', substr({0}.updated_at, 1, 19)) AS INTEGER)"
_MICROSECONDS = f"coalesce(sum(({_SECONDS} * 1000000 + CAST(substr({{0}}.updated_at, 21) AS INTEGER)) % {PRIME}), 0)"
DATABASE_COLUMNS = (
    "r.dataset_id = d.id",
    _MICROSECONDS.format("r"),
    "r.id = s.record_id",
    _MICROSECONDS.format("s"),
    "user_id",
)
POSTGRES_COLUMNS = ("r.dataset_id = d.id", "0", "r.id = s.record_id", "0", "user_id")
"""For Postgres only counts are compared: its date functions differ."""

_SUM = f"coalesce(sum({{0}}.updated_at % {PRIME}), 0)"
INDEX_COLUMNS = ("r.dataset = d.seq", _SUM.format("r"), "r.seq = s.record", _SUM.format("s"), "user")
INDEX_COUNT_COLUMNS = ("r.dataset = d.seq", "0", "r.seq = s.record", "0", "user")
Counts = dict[str, set[tuple[str, str, int, int]]]


def find_gaps(database: Path, index: Path) -> list[str]:
    """Return the tables in which Argilla's SQLite database and the index differ; empty if they agree."""
    return [name for name, datasets in find_differing(database, index).items() if datasets]


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether the index file is damaged, as opposed to in use or not writable."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF not in TRANSIENT_ERRORS


def find_differing(database: Path, index: Path) -> dict[str, set[str]]:
    """Return by table the datasets that differ, as 32 hex digits."""
    return _differences(_read_counts(database, DATABASE_COLUMNS), _read_counts(index, INDEX_COLUMNS))


async def find_differing_in(session: Any, index: Path) -> dict[str, set[str]]:
    """Return the same as `find_differing`, by counts only, for any database that a session of argilla-server reads."""
    from sqlalchemy import text

    database_counts = {
        name: _normalized((await session.execute(text(sql.format(*POSTGRES_COLUMNS)))).all()) for name, sql in COUNTS.items()
    }
    return _differences(database_counts, _read_counts(index, INDEX_COUNT_COLUMNS))


def _differences(database_counts: Counts, index_counts: Counts) -> dict[str, set[str]]:
    return {name: {dataset for dataset, *_ in index_counts.get(name, set()) ^ database_counts.get(name, set())} for name in COUNTS}


def _read_counts(path: Path, parts: tuple[str, ...]) -> Counts:
    if not path.exists():
        return {}
    with contextlib.closing(sqlite3.connect(path)) as db:
        try:
            return {name: _normalized(db.execute(sql.format(*parts))) for name, sql in COUNTS.items()}
        except sqlite3.OperationalError as error:
            # An index of an older release lacks tables and columns and counts as empty.
            if "no such" in str(error):
                return {}
            raise


def _normalized(rows: Iterable[Any]) -> set[tuple[str, str, int, int]]:
    # Ids are 32 hex digits in Argilla's SQLite, UUIDs in Postgres and dashed text in the index.
    return {(str(dataset).replace("-", ""), str(status), count, int(total)) for dataset, status, count, total in rows}
