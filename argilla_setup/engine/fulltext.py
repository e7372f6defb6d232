"""The full-text index of a dataset: an FTS5 table, queried in FTS5's own language where possible and by sets of records elsewhere.

Text is tokenized as Lucene's StandardAnalyzer does it and stored as terms between spaces; keywords are stored as one escaped term. FTS5 has
no fuzzy terms and no phrases with slop. Fuzzy terms are expanded from a list of the table's terms by Levenshtein distance. For phrases with
slop FTS5's NEAR finds candidates, whose stored texts are then compared position by position, thousands at a time, with numpy.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from argilla_setup.engine.documents import KEYWORD
from argilla_setup.engine.query import And, Leaf, MatchAll, Node, Not, Or, count_leaves, positive_leaves
from argilla_setup.engine.rows import Bitmap, Numbers, Rows, read_numbers, read_pairs
from argilla_setup.engine.tokenizer import lower, tokenize

RANKED_LEAVES = 32
"""Words that take part in the ranking; further ones only filter."""
CHUNK = 4096
"""Records whose texts are compared at a time."""
SCORE_SCALE = 1e14
"""Factor by which scores are read as integers; bm25 ranges from about a millionth to some thousands."""
NO_MATCH = '"\x1c"'
"""An FTS5 expression that matches no text."""
MAX_SPELLINGS = 10
"""Expansions of a fuzzy term; Argilla asks Elasticsearch for this many (`fuzzy_max_expansions`)."""
GAP = "\x1d"
"""Separator between the messages of a conversation."""
GAP_POSITIONS = 100
"""Positions between messages, Elasticsearch's `position_increment_gap`: no phrase and few slops cross them."""
TEXT_DISTANCE = 2**34
"""Positions between texts on the common axis: more than any slop."""
# Keywords are stored without splitting and case folding: FTS5's ascii tokenizer would do both.
_CAPITAL, _BLANK = "\x1e", "\x1f"
_TOKEN_CHARACTERS = "".join(c for c in map(chr, range(1, 128)) if not c.isalnum() and c not in " '\"")

FieldValue = str | Sequence[str]
"""A text, or the messages of a conversation."""


@dataclass(frozen=True)
class Column:
    """A field of a dataset and its number in the table."""

    number: int
    name: str

    @property
    def is_keyword(self) -> bool:
        """True if values are matched as a whole instead of by words."""
        return self.name.endswith(KEYWORD)


def create_table(db: sqlite3.Connection, table: str, *, columns: int) -> None:
    """Create an empty table and the list of its terms.

    Args:
        db: a connection inside a write transaction.
        table: name of the table.
        columns: number of fields; they are named f0, f1 ….
    """
    drop_table(db, table)  # a damaged file may contain tables of this name
    names = ", ".join(f"f{n}" for n in range(max(columns, 1)))
    characters = _TOKEN_CHARACTERS + "''" + '""'
    db.execute(f"CREATE VIRTUAL TABLE {table} USING fts5({names}, tokenize = \"ascii tokenchars '{characters}'\")")
    db.execute(
        f"CREATE TABLE {table}_words (field INTEGER NOT NULL, letters INTEGER NOT NULL, term TEXT NOT NULL,"
        " PRIMARY KEY (field, letters, term)) WITHOUT ROWID"
    )


def drop_table(db: sqlite3.Connection, table: str) -> None:
    """Delete a table and the list of its terms."""
    db.execute(f"DROP TABLE IF EXISTS {table}_words")
    db.execute(f"DROP TABLE IF EXISTS {table}")


def put_texts(db: sqlite3.Connection, table: str, *, columns: Sequence[str], rows: Iterable[tuple[int, Sequence[FieldValue]]]) -> None:
    """Replace the texts of records.

    Args:
        db: a connection inside a write transaction.
        table: name of the table.
        columns: names of the fields.
        rows: the records' numbers, each with one value per field.
    """
    stored = [(seq, [_stored_text(value, name) for name, value in zip(columns, values, strict=True)]) for seq, values in rows]
    delete_texts(db, table, [seq for seq, _ in stored])
    marks, names = ", ".join("?" * (len(columns) + 1)), "".join(f", f{n}" for n in range(len(columns)))
    db.executemany(f"INSERT INTO {table} (rowid{names}) VALUES ({marks})", [(seq, *texts) for seq, texts in stored])
    words = {(n, term) for _, texts in stored for n, text in enumerate(texts) for term in text.split(" ")}
    terms = [(n, _unescape_keyword(term) if columns[n].endswith(KEYWORD) else term) for n, term in words if term and term != GAP]
    db.executemany(f"INSERT OR IGNORE INTO {table}_words VALUES (?, ?, ?)", [(n, len(term), term) for n, term in terms])


def delete_texts(db: sqlite3.Connection, table: str, seqs: Sequence[int]) -> None:
    """Delete the texts of records.

    Args:
        db: a connection inside a write transaction.
        table: name of the table.
        seqs: the records' numbers.
    """
    db.executemany(f"DELETE FROM {table} WHERE rowid = ?", [(seq,) for seq in seqs])


def keyword_term(value: str) -> str:
    """Return a keyword escaped as one term without spaces and capital letters."""
    return "".join(_CAPITAL + c.lower() if "A" <= c <= "Z" else _BLANK if c == " " else c for c in value)


def _unescape_keyword(term: str) -> str:
    first, *rest = term.replace(_BLANK, " ").split(_CAPITAL)
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _stored_text(value: FieldValue, name: str) -> str:
    texts = [value] if isinstance(value, str) else list(value)
    if name.endswith(KEYWORD):
        return f" {GAP} ".join(dict.fromkeys(keyword_term(text) for text in texts))
    return f" {GAP} ".join(" ".join(tokenize(text)) for text in texts)


@dataclass(frozen=True)
class FullText:
    """One search in a dataset's table: the searched fields, the records, and what was found so far."""

    db: sqlite3.Connection
    table: str
    columns: tuple[Column, ...]
    rows: Rows
    spellings: dict[tuple[str, int, int], list[str]] = field(default_factory=dict)
    bitmaps: dict[str, Bitmap] = field(default_factory=dict)
    """Matching records by FTS5 expression, since one query is both ranked and searched."""

    def find(self, node: Node) -> Bitmap:
        """Return the matching records. Every term that FTS5 cannot combine is one lookup, so that negation works anywhere."""
        # Queries are parsed from left to right, so the tree of a long one leans left, deeper than Python's recursion limit.
        leaning: list[And | Or] = []
        while isinstance(node, And | Or) and self.expression(node) is None:
            leaning.append(node)
            node = node.nodes[0]
        found = self._find_node(node)
        for group in reversed(leaning):
            for child in group.nodes[1:]:
                other = self.find(child)
                found = found & other if isinstance(group, And) else found | other
        return found

    def rank(self, node: Node) -> tuple[Numbers, NDArray[np.float64]] | None:
        """Return records with their bm25 scores; None for a query of negations only. Other records match no word."""
        expression = self.expression(node) or " OR ".join(
            f"({self.leaf_expression(leaf)})" for leaf in positive_leaves(node)[:RANKED_LEAVES]
        )
        if not expression:
            return None
        # SQLite takes a microsecond to print a float and a fraction of that for an integer.
        sql = f"SELECT rowid AS n, CAST(rank * {-SCORE_SCALE} AS INTEGER) AS m FROM {self.table} WHERE {self.table} MATCH ?"
        seqs, scores = read_pairs(self.db, sql, [expression])
        self.bitmaps[expression] = self.rows.bitmap(seqs)
        return seqs, scores / SCORE_SCALE

    def expression(self, node: Node) -> str | None:
        """Return the query in FTS5's language, which is evaluated fastest; None if FTS5 cannot express it."""
        if isinstance(node, Leaf):
            has_slop = node.kind == "phrase" and node.number > 0 and len(tokenize(node.text)) > 1
            return None if has_slop else self.leaf_expression(node)
        if isinstance(node, Not | MatchAll) or count_leaves(node) > RANKED_LEAVES:
            return None
        wanted = [child for child in node.nodes if not isinstance(child, Not)]
        unwanted = [child.node for child in node.nodes if isinstance(child, Not)]
        if not wanted or (unwanted and isinstance(node, Or)):
            return None
        parts = [self.expression(child) for child in (*wanted, *unwanted)]
        if any(part is None for part in parts):
            return None
        joined = (" AND " if isinstance(node, And) else " OR ").join(f"({part})" for part in parts[: len(wanted)])
        return "".join([f"({joined})", *(f" NOT ({part})" for part in parts[len(wanted) :])])

    def leaf_expression(self, leaf: Leaf) -> str:
        """Return FTS5's expression for a leaf in any field. A phrase with slop becomes NEAR, which ignores the order of its terms."""
        parts = [(column, self._column_expression(leaf, column)) for column in self.columns]
        return " OR ".join(f"f{column.number} : ({part})" for column, part in parts if part is not None) or NO_MATCH

    def _column_expression(self, leaf: Leaf, column: Column) -> str | None:
        if leaf.kind == "prefix":
            start = keyword_term(leaf.text) if column.is_keyword else lower(leaf.text)
            return f"{_quoted(start)} *" if start and not {" ", "\x00"} & set(start) else None
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
            # Wide enough for every order of the terms within the slop.
            return _near(terms, leaf.number + len(terms) - 2)
        return _quoted(" ".join(terms))

    def _find_spellings(self, word: str, column: Column, *, edits: int) -> list[str]:
        sql = f"SELECT term FROM {self.table}_words WHERE field = ? AND letters BETWEEN ? AND ?"
        # An edit changes the length by one letter at most.
        given = (column.number, len(word) - edits, len(word) + edits)
        terms = json.loads(self.db.execute(f"SELECT json_group_array(term) FROM ({sql})", given).fetchone()[0])
        # The list keeps terms whose last record was deleted; they must not displace one that still occurs.
        live = f"SELECT 1 FROM {self.table} WHERE {self.table} MATCH ? LIMIT 1"
        while True:
            found = nearest_spellings(word, terms, edits=edits)
            stored = {term: keyword_term(term) if column.is_keyword else term for term in found}
            gone = {t for t in found if not self.db.execute(live, (f"f{column.number} : {_quoted(stored[t])}",)).fetchone()}
            if not gone:
                return list(stored.values())
            terms = [term for term in terms if term not in gone]

    def _find_node(self, node: Node) -> Bitmap:
        if isinstance(node, MatchAll):
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
                # Terms this close are within the slop in any order, unless a border between messages lies between them.
                sure = f'f{column.number} : ({_near(terms, closest)}) NOT f{column.number} : "{GAP}"'
                unsure = unsure & ~self.rows.bitmap(self._find_rows(sure))
            seqs = np.flatnonzero(unsure)
            for part in (seqs[n : n + CHUNK] for n in range(0, len(seqs), CHUNK)):
                near[part] = self._are_near(column, part, terms=terms, slop=leaf.number)
            found |= near
        return found

    def _are_near(self, column: Column, seqs: Numbers, *, terms: Sequence[str], slop: int) -> Bitmap:
        # Read as one value with a line per record, which is several times faster than rows (see `read_numbers`).
        sql = f"SELECT c.c{column.number} AS text FROM json_each(?) j CROSS JOIN {self.table}_content c ON c.id = j.value"
        joined = self.db.execute(f"SELECT group_concat(text, char(10)) FROM ({sql} LIMIT -1)", (json.dumps(seqs.tolist()),)).fetchone()[0]
        return are_near(joined, terms, slop=slop)


def _near(terms: Sequence[str], between: int) -> str:
    return f"NEAR({' '.join(map(_quoted, dict.fromkeys(terms)))}, {min(between, 2**31 - 1)})"


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'


def nearest_spellings(word: str, terms: Sequence[str], *, edits: int) -> list[str]:
    """Return the terms within a Levenshtein distance of the word, at most MAX_SPELLINGS.

    As in Lucene, terms with fewer edits relative to the shorter length come first, then terms with smaller UTF-8 bytes.

    Args:
        word: the fuzzy term.
        terms: candidates.
        edits: maximum distance.
    """
    near: list[tuple[float, bytes, str]] = []
    for length, terms_of_length in groupby(sorted(terms, key=len), key=len):
        if abs(length - len(word)) > edits:
            continue
        group = list(terms_of_length)
        distances = edit_distances(word, group)
        for at in np.flatnonzero(distances <= edits):
            distance, term = int(distances[at]), group[at]
            similarity = 1.0 if distance == 0 else float(np.float32(1) - np.float32(distance) / np.float32(min(length, len(word))))
            near.append((-similarity, term.encode(), term))
    return [term for _, _, term in sorted(near)[:MAX_SPELLINGS]]


def edit_distances(word: str, terms: Sequence[str]) -> NDArray[np.int16]:
    """Return the Levenshtein distances from the word to terms of one length, computed for all terms at once."""
    length = len(terms[0])
    letters = np.frombuffer("".join(terms).encode("utf-32-le"), dtype=np.uint32).reshape(len(terms), length)
    row = np.repeat(np.arange(length + 1, dtype=np.int16)[:, None], len(terms), axis=1)
    for n, letter in enumerate(word, 1):
        above, row = row, np.empty_like(row)
        row[0] = n
        same = (letters == ord(letter)).T
        for m in range(1, length + 1):
            row[m] = np.minimum(np.minimum(above[m], row[m - 1]) + 1, above[m - 1] + ~same[m - 1])
    distances: NDArray[np.int16] = row[length]
    return distances


def are_near(texts: str, terms: Sequence[str], *, slop: int) -> NDArray[np.bool_]:
    """Return for each stored text whether it contains a phrase within a slop, as Lucene defines it.

    Every term needs a position of its own. The positions, each minus its term's number in the phrase, must lie within `slop` of one
    another; two swapped words therefore need a slop of two.

    Args:
        texts: one line per text with its terms between single spaces.
        terms: the terms of the phrase in order.
        slop: maximum distance.

    Returns:
        Booleans of shape (number of lines,).
    """
    data = np.frombuffer(texts.encode(), dtype=np.uint8)
    ends = np.append(np.flatnonzero((data == ord(" ")) | (data == ord("\n"))), len(data))
    starts = np.append(0, ends[:-1] + 1)
    lines = np.cumsum(np.append(0, data[ends[:-1]] == ord("\n")))
    axis = np.arange(len(starts)) + (GAP_POSITIONS - 1) * np.cumsum(_is_word(data, starts, ends, GAP)) + lines * TEXT_DISTANCE
    places = {term: axis[_is_word(data, starts, ends, term)] for term in set(terms)}
    # A match is a window of `slop` positions that begins at the shifted position of some term.
    lows = np.concatenate([places[term] - n for n, term in enumerate(terms)])
    fits = np.ones(len(lows), dtype=bool)
    for term, own in places.items():
        last, taken = np.append(own, np.iinfo(np.int64).max), np.full(len(lows), -1)
        # Repeated terms take the earliest free position of the window in turn, which is optimal for windows of one length.
        for n in (n for n, other in enumerate(terms) if other == term):
            taken = np.maximum(np.searchsorted(own, lows + n), np.minimum(taken + 1, len(own)))
            fits &= last[taken] <= lows + n + slop
    near = np.zeros(int(lines[-1]) + 1, dtype=bool)
    # The window may begin before its text, but its end lies inside.
    near[(lows[fits] + len(terms)) // TEXT_DISTANCE] = True
    return near


def _is_word(data: NDArray[np.uint8], starts: NDArray[np.intp], ends: NDArray[np.intp], word: str) -> NDArray[np.bool_]:
    letters = np.frombuffer(word.encode(), dtype=np.uint8)
    found: NDArray[np.bool_] = ends - starts == len(letters)
    for n, letter in enumerate(letters):
        at = np.flatnonzero(found)
        found[at] = data[starts[at] + n] == letter
    return found
