"""The full-text side of the index: one FTS5 table for each dataset, a column for each of its fields, and a list of its words.

The table stores the terms that `tokens` made with spaces between. Its `ascii` tokenizer is told to take every other character for part
of a word, so it splits them again as they were, whatever Unicode tables the SQLite at hand was built with.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from argilla_setup.engine.documents import KEYWORD
from argilla_setup.engine.near import GAP
from argilla_setup.engine.tokens import tokenize

_TOKEN_CHARACTERS = "".join(c for c in map(chr, range(1, 128)) if not c.isalnum() and c not in " '\"")
_CAPITAL = "\x1e"
_BLANK = "\x1f"
FieldValue = str | Sequence[str]


@dataclass(frozen=True)
class Column:
    """A field of a dataset as its table knows it."""

    number: int
    name: str

    @property
    def is_keyword(self) -> bool:
        """Searched whole instead of by words."""
        return self.name.endswith(KEYWORD)


def create_table(db: sqlite3.Connection, table: str, *, columns: int) -> None:
    """An empty table with columns f0, f1 …, and the list of its words, in the place of any that a damaged file has left."""
    drop_table(db, table)
    names = ", ".join(f"f{n}" for n in range(max(columns, 1)))
    characters = _TOKEN_CHARACTERS + "''" + '""'
    db.execute(f"CREATE VIRTUAL TABLE {table} USING fts5({names}, tokenize = \"ascii tokenchars '{characters}'\")")
    db.execute(
        f"CREATE TABLE {table}_words (field INTEGER NOT NULL, letters INTEGER NOT NULL, term TEXT NOT NULL,"
        " PRIMARY KEY (field, letters, term)) WITHOUT ROWID"
    )


def drop_table(db: sqlite3.Connection, table: str) -> None:
    """Forget a table and its words."""
    db.execute(f"DROP TABLE IF EXISTS {table}_words")
    db.execute(f"DROP TABLE IF EXISTS {table}")


def put_texts(db: sqlite3.Connection, table: str, *, columns: Sequence[str], rows: Iterable[tuple[int, Sequence[FieldValue]]]) -> None:
    """Replace the texts of these records; each has one value for each column."""
    stored = [(seq, [_stored(value, name) for name, value in zip(columns, values, strict=True)]) for seq, values in rows]
    delete_texts(db, table, [seq for seq, _ in stored])
    marks, names = ", ".join("?" * (len(columns) + 1)), "".join(f", f{n}" for n in range(len(columns)))
    db.executemany(f"INSERT INTO {table} (rowid{names}) VALUES ({marks})", [(seq, *texts) for seq, texts in stored])
    words = {(n, term) for _, texts in stored for n, text in enumerate(texts) for term in text.split(" ")}
    spelled = [(n, _spelled(term) if columns[n].endswith(KEYWORD) else term) for n, term in words if term and term != GAP]
    db.executemany(f"INSERT OR IGNORE INTO {table}_words VALUES (?, ?, ?)", [(n, len(term), term) for n, term in spelled])


def delete_texts(db: sqlite3.Connection, table: str, seqs: Sequence[int]) -> None:
    """Take these records' texts out of the table."""
    db.executemany(f"DELETE FROM {table} WHERE rowid = ?", [(seq,) for seq in seqs])


def keyword_term(value: str) -> str:
    """A keyword as one term that the table neither splits nor folds."""
    return "".join(_CAPITAL + c.lower() if "A" <= c <= "Z" else _BLANK if c == " " else c for c in value)


def _spelled(term: str) -> str:
    """The keyword of a term."""
    first, *rest = term.replace(_BLANK, " ").split(_CAPITAL)
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _stored(value: FieldValue, name: str) -> str:
    texts = [value] if isinstance(value, str) else list(value)
    if name.endswith(KEYWORD):
        return f" {GAP} ".join(dict.fromkeys(keyword_term(text) for text in texts))
    return f" {GAP} ".join(" ".join(tokenize(text)) for text in texts)
