"""The tables of the index file and the migrations of older files.

The index can always be rebuilt from Argilla's database, and the check at the server's start does so for datasets that differ. A migration
may therefore drop what it cannot convert, and the file of a newer release is emptied.
"""

from __future__ import annotations

import logging
import sqlite3

VERSION = 2
_LOG = logging.getLogger("argilla.search_engine.sqlite")

# Responses, answers and attributes contain their dataset too, so that a filter reads one range of an index.
# Times are integer microseconds since 1970, because they are compared exactly with those of Argilla's database.
TABLES = """
CREATE TABLE datasets (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, fields TEXT NOT NULL, questions TEXT NOT NULL
);
CREATE TABLE records (
    seq INTEGER PRIMARY KEY, dataset INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, external_id TEXT, status TEXT NOT NULL,
    inserted_at INTEGER, updated_at INTEGER, shuffle INTEGER NOT NULL
);
CREATE INDEX records_by_status ON records (dataset, status);
CREATE INDEX records_by_inserted ON records (dataset, inserted_at);
CREATE INDEX records_by_updated ON records (dataset, updated_at);
CREATE TABLE attributes (
    record INTEGER NOT NULL, name TEXT NOT NULL, value NOT NULL, dataset INTEGER NOT NULL, PRIMARY KEY (record, name, value)
) WITHOUT ROWID;
CREATE INDEX attributes_by_value ON attributes (dataset, name, value, record);
CREATE TABLE suggestions (
    record INTEGER NOT NULL, question TEXT NOT NULL, dataset INTEGER NOT NULL, updated_at INTEGER, PRIMARY KEY (record, question)
) WITHOUT ROWID;
CREATE INDEX suggestions_by_dataset ON suggestions (dataset, updated_at);
CREATE TABLE responses (
    seq INTEGER PRIMARY KEY, record INTEGER NOT NULL, dataset INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, user TEXT, status TEXT,
    updated_at INTEGER
);
CREATE INDEX responses_by_record ON responses (record, user, status);
CREATE INDEX responses_by_user ON responses (dataset, user, status, record);
CREATE TABLE answers (
    response INTEGER NOT NULL, question TEXT NOT NULL, value NOT NULL, dataset INTEGER NOT NULL, PRIMARY KEY (response, question, value)
) WITHOUT ROWID;
CREATE INDEX answers_by_value ON answers (dataset, question, value, response);
CREATE TABLE vectors (
    record INTEGER NOT NULL, vector TEXT NOT NULL, value BLOB NOT NULL, dataset INTEGER NOT NULL, changed INTEGER NOT NULL,
    PRIMARY KEY (record, vector)
);
CREATE INDEX vectors_by_change ON vectors (vector, changed);
CREATE INDEX vectors_by_dataset ON vectors (dataset);
CREATE TABLE generations (name TEXT PRIMARY KEY, changed INTEGER NOT NULL, epoch INTEGER NOT NULL)
"""


def prepare_schema(db: sqlite3.Connection) -> None:
    """Migrate the file to VERSION, inside the caller's write transaction."""
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found == VERSION:
        return
    if 0 < found < VERSION:
        for step in MIGRATIONS[found - 1 :]:
            step(db)
    else:
        if found > VERSION:
            _LOG.warning("the search index was written by a newer release; it is rebuilt from the database")
        # Files before the first numbered schema were tokenized by other rules, so their terms would not be found.
        _drop_everything(db)
        for statement in TABLES.split(";"):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")


def _count_writes_to_records(db: sqlite3.Connection) -> None:
    # Datasets get generations as vectors have them, and a user's order is computed in memory and leaves the index by status.
    db.execute("ALTER TABLE generations RENAME COLUMN vector TO name")
    db.execute("DROP INDEX records_by_status")
    db.execute("CREATE INDEX records_by_status ON records (dataset, status)")


def _drop_everything(db: sqlite3.Connection) -> None:
    # Dropping a virtual table drops its shadow tables, and a vocabulary must be dropped before the table that it reads.
    order = "sql NOT LIKE '%fts5vocab%', sql NOT LIKE 'CREATE VIRTUAL%'"
    sql = f"SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY {order}"
    for (name,) in db.execute(sql).fetchall():
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone():
            db.execute(f'DROP TABLE "{name}"')


MIGRATIONS = (_count_writes_to_records,)
"""The n-th function, counted from one, migrates version n to version n + 1."""
