"""What a dataset's full-text table is asked, in FTS5's own language where that can say it, and as sets of records where it cannot."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from argilla_setup.engine.documents import KEYWORD
from argilla_setup.engine.fuzzy import GAP, are_near, nearest_spellings
from argilla_setup.engine.query import Both, Either, Everything, Leaf, Node, Not, count_leaves, positive_leaves
from argilla_setup.engine.rows import Bitmap, Numbers, Rows, read_numbers, read_pairs
from argilla_setup.engine.tokenizer import lower, tokenize

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


RANKED_LEAVES = 32
"""Words that take part in the ranking; further ones only filter."""

CHUNK = 4096
"""Records whose texts are read at a time."""

FINE = 1e14
"""Scores are read as whole numbers of this part of one; the least that bm25 gives is around a millionth, the most some thousands."""

NEVER = '"\x1c"'
"""A term that no text holds."""


@dataclass(frozen=True)
class Texts:
    """A dataset's table, the fields of it that are asked about, and its records."""

    db: sqlite3.Connection
    table: str
    columns: tuple[Column, ...]
    rows: Rows
    spellings: dict[tuple[str, int, int], list[str]] = field(default_factory=dict)
    bitmaps: dict[str, Bitmap] = field(default_factory=dict)
    """What was found so far, by expression; a query is asked for its records and for their ranks."""

    def find(self, node: Node) -> Bitmap:
        """The records that match. Each word is one look into the table, so negation works anywhere."""
        # A query is read from left to right, so a long one leans to the left, deeper than Python calls may be nested.
        leaning: list[Both | Either] = []
        while isinstance(node, Both | Either) and self.expression(node) is None:
            leaning.append(node)
            node = node.nodes[0]
        found = self._find_upright(node)
        for group in reversed(leaning):
            for child in group.nodes[1:]:
                other = self.find(child)
                found = found & other if isinstance(group, Both) else found | other
        return found

    def rank(self, node: Node) -> tuple[Numbers, NDArray[np.float64]] | None:
        """Records and how well they match by bm25; None for a query made of negations. A record that is not named matches no word."""
        whole = self.expression(node)
        said = whole or " OR ".join(f"({self.leaf_expression(leaf)})" for leaf in positive_leaves(node)[:RANKED_LEAVES])
        if not said:
            return None
        sql = f"SELECT rowid AS n, CAST(rank * {-FINE} AS INTEGER) AS m FROM {self.table} WHERE {self.table} MATCH ?"
        seqs, scores = read_pairs(self.db, sql, [said])
        self.bitmaps[said] = self.rows.bitmap(seqs)
        return seqs, scores / FINE

    def expression(self, node: Node) -> str | None:
        """The whole query in FTS5's own language, which joins it fastest; None where that cannot say it."""
        if isinstance(node, Leaf):
            return None if self._needs_places(node) else self.leaf_expression(node)
        if isinstance(node, Not | Everything) or count_leaves(node) > RANKED_LEAVES:
            return None
        wanted = [child for child in node.nodes if not isinstance(child, Not)]
        unwanted = [child.node for child in node.nodes if isinstance(child, Not)]
        if not wanted or (unwanted and isinstance(node, Either)):
            return None
        parts = [self.expression(child) for child in (*wanted, *unwanted)]
        if any(part is None for part in parts):
            return None
        said = (" AND " if isinstance(node, Both) else " OR ").join(f"({part})" for part in parts[: len(wanted)])
        return "".join([f"({said})", *(f" NOT ({part})" for part in parts[len(wanted) :])])

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
            return _near(terms, leaf.number + len(terms) - 2)
        return _quoted(" ".join(terms))

    def _find_spellings(self, word: str, column: Column, *, edits: int) -> list[str]:
        sql = f"SELECT term FROM {self.table}_words WHERE field = ? AND letters BETWEEN ? AND ?"
        given = (column.number, len(word) - edits, len(word) + edits)
        terms = json.loads(self.db.execute(f"SELECT json_group_array(term) FROM ({sql})", given).fetchone()[0])
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

    def _find_upright(self, node: Node) -> Bitmap:
        if isinstance(node, Everything):
            return self.rows.everything
        if isinstance(node, Not):
            return self.rows.everything & ~self.find(node.node)
        expression = self.expression(node)
        if expression is None and isinstance(node, Leaf):
            return self._find_near(node)
        assert expression is not None
        if expression not in self.bitmaps:
            self.bitmaps[expression] = self.rows.bitmap(self._find_rows(expression))
        return self.bitmaps[expression]

    def _find_rows(self, expression: str) -> Numbers:
        return read_numbers(self.db, f"SELECT rowid AS n FROM {self.table} WHERE {self.table} MATCH ?", [expression])

    def _find_near(self, leaf: Leaf) -> Bitmap:
        terms = tokenize(leaf.text)
        found = np.zeros(self.rows.size, dtype=bool)
        for column in self.columns:
            near = self.rows.bitmap(self._find_rows(f"f{column.number} : ({self._column_expression(leaf, column)})"))
            unsure = near & ~found if not column.is_keyword else np.zeros_like(near)
            closest = leaf.number - len(terms)
            if closest >= 0 and len(set(terms)) == len(terms):
                # So close that no order of the terms is too far, if no border between texts lies there.
                sure = f'f{column.number} : ({_near(terms, closest)}) NOT f{column.number} : "{GAP}"'
                unsure = unsure & ~self.rows.bitmap(self._find_rows(sure))
            seqs = np.flatnonzero(unsure)
            for part in (seqs[n : n + CHUNK] for n in range(0, len(seqs), CHUNK)):
                near[part] = self._are_near(column, part, terms=terms, slop=leaf.number)
            found |= near
        return found

    def _are_near(self, column: Column, seqs: Numbers, *, terms: Sequence[str], slop: int) -> Bitmap:
        # Read as one text, as numbers are: a line for each record. FTS5 keeps its columns in a table of its own.
        sql = f"SELECT c.c{column.number} AS text FROM json_each(?) j CROSS JOIN {self.table}_content c ON c.id = j.value"
        joined = self.db.execute(f"SELECT group_concat(text, char(10)) FROM ({sql} LIMIT -1)", (json.dumps(seqs.tolist()),)).fetchone()[0]
        return are_near(joined, terms, slop=slop)


def _near(terms: Sequence[str], between: int) -> str:
    return f"NEAR({' '.join(map(_quoted, dict.fromkeys(terms)))}, {min(between, 2**31 - 1)})"


def _is_term(text: str) -> bool:
    return bool(text) and " " not in text and "\x00" not in text


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'
