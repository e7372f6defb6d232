r"""The search box's language: Elasticsearch's `simple_query_string` with AND between words, as Argilla asks for it.

`+` and, `|` or, `-` not, `"a phrase"`, `prefix*`, `( )`, `word~2` for near spellings, `"a phrase"~3` for near words, `\` takes the
next character literally, `*` alone is every record. Operators bind from left to right. Nothing is a syntax error: what makes no sense
is passed over as Lucene's SimpleQueryParser passes over it, and tests/lucene holds the two side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from argilla_setup.engine.tokenizer import tokenize


@dataclass(frozen=True)
class Leaf:
    """What one field must hold: all terms of a word, a phrase, a term that begins so, or one spelled nearly so."""

    text: str
    kind: Literal["words", "phrase", "prefix", "spelling"] = "words"
    number: int = 0
    """A phrase's slop; a spelling's edits."""


@dataclass(frozen=True)
class Everything:
    """Every record."""


@dataclass(frozen=True)
class Not:
    """The node does not hold."""

    node: Node


@dataclass(frozen=True)
class Both:
    """All of the nodes hold."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """One of the nodes holds."""

    nodes: tuple[Node, ...]


Node = Leaf | Everything | Not | Both | Either


def positive_leaves(node: Node) -> list[Leaf]:
    """The words that a match is ranked by: those not under a negation."""
    found: list[Leaf] = []
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Leaf):
            found.append(node)
        elif isinstance(node, Both | Either):
            waiting.extend(reversed(node.nodes))
    return found


def count_leaves(node: Node) -> int:
    """All words of a query, those under a negation too."""
    count, waiting = 0, [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Not):
            waiting.append(node.node)
        elif isinstance(node, Both | Either):
            waiting.extend(node.nodes)
        else:
            count += 1
    return count


MAX_LEAVES = 1024
"""Words past this many are not looked at; Elasticsearch answers with an error there."""

MAX_DEPTH = 100
"""Parentheses nested deeper than this are passed over."""

MOST_EDITS = 2

_SPACE = frozenset(" \t\n\r")

_ENDS_A_WORD = _SPACE | frozenset('"|+()')


def parse_query(text: str, *, keywords: bool = False) -> Node | None:
    """Read what was typed. None when it asks for nothing, which matches no record.

    Words without a term, such as `?!`, are passed over, except where a keyword is searched too: there they are looked for as they are.
    """
    text = text.encode("utf-8", "replace").decode().replace("\x00", "\x01")
    if text.strip("".join(map(chr, range(33)))) == "*":
        return Everything()
    return _Reader(text, keywords=keywords).read_group(0, len(text), depth=0)


@dataclass
class _Group:
    """A stretch of the text being read: where we are, and the tree so far."""

    at: int
    end: int
    tree: Node | None = None
    operator: type[Both] | type[Either] | None = None
    """The one typed since the last clause."""
    negations: int = 0


@dataclass
class _Reader:
    text: str
    keywords: bool
    leaves: int = 0
    partners: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.partners = _closing_parentheses(self.text)

    def read_group(self, start: int, end: int, *, depth: int) -> Node | None:
        """The clauses from start to end."""
        group = _Group(start, end)
        while group.at < group.end and self.leaves < MAX_LEAVES:
            char = self.text[group.at]
            if char == "-":
                group.at, group.negations = group.at + 1, group.negations + 1
                continue
            if char == "(":
                self._read_parenthesis(group, depth)
            elif char == '"':
                self._read_phrase(group)
            elif char in "+|":
                # The first of several counts, and none before the first clause.
                if group.operator is None and group.tree is not None:
                    group.operator = Both if char == "+" else Either
                group.at += 1
            elif char == ")" or char in _SPACE:
                group.at += 1
            else:
                self._read_word(group)
            # A minus sign counts only where its word follows at once.
            group.negations = 0
        return group.tree

    def _read_parenthesis(self, group: _Group, depth: int) -> None:
        start = group.at + 1
        close = self.partners.get(group.at, group.end)
        if close >= group.end or depth >= MAX_DEPTH:
            group.at = start
        elif close == start:
            group.operator, group.at = None, close + 1
        else:
            _join(group, self.read_group(start, close, depth=depth + 1))
            group.at = close + 1

    def _read_phrase(self, group: _Group) -> None:
        start, close = group.at + 1, _closing_quote(self.text, group.at + 1, group.end)
        if close == group.end:
            group.at = start
            return
        group.at, slop = close, 0
        if self.text[close + 1 : min(close + 2, group.end)] == "~":
            group.at += 1
            slop = self._read_number(group) if group.at + 1 < group.end else 0
        elif close == start:
            group.operator, group.at = None, close + 1
            return
        _join(group, self._leaf(Leaf(_unescape(self.text[start:close]), "phrase", slop)))
        # Whatever stands behind the number is passed over with it.
        group.at += 1

    def _read_word(self, group: _Group) -> None:
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
            elif char in _ENDS_A_WORD or (near := char == "~" and bool(literal)):
                break
            else:
                starred = char == "*" and bool(literal)
            literal.append(char)
            group.at += 1
        if not literal:
            return
        word = "".join(literal)
        edits = min(self._read_number(group), MOST_EDITS) if near else 0
        if edits:
            leaf = Leaf(word, "spelling", edits)
        elif starred and not near:
            leaf = Leaf(word[:-1], "prefix")
        else:
            leaf = Leaf(word)
        _join(group, self._leaf(leaf))

    def _read_number(self, group: _Group) -> int:
        """The N of ~N up to where the word ends; 2 when nothing stands there, 0 when it is no number."""
        start = group.at + 1
        group.at = start
        while group.at < group.end and self.text[group.at] not in _ENDS_A_WORD:
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
    kind = group.operator or Both
    group.operator = None
    if group.tree is None:
        group.tree = clause
        return
    # Only the left side is flattened: (a b) c and a b c are the same; a group on the right stays a group.
    nodes = group.tree.nodes if isinstance(group.tree, kind) else (group.tree,)
    group.tree = kind((*nodes, clause))


def _closing_parentheses(text: str) -> dict[int, int]:
    """Where each opening parenthesis that has a partner is closed; quotes do not matter to it."""
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


def _closing_quote(text: str, at: int, end: int) -> int:
    while at < end and text[at] != '"':
        at += 2 if text[at] == "\\" else 1
    return min(at, end)


def _unescape(text: str) -> str:
    out, at = [], 0
    while at < len(text):
        at += text[at] == "\\"
        out.append(text[at : at + 1])
        at += 1
    return "".join(out)
