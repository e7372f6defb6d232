"""The search box's language, as Elasticsearch's `simple_query_string` with AND between words.

`+` and, `|` or, `-` not, `"a phrase"`, `prefix*`, `( )`, `word~2` for near spellings, `"a phrase"~3` for near words, `\\` takes the
next character literally. Operators bind from left to right. Nothing is a syntax error: what makes no sense is read as text.
"""

from __future__ import annotations

from dataclasses import dataclass

from argilla_setup.engine.tokens import tokenize

MAX_LEAVES = 512
"""Words past this many are not looked at: a pasted chapter is not a query."""

MAX_DEPTH = 40
_ENDS_A_WORD = frozenset('"|+()')


@dataclass(frozen=True)
class Leaf:
    """A word (one term or several that stand together) or a phrase."""

    terms: tuple[str, ...]
    prefix: bool = False
    fuzz: int = 0
    """Edits allowed in a one-term word."""
    slop: int = 0
    """Other terms allowed between those of a phrase."""


@dataclass(frozen=True)
class Not:
    node: Node


@dataclass(frozen=True)
class Both:
    """All of the nodes hold."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """One of the nodes holds."""

    nodes: tuple[Node, ...]


Node = Leaf | Not | Both | Either


def parse_query(text: str) -> Node | None:
    """Read what was typed. None when it holds no term at all, which matches no record."""
    return _Reader(text).read_group(depth=0)


def positive_leaves(node: Node) -> list[Leaf]:
    """The words that a match is ranked by: those not under a negation."""
    if isinstance(node, Leaf):
        return [node]
    if isinstance(node, Not):
        return []
    return [leaf for child in node.nodes for leaf in positive_leaves(child)]


class _Reader:
    """A cursor over the text; holds the position and the count of leaves so far."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.leaves = text, 0, 0
        self.closed = _closed_parentheses(text)

    def read_group(self, *, depth: int) -> Node | None:
        """Clauses up to the closing parenthesis that ends this group, or to the end."""
        found: Node | None = None
        either, negated = False, False
        while self.at < len(self.text) and self.leaves < MAX_LEAVES:
            char = self.text[self.at]
            if char == ")":
                self.at += 1
                if depth:
                    return found
            elif char == "|":
                self.at, either = self.at + 1, True
            elif char == "+":
                self.at, either = self.at + 1, False
            elif char == "-":
                self.at, negated = self.at + 1, not negated
            elif char.isspace():
                self.at += 1
            else:
                clause = self._read_clause(depth)
                if clause is not None:
                    clause = Not(clause) if negated else clause
                    found = clause if found is None else _join(found, clause, either=either)
                    either = False
                negated = False
        return found

    def _read_clause(self, depth: int) -> Node | None:
        char = self.text[self.at]
        if char == "(":
            self.at += 1
            # Without its partner, or nested past reason, a parenthesis is skipped and its content read as it stands.
            if depth >= MAX_DEPTH or self.at - 1 not in self.closed:
                return None
            return self.read_group(depth=depth + 1)
        if char == '"':
            return self._read_phrase()
        return self._read_word()

    def _read_phrase(self) -> Leaf | None:
        start = self.at + 1
        end = start
        while end < len(self.text) and self.text[end] != '"':
            end += 2 if self.text[end] == "\\" else 1
        if end >= len(self.text):
            self.at += 1
            return None
        self.at = end + 1
        return self._leaf(_unescape(self.text[start:end]), slop=self._read_number())

    def _read_word(self) -> Leaf | None:
        literal: list[str] = []
        starred = False
        while self.at < len(self.text):
            char = self.text[self.at]
            if char.isspace() or char in _ENDS_A_WORD or (char == "~" and literal):
                break
            starred = char == "*"
            if char == "\\" and self.at + 1 < len(self.text):
                self.at += 1
                char = self.text[self.at]
            literal.append(char)
            self.at += 1
        return self._leaf("".join(literal), prefix=starred, fuzz=min(self._read_number(), 2))

    def _read_number(self) -> int:
        """The N of a trailing ~N; 0 when there is none or it is no number."""
        if self.text[self.at : self.at + 1] != "~":
            return 0
        end = self.at + 1
        while end < len(self.text) and not self.text[end].isspace() and self.text[end] not in _ENDS_A_WORD:
            end += 1
        digits, self.at = self.text[self.at + 1 : end], end
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 4 else 0

    def _leaf(self, text: str, *, prefix: bool = False, fuzz: int = 0, slop: int = 0) -> Leaf | None:
        terms = tuple(tokenize(text))
        if not terms:
            return None
        self.leaves += 1
        single = len(terms) == 1
        return Leaf(terms, prefix=prefix, fuzz=fuzz if single and not prefix else 0, slop=0 if single else slop)


def _closed_parentheses(text: str) -> frozenset[int]:
    """Where the opening parentheses stand that have a partner outside quotes."""
    open_at: list[int] = []
    closed: set[int] = set()
    quoted, at = False, 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
        elif char == '"':
            quoted = not quoted
        elif char == "(" and not quoted:
            open_at.append(at)
        elif char == ")" and not quoted and open_at:
            closed.add(open_at.pop())
        at += 1
    return frozenset(closed)


def _join(left: Node, right: Node, *, either: bool) -> Node:
    kind = Either if either else Both
    # Only the accumulated left side is flattened: (a b) c and a b c are the same; a group on the right stays a group.
    nodes = left.nodes if isinstance(left, kind) else (left,)
    return kind((*nodes, right))


def _unescape(text: str) -> str:
    out, at = [], 0
    while at < len(text):
        at += text[at] == "\\" and at + 1 < len(text)
        out.append(text[at])
        at += 1
    return "".join(out)
