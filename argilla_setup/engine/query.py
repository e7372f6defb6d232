r"""The parser of search text: Elasticsearch's `simple_query_string` with AND between words, as Argilla uses it.

`+` and, `|` or, `-` not, `"a phrase"`, `prefix*`, `( )`, `word~2` fuzzy, `"a phrase"~3` phrase with slop, `\` escapes the next character,
`*` alone matches every record. Operators are applied from left to right. No text is a syntax error: invalid parts are ignored as in
Lucene's SimpleQueryParser, with which the tests compare this parser.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from argilla_setup.engine.tokenizer import tokenize


@dataclass(frozen=True)
class Leaf:
    """A condition on one field: all terms of a word, a phrase, a prefix, or a fuzzy term."""

    text: str
    kind: Literal["words", "phrase", "prefix", "spelling"] = "words"
    number: int = 0
    """The slop of a phrase; the edits of a fuzzy term."""


@dataclass(frozen=True)
class MatchAll:
    """Every record."""


@dataclass(frozen=True)
class Not:
    """Records that do not match the node."""

    node: Node


@dataclass(frozen=True)
class And:
    """Records that match all nodes."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """Records that match at least one node."""

    nodes: tuple[Node, ...]


Node = Leaf | MatchAll | Not | And | Or


def positive_leaves(node: Node) -> list[Leaf]:
    """Return the leaves that rank a match: those outside negations."""
    found: list[Leaf] = []
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Leaf):
            found.append(node)
        elif isinstance(node, And | Or):
            waiting.extend(reversed(node.nodes))
    return found


def count_leaves(node: Node) -> int:
    """Return the number of leaves, including those inside negations."""
    count, waiting = 0, [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Not):
            waiting.append(node.node)
        elif isinstance(node, And | Or):
            waiting.extend(node.nodes)
        else:
            count += 1
    return count


MAX_LEAVES = 1024
"""Further words are ignored; Elasticsearch reports an error."""

MAX_DEPTH = 100
"""Parentheses that are nested deeper are ignored."""

MAX_EDITS = 2

_SPACE = frozenset(" \t\n\r")

_WORD_END = _SPACE | frozenset('"|+()')


def parse_query(text: str, *, keywords: bool = False) -> Node | None:
    """Parse a search text.

    Args:
        text: the text of the search box.
        keywords: a keyword field is searched too. Words without a term, such as `?!`, are then kept instead of ignored.

    Returns:
        The query, or None if the text contains no condition; that matches no record.
    """
    # Lone surrogates and NUL cannot be passed to SQLite.
    text = text.encode("utf-8", "replace").decode().replace("\x00", "\x01")
    if text.strip("".join(map(chr, range(33)))) == "*":
        return MatchAll()
    return _Parser(text, keywords=keywords).parse_group(0, len(text), depth=0)


@dataclass
class _Group:
    """The state of parsing a part of the text: the position and the tree so far."""

    at: int
    end: int
    tree: Node | None = None
    operator: type[And] | type[Or] | None = None
    """The operator since the last clause."""
    negations: int = 0


@dataclass
class _Parser:
    text: str
    keywords: bool
    leaves: int = 0
    partners: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.partners = _closing_parentheses(self.text)

    def parse_group(self, start: int, end: int, *, depth: int) -> Node | None:
        """Parse the clauses of a part of the text.

        Args:
            start: index of the first character.
            end: index after the last character.
            depth: number of enclosing parentheses.
        """
        group = _Group(start, end)
        while group.at < group.end and self.leaves < MAX_LEAVES:
            char = self.text[group.at]
            if char == "-":
                group.at, group.negations = group.at + 1, group.negations + 1
                continue
            if char == "(":
                self._parse_parenthesis(group, depth)
            elif char == '"':
                self._parse_phrase(group)
            elif char in "+|":
                # Of several operators the first one counts; one before the first clause is ignored.
                if group.operator is None and group.tree is not None:
                    group.operator = And if char == "+" else Or
                group.at += 1
            elif char == ")" or char in _SPACE:
                group.at += 1
            else:
                self._parse_word(group)
            # A minus sign negates only what follows it immediately.
            group.negations = 0
        return group.tree

    def _parse_parenthesis(self, group: _Group, depth: int) -> None:
        start = group.at + 1
        close = self.partners.get(group.at, group.end)
        if close >= group.end or depth >= MAX_DEPTH:
            group.at = start
        elif close == start:
            group.operator, group.at = None, close + 1
        else:
            _join(group, self.parse_group(start, close, depth=depth + 1))
            group.at = close + 1

    def _parse_phrase(self, group: _Group) -> None:
        start = close = group.at + 1
        while close < group.end and self.text[close] != '"':
            close += 2 if self.text[close] == "\\" else 1
        close = min(close, group.end)
        if close == group.end:
            group.at = start
            return
        group.at, slop = close, 0
        if self.text[close + 1 : min(close + 2, group.end)] == "~":
            group.at += 1
            slop = self._parse_number(group) if group.at + 1 < group.end else 0
        elif close == start:
            group.operator, group.at = None, close + 1
            return
        _join(group, self._leaf(Leaf(_unescape(self.text[start:close]), "phrase", slop)))
        # The character after the number is ignored with it, as in Lucene.
        group.at += 1

    def _parse_word(self, group: _Group) -> None:
        literal: list[str] = []
        starred = near = False
        while group.at < group.end:
            char = self.text[group.at]
            if char == "\\":
                starred = False
                group.at += 1
                if group.at == group.end:
                    break
                char = self.text[group.at]
            elif char in _WORD_END or (near := char == "~" and bool(literal)):
                break
            else:
                starred = char == "*" and bool(literal)
            literal.append(char)
            group.at += 1
        if not literal:
            return
        word = "".join(literal)
        edits = min(self._parse_number(group), MAX_EDITS) if near else 0
        if edits:
            leaf = Leaf(word, "spelling", edits)
        # A star makes a prefix only as the last character, and not behind a backslash.
        elif starred and not near:
            leaf = Leaf(word[:-1], "prefix")
        else:
            leaf = Leaf(word)
        _join(group, self._leaf(leaf))

    def _parse_number(self, group: _Group) -> int:
        """Return the N of ~N; 2 if it is missing, 0 if it is not a number."""
        start = group.at + 1
        group.at = start
        while group.at < group.end and self.text[group.at] not in _WORD_END:
            group.at += 1
        digits = self.text[start : group.at] or "2"
        number = int(digits) if digits.isdecimal() and len(digits) < 20 else 0
        return number if number < 2**31 else 0

    def _leaf(self, leaf: Leaf) -> Leaf | None:
        if leaf.kind in ("words", "phrase") and not self.keywords and not tokenize(leaf.text):
            return None
        self.leaves += 1
        return leaf


def _join(group: _Group, clause: Node | None) -> None:
    if clause is None:
        return
    if group.negations % 2:
        clause = Not(clause)
    kind = group.operator or And
    group.operator = None
    if group.tree is None:
        group.tree = clause
        return
    # Only the left side is flattened: `(a b) c` equals `a b c`, but a group on the right stays a group.
    nodes = group.tree.nodes if isinstance(group.tree, kind) else (group.tree,)
    group.tree = kind((*nodes, clause))


def _closing_parentheses(text: str) -> dict[int, int]:
    """Return the index of the closing parenthesis by that of its opening one; quotes are not considered."""
    open_at: list[int] = []
    closed: dict[int, int] = {}
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "(":
            open_at.append(at)
        elif text[at] == ")" and open_at:
            closed[open_at.pop()] = at
        at += 1
    return closed


def _unescape(text: str) -> str:
    out, at = [], 0
    while at < len(text):
        at += text[at] == "\\"
        out.append(text[at : at + 1])
        at += 1
    return "".join(out)
