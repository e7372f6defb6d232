"""The index file's tables and how an older file becomes a newer one.

The index can always be made again from Argilla's database, and the check at the server's start does so for what is missing. So a
migration may forget what it cannot carry over, and a file from a newer release is begun anew.
"""

from __future__ import annotations

import logging
import sqlite3

VERSION = 2
_LOG = logging.getLogger("argilla.search_engine.sqlite")

# Responses, answers and attributes name their dataset too, so that a filter reads one range of an index.
# Times are whole microseconds since 1970: they are compared with the database's to the last digit.
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
    """Bring the file to VERSION; the caller holds the write lock."""
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found == VERSION:
        return
    if 0 < found < VERSION:
        for step in MIGRATIONS[found - 1 :]:
            step(db)
    else:
        if found > VERSION:
            _LOG.warning("the search index was written by a newer release; it is built again from the database")
        # Files before the first numbered schema hold terms cut by other rules, so nothing of theirs can be found by the new ones.
        _drop_everything(db)
        for statement in TABLES.split(";"):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")


def _count_writes_to_records(db: sqlite3.Connection) -> None:
    # Records are numbered like vectors, and a person's order is read from memory: the index by status need not hold it any more.
    db.execute("ALTER TABLE generations RENAME COLUMN vector TO name")
    db.execute("DROP INDEX records_by_status")
    db.execute("CREATE INDEX records_by_status ON records (dataset, status)")


def _drop_everything(db: sqlite3.Connection) -> None:
    # A virtual table takes its shadow tables along, and a vocabulary must go before the table it reads.
    order = "sql NOT LIKE '%fts5vocab%', sql NOT LIKE 'CREATE VIRTUAL%'"
    sql = f"SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY {order}"
    for (name,) in db.execute(sql).fetchall():
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone():
            db.execute(f'DROP TABLE "{name}"')


MIGRATIONS = (_count_writes_to_records,)
"""Step n, counted from one, makes a file of version n one of version n + 1."""
