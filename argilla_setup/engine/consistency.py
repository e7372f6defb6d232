"""Is the index whole? Argilla commits to its database before it updates the index, so a crash between the two leaves it short.

Counts tell what is missing, and the sum of all times of change tells a change that the index did not see: of microseconds less the
multiples of a prime number, since plain ones pass 64 bits at the five-thousandth record.
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
PASSING = frozenset(
    getattr(sqlite3, f"SQLITE_{name}")
    for name in ("BUSY", "LOCKED", "FULL", "IOERR", "READONLY", "CANTOPEN", "PERM", "AUTH", "NOMEM", "INTERRUPT")
)
"""What SQLite says of a whole file that is in use, on a full disk or out of reach."""
PRIME = 2**31 - 1
# SQLite's own times end at the millisecond: given the whole text, it rounds .9996 s up to the next second.
_SECONDS = "CAST(strftime('%s', substr({0}.updated_at, 1, 19)) AS INTEGER)"
_MICROSECONDS = f"coalesce(sum(({_SECONDS} * 1000000 + CAST(substr({{0}}.updated_at, 21) AS INTEGER)) % {PRIME}), 0)"
THEIRS = (
    "r.dataset_id = d.id",
    _MICROSECONDS.format("r"),
    "r.id = s.record_id",
    _MICROSECONDS.format("s"),
    "user_id",
)
ELSEWHERE = ("r.dataset_id = d.id", "0", "r.id = s.record_id", "0", "user_id")
"""Another database than SQLite is asked for its counts alone."""

_SUM = f"coalesce(sum({{0}}.updated_at % {PRIME}), 0)"
OURS = ("r.dataset = d.seq", _SUM.format("r"), "r.seq = s.record", _SUM.format("s"), "user")
OURS_BY_COUNT = ("r.dataset = d.seq", "0", "r.seq = s.record", "0", "user")
Counts = dict[str, set[tuple[str, str, int, int]]]


def find_gaps(database: Path, index: Path) -> list[str]:
    """What Argilla's SQLite database and the index hold differently, named; an empty list when they agree."""
    return [name for name, datasets in find_differing(database, index).items() if datasets]


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is at fault: no database, torn, or with tables that do not belong together."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF not in PASSING


def find_differing(database: Path, index: Path) -> dict[str, set[str]]:
    """The datasets, as 32 hex digits, whose records, responses, suggestions or vectors differ."""
    return _differences(_read_counts(database, THEIRS), _read_counts(index, OURS))


async def find_differing_in(session: Any, index: Path) -> dict[str, set[str]]:
    """The same by counts alone for a database of any kind, through a session of argilla-server's."""
    from sqlalchemy import text

    theirs = {name: _plain((await session.execute(text(sql.format(*ELSEWHERE)))).all()) for name, sql in COUNTS.items()}
    return _differences(theirs, _read_counts(index, OURS_BY_COUNT))


def _differences(theirs: Counts, ours: Counts) -> dict[str, set[str]]:
    return {name: {dataset for dataset, *_ in ours.get(name, set()) ^ theirs.get(name, set())} for name in COUNTS}


def _read_counts(path: Path, parts: tuple[str, ...]) -> Counts:
    if not path.exists():
        return {}
    with contextlib.closing(sqlite3.connect(path)) as db:
        try:
            return {name: _plain(db.execute(sql.format(*parts))) for name, sql in COUNTS.items()}
        except sqlite3.OperationalError as error:
            # An index of an older release lacks tables and columns; it holds nothing that can be used.
            if "no such" in str(error):
                return {}
            raise


def _plain(rows: Iterable[Any]) -> set[tuple[str, str, int, int]]:
    # Argilla keeps ids as 32 hex digits in SQLite and as UUIDs in Postgres; the index keeps them as it gets them, with dashes.
    return {(str(dataset).replace("-", ""), str(status), count, int(total)) for dataset, status, count, total in rows}
