"""The full-text side of the index: one FTS5 table for each dataset, a column for each of its fields, and a list of its words.

The table stores the terms that `tokens` made with spaces between. Its `ascii` tokenizer is told to take every other character for part
of a word, so it splits them again as they were, whatever Unicode tables the SQLite at hand was built with.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from argilla_setup.engine.documents import KEYWORD
from argilla_setup.engine.near import is_near, nearest_spellings
from argilla_setup.engine.query import Both, Either, Everything, Leaf, Node, Not, positive_leaves
from argilla_setup.engine.tokens import lower, tokenize

RANKED_LEAVES = 32
"""Words that take part in the ranking; further ones only filter."""

GAP = "\x1d"
"""Stands between the texts of a conversation."""

GAP_PLACES = 100
"""How far apart Elasticsearch puts them: no phrase reaches over, and few near words do."""

NEVER = '"\x1c"'
"""A term that no text holds."""

_TOKEN_CHARACTERS = "".join(c for c in map(chr, range(1, 128)) if not c.isalnum() and c not in " '\"")
_CAPITAL = "\x1e"
_BLANK = "\x1f"
FieldValue = str | Sequence[str]
Sql = tuple[str, list[Any]]
"""A condition and the values for its question marks."""


@dataclass(frozen=True)
class Column:
    """A field of a dataset as its table knows it."""

    number: int
    name: str

    @property
    def is_keyword(self) -> bool:
        """Searched whole instead of by words."""
        return self.name.endswith(KEYWORD)


@dataclass(frozen=True)
class Texts:
    """A dataset's table, and the fields of it that are asked about."""

    db: sqlite3.Connection
    table: str
    columns: tuple[Column, ...]
    spellings: dict[tuple[str, int, int], list[str]] = field(default_factory=dict)
    """Those found so far; a query is written out more than once."""

    def expression(self, node: Node) -> str | None:
        """The whole query in FTS5's own language, which joins it fastest; None where that cannot say it."""
        if isinstance(node, Leaf):
            return None if self._needs_places(node) else self.leaf_expression(node)
        if isinstance(node, Not | Everything):
            return None
        wanted = [child for child in node.nodes if not isinstance(child, Not)]
        unwanted = [child.node for child in node.nodes if isinstance(child, Not)]
        if not wanted or (unwanted and isinstance(node, Either)) or len(positive_leaves(node)) > RANKED_LEAVES:
            return None
        parts = [self.expression(child) for child in (*wanted, *unwanted)]
        if any(part is None for part in parts):
            return None
        said = (" AND " if isinstance(node, Both) else " OR ").join(f"({part})" for part in parts[: len(wanted)])
        return "".join([f"({said})", *(f" NOT ({part})" for part in parts[len(wanted) :])])

    def ranking_expression(self, node: Node) -> str | None:
        """The expression whose bm25 ranks a query's matches; None for one made of negations."""
        leaves = positive_leaves(node)[:RANKED_LEAVES]
        return " OR ".join(f"({self.leaf_expression(leaf)})" for leaf in leaves) or None

    def condition(self, node: Node) -> Sql:
        """A condition on `r`, the record, for any query; each word is one look into the table, so negation works anywhere."""
        if isinstance(node, Everything):
            return "1", []
        if isinstance(node, Not):
            sql, values = self.condition(node.node)
            return f"NOT ({sql})", values
        expression = self.expression(node)
        if expression is not None:
            return f"r.seq IN (SELECT rowid FROM {self.table} WHERE {self.table} MATCH ?)", [expression]
        if isinstance(node, Leaf):
            return "r.seq IN (SELECT value FROM json_each(?))", [json.dumps(self._find_near(node))]
        return balanced([self.condition(child) for child in node.nodes], "AND" if isinstance(node, Both) else "OR")

    def leaf_expression(self, leaf: Leaf) -> str:
        """FTS5's words for a leaf: one of the fields holds it. Near words are taken for words that stand near in any order."""
        parts = [(column, self._column_expression(leaf, column)) for column in self.columns]
        return " OR ".join(f"f{column.number} : ({said})" for column, said in parts if said is not None) or NEVER

    def _column_expression(self, leaf: Leaf, column: Column) -> str | None:
        if leaf.kind == "prefix":
            start = keyword_term(leaf.text) if column.is_keyword else lower(leaf.text)
            return f"{_quoted(start)} *" if _is_term(start) else None
        if leaf.kind == "spelling":
            word = leaf.text if column.is_keyword else lower(leaf.text)
            key = word, column.number, leaf.number
            if key not in self.spellings:
                self.spellings[key] = self._find_spellings(word, column, edits=leaf.number)
            return " OR ".join(map(_quoted, self.spellings[key])) or None
        if column.is_keyword:
            return _quoted(keyword_term(leaf.text)) if leaf.text else None
        terms = tokenize(leaf.text)
        if not terms:
            return None
        if leaf.kind == "words":
            return " AND ".join(map(_quoted, dict.fromkeys(terms)))
        if leaf.number and len(terms) > 1:
            # Wide enough for every order of the terms.
            return f"NEAR({' '.join(map(_quoted, dict.fromkeys(terms)))}, {min(leaf.number + len(terms), 2**31 - 1)})"
        return _quoted(" ".join(terms))

    def _find_spellings(self, word: str, column: Column, *, edits: int) -> list[str]:
        sql = f"SELECT term FROM {self.table}_words WHERE field = ? AND letters BETWEEN ? AND ?"
        terms = [term for (term,) in self.db.execute(sql, (column.number, len(word) - edits, len(word) + edits))]
        # The list keeps words whose last record has gone; those must not take the place of one that is still there.
        live = f"SELECT 1 FROM {self.table} WHERE {self.table} MATCH ? LIMIT 1"
        while True:
            found = nearest_spellings(word, terms, edits=edits)
            stored = {term: keyword_term(term) if column.is_keyword else term for term in found}
            gone = {t for t in found if not self.db.execute(live, (f"f{column.number} : {_quoted(stored[t])}",)).fetchone()}
            if not gone:
                return list(stored.values())
            terms = [term for term in terms if term not in gone]

    def _needs_places(self, leaf: Leaf) -> bool:
        return leaf.kind == "phrase" and leaf.number > 0 and len(tokenize(leaf.text)) > 1

    def _find_near(self, leaf: Leaf) -> list[int]:
        found: set[int] = set()
        terms = tokenize(leaf.text)
        for column in self.columns:
            sql = f"SELECT rowid, f{column.number} FROM {self.table} WHERE {self.table} MATCH ?"
            said = f"f{column.number} : ({self._column_expression(leaf, column)})"
            rows = self.db.execute(sql, (said,)).fetchall()
            found.update(seq for seq, stored in rows if column.is_keyword or is_near(terms, find_places(stored, terms), slop=leaf.number))
        return sorted(found)


def balanced(parts: Sequence[Sql], word: str) -> Sql:
    """Join conditions as a tree of even depth: SQLite refuses expressions nested more than a thousand deep."""
    if not parts:
        return "1", []
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    (left, left_values), (right, right_values) = balanced(parts[:half], word), balanced(parts[half:], word)
    return f"({left}) {word} ({right})", [*left_values, *right_values]


def create_table(db: sqlite3.Connection, table: str, *, columns: int) -> None:
    """An empty table with columns f0, f1 …, and the list of its words."""
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


def find_places(stored: str, terms: Iterable[str]) -> dict[str, list[int]]:
    """Where these terms stand in a stored text."""
    places: dict[str, list[int]] = {term: [] for term in terms}
    at = 0
    for term in stored.split(" "):
        if term == GAP:
            at += GAP_PLACES
            continue
        if term in places:
            places[term].append(at)
        at += 1
    return places


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


def _is_term(text: str) -> bool:
    return bool(text) and " " not in text and "\x00" not in text


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'
