"""Control rows: rows with a known verdict that people review unseen among the others.

Each person gets the control rows in an order of their own, at random places, at the set rate and each at most once. Everything follows
from the seed, the person and the ids, so a repeated command gives the same queue. A control row is a row of the project like any other and
is pushed like one; nothing on the page distinguishes it.
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


def mix_controls(
    queue: Sequence[str], controls: Sequence[Control], *, person: str, seed: str, rate: float, seen: Collection[str]
) -> list[str]:
    """Return a person's queue with control rows among the others.

    Of every 1/rate rows one is a control row, at a random place, so that neither its place nor the distance to the last one can be
    learned. Control rows that the person has answered do not come again; when none is left, the queue has no more of them.

    Args:
        queue: ids of the rows to review, in order; control rows among them keep no place of their own.
        controls: the control rows of this turn.
        person: user name.
        seed: of the project.
        rate: share of control rows, 0 to 0.5.
        seen: ids that the person has answered.
    """
    if not 0 <= rate <= 0.5:
        raise ValueError(f"rate must be between 0 and 0.5, got {rate}")
    known = {control.row for control in controls}
    rows = [row for row in queue if row not in known]
    fresh = sorted(known - set(seen), key=lambda row: _number(seed, person, row))
    if not rate or not fresh:
        return rows
    out: list[str] = []
    place, block = 0, 0
    while place < len(rows) and fresh:
        # The length of a block alternates between the whole numbers around 1/rate, so that the rate is met exactly.
        length = round((block + 1) / rate) - round(block / rate)
        at = _number(seed, f"{person}:place", str(block)) % length
        part = rows[place : place + length - 1]
        out += [*part[:at], fresh.pop(0), *part[at:]] if at <= len(part) else part
        place, block = place + len(part), block + 1
    return out + rows[place:]


def _number(*parts: str) -> int:
    text = "\0".join(parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
