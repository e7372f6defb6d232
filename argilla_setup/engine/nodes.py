"""What a query in the search box means, as a tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
