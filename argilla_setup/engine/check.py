"""Is the index whole? Argilla commits to its database before it updates the index, so a crash between the two leaves it short."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

COUNTS = {
    "records": "SELECT d.id, r.status, count(*) FROM records r JOIN datasets d ON {0} GROUP BY 1, 2",
    "responses": ("SELECT d.id, s.status, count(*) FROM responses s JOIN records r ON {1} JOIN datasets d ON {0} GROUP BY 1, 2"),
    "vectors": "SELECT d.id, '', count(*) FROM vectors v JOIN records r ON {2} JOIN datasets d ON {0} GROUP BY 1",
}


def find_gaps(database: Path, index: Path) -> list[str]:
    """What the two count differently, named; an empty list when they agree."""
    ours = _counts(index, joins=("r.dataset = d.seq", "r.seq = s.record", "r.seq = v.record"))
    theirs = _counts(database, joins=("r.dataset_id = d.id", "r.id = s.record_id", "r.id = v.record_id"))
    return [name for name in COUNTS if ours.get(name) != theirs.get(name)]


def _counts(path: Path, *, joins: tuple[str, str, str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {
            # Argilla keeps ids as 32 hex digits, the index as it gets them, with dashes.
            name: sorted((dataset.replace("-", ""), status, count) for dataset, status, count in db.execute(sql.format(*joins)))
            for name, sql in COUNTS.items()
        }
