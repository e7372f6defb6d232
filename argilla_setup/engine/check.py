"""Is the index whole? Argilla commits to its database before it updates the index, so a crash between the two leaves it short."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

COUNTS = {
    "records": "SELECT d.id, r.status, count(*) FROM records r JOIN datasets d ON {0} GROUP BY 1, 2",
    "responses": ("SELECT d.id, s.status, count(*) FROM responses s JOIN records r ON {1} JOIN datasets d ON {0} GROUP BY 1, 2"),
    "vectors": "SELECT d.id, '', count(*) FROM vectors v JOIN records r ON {2} JOIN datasets d ON {0} GROUP BY 1",
}


THEIRS = ("r.dataset_id = d.id", "r.id = s.record_id", "r.id = v.record_id")
OURS = ("r.dataset = d.seq", "r.seq = s.record", "r.seq = v.record")


def find_gaps(database: Path, index: Path) -> list[str]:
    """What Argilla's SQLite database and the index count differently, named; an empty list when they agree."""
    return _differences(_read_counts(database, THEIRS), index)


async def find_gaps_in(session: Any, index: Path) -> list[str]:
    """The same for a database of any kind, through a session of argilla-server's."""
    from sqlalchemy import text

    counts = {name: _plain((await session.execute(text(sql.format(*THEIRS)))).all()) for name, sql in COUNTS.items()}
    return _differences(counts, index)


def _differences(theirs: dict[str, Any], index: Path) -> list[str]:
    ours = _read_counts(index, OURS)
    return [name for name in COUNTS if ours.get(name) != theirs.get(name)]


def _read_counts(path: Path, joins: tuple[str, str, str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {name: _plain(db.execute(sql.format(*joins))) for name, sql in COUNTS.items()}


def _plain(rows: Iterable[Any]) -> list[tuple[str, str, int]]:
    # Argilla keeps ids as 32 hex digits in SQLite and as UUIDs in Postgres; the index keeps them as it gets them, with dashes.
    return sorted((str(dataset).replace("-", ""), str(status), count) for dataset, status, count in rows)
