"""Control rows: rows with a known verdict that people review unseen among the others.

The rows that are in use in one turn follow from the seed and the ids, so a repeated command uses the same. A control row is a row of the
project like any other and is pushed like one; Argilla's queue (`argilla_setup.engine.queue`) mixes it in for each person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

KnownVerdict = Literal["approve", "reject", "first", "second", "neither", "tie"]


@dataclass(frozen=True, slots=True)
class Control:
    """A row with its known verdict."""

    row: str
    """The record's id."""
    verdict: KnownVerdict


@dataclass(frozen=True, slots=True)
class MatchedControls:
    """Control rows that the project has, and those that it does not have."""

    controls: tuple[Control, ...]
    unknown: tuple[str, ...]
    contradicted: tuple[str, ...]
    """Ids that are listed with two different verdicts; they are not used."""


def match_controls(controls: Iterable[Control], rows: Collection[str]) -> MatchedControls:
    """Return the usable control rows, and the ids that cannot be used.

    Args:
        controls: as listed.
        rows: ids of the project's rows.
    """
    verdicts: dict[str, set[KnownVerdict]] = {}
    for control in controls:
        verdicts.setdefault(control.row, set()).add(control.verdict)
    contradicted = tuple(sorted(row for row, found in verdicts.items() if len(found) > 1))
    usable = [Control(row, next(iter(found))) for row, found in sorted(verdicts.items()) if len(found) == 1 and row in rows]
    return MatchedControls(tuple(usable), tuple(sorted(set(verdicts) - set(rows))), contradicted)


def rotate_controls(controls: Sequence[Control], *, size: int, turn: int, seed: str) -> list[Control]:
    """Return the control rows that are in the queue in one turn; the next turn has the next ones, until all had their turn.

    Args:
        controls: all usable control rows.
        size: rows of a turn.
        turn: number of the turn, from 0.
        seed: of the project.
    """
    ordered = sorted(controls, key=lambda control: _number(seed, "rotation", control.row))
    if size >= len(ordered):
        return ordered
    start = turn * size % len(ordered)
    return (ordered + ordered)[start : start + size]


def _number(*parts: str) -> int:
    text = "\0".join(parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
