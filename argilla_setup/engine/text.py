"""The full-text side of the index: one FTS5 table for each dataset, a column for each of its fields.

The `ascii` tokenizer takes every character beyond ASCII for part of a word, so the terms that `tokens` made are the terms it stores,
whatever Unicode tables the SQLite at hand was built with.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from argilla_setup.engine.query import Leaf, Node, positive_leaves
from argilla_setup.engine.tokens import indexable

RANKED_LEAVES = 32
"""Words that take part in the ranking; further ones only filter."""

SPELLINGS = 50
"""Near spellings looked for at most, nearest first."""


def create_table(db: sqlite3.Connection, table: str, *, columns: int) -> None:
    """An empty table with columns f0, f1 …, and its vocabulary."""
    names = ", ".join(f"f{n}" for n in range(max(columns, 1)))
    db.execute(f"CREATE VIRTUAL TABLE {table} USING fts5({names}, tokenize = \"ascii tokenchars '_'\")")
    db.execute(f"CREATE VIRTUAL TABLE {table}_words USING fts5vocab({table}, 'row')")


def drop_table(db: sqlite3.Connection, table: str) -> None:
    db.execute(f"DROP TABLE IF EXISTS {table}_words")
    db.execute(f"DROP TABLE IF EXISTS {table}")


def put_text(db: sqlite3.Connection, table: str, *, seq: int, texts: Sequence[str]) -> None:
    """Replace a record's texts, in the order of the columns."""
    db.execute(f"DELETE FROM {table} WHERE rowid = ?", (seq,))
    marks = ", ".join("?" * (len(texts) + 1))
    columns = ", ".join(["rowid", *(f"f{n}" for n in range(len(texts)))])
    db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", (seq, *map(indexable, texts)))


def delete_text(db: sqlite3.Connection, table: str, *, seq: int) -> None:
    """Take a record's text out of the index."""
    db.execute(f"DELETE FROM {table} WHERE rowid = ?", (seq,))


def match_expression(db: sqlite3.Connection, table: str, *, leaf: Leaf, column: int | None) -> str:
    """FTS5's words for a leaf. Terms hold no quote, so quoting them is safe."""
    phrase = '"' + " ".join(leaf.terms) + '"'
    if leaf.fuzz:
        phrase = " OR ".join(f'"{word}"' for word in find_spellings(db, table, word=leaf.terms[0], edits=leaf.fuzz)) or phrase
    elif leaf.slop:
        phrase = "NEAR(" + " ".join(f'"{term}"' for term in leaf.terms) + f", {leaf.slop})"
    elif leaf.prefix:
        phrase += " *"
    return phrase if column is None else f"f{column} : ({phrase})"


def ranking_expression(db: sqlite3.Connection, table: str, *, node: Node, column: int | None) -> str | None:
    """The expression whose bm25 ranks a query's matches; None for one made of negations."""
    leaves = positive_leaves(node)[:RANKED_LEAVES]
    return " OR ".join(f"({match_expression(db, table, leaf=leaf, column=column)})" for leaf in leaves) or None


def find_spellings(db: sqlite3.Connection, table: str, *, word: str, edits: int) -> list[str]:
    """Indexed terms within so many single-character edits, nearest first."""
    near = db.execute(f"SELECT term FROM {table}_words WHERE length(term) BETWEEN ? AND ?", (len(word) - edits, len(word) + edits))
    ranked = sorted((distance, term) for (term,) in near if (distance := edit_distance(word, term, at_most=edits)) <= edits)
    return [term for _, term in ranked[:SPELLINGS]]


def edit_distance(a: str, b: str, *, at_most: int) -> int:
    """Levenshtein distance; any number above `at_most` once it is sure to be more."""
    if abs(len(a) - len(b)) > at_most:
        return at_most + 1
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
        if min(row) > at_most:
            return at_most + 1
    return row[-1]
