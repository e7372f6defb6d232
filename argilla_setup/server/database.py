"""argilla_setup.server.database."""

from __future__ import annotations

import contextlib
import sqlite3

from argilla_setup.server.home import Home

COUNTED = ("workspaces", "users", "datasets", "records", "responses")


def count_contents(home: Home) -> dict[str, int]:
    """Rows in the server's own database, read without the server."""
    if not home.database.exists():
        return {}
    with contextlib.closing(sqlite3.connect(f"{home.database.as_uri()}?mode=ro", uri=True)) as db:
        held = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in COUNTED if table in held}
