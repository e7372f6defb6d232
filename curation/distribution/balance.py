"""How evenly rows spread over classes, and what to do about it: leave rows out, weigh them, or ask for more.

A cap leaves out the rows of a class that rank last, with the reason and the rank, and is undone by raising it. Weights are
told, not applied: they are for a trainer that reads them. A refill says how many rows each class still lacks.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from curation.errors import ProjectError

RARE = 0.25
"""A class with less than this share of an equal part of the rows is rare."""


class Imbalance(BaseModel):
    """How uneven a set of classes is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    classes: int
    """Classes that could have rows, empty ones among them."""
    effective: float
    """Effective number of classes (Hill 1973): the number of equally large classes with the same entropy."""
    gini: float
    """0 when all classes are equally large, towards 1 when one holds everything."""
    ratio: float | None
    """Largest to smallest class that has rows."""
    empty: tuple[str, ...] = ()
    rare: tuple[tuple[str, int], ...] = ()
    """Classes with less than a quarter of an equal part, the smallest first; empty ones among them."""


def measure_balance(counts: Mapping[str, int]) -> Imbalance:
    """Effective number of classes, Gini coefficient, largest to smallest, and the rare classes."""
    total, sizes = sum(counts.values()), sorted(counts.values())
    filled = [n for n in sizes if n]
    entropy = -sum(n / total * math.log(n / total) for n in filled)
    ranks = sum((2 * place - len(sizes) - 1) * n for place, n in enumerate(sizes, 1))
    fair = total / len(sizes) if sizes else 0.0
    rare = sorted(((name, n) for name, n in counts.items() if n < RARE * fair), key=lambda item: (item[1], item[0]))
    return Imbalance(
        rows=total,
        classes=len(sizes),
        effective=math.exp(entropy) if filled else 0.0,
        gini=ranks / (len(sizes) * total) if total else 0.0,
        ratio=filled[-1] / filled[0] if filled else None,
        empty=tuple(sorted(name for name, n in counts.items() if not n)),
        rare=tuple(rare),
    )


def rows_over_cap(classes: Sequence[str | None] | pa.Array, ranks: Sequence[int], *, cap: int) -> pa.Table:
    """The rows that a cap leaves out: row, class, place (1 is the best of its class), cap.

    Of each class the `cap` rows of lowest rank stay; a row without a class is never left out. Time grows as n log n.

    Raises:
        ProjectError: the cap is below 1, or there is not one rank a row.
    """
    values = classes.to_pylist() if isinstance(classes, pa.Array | pa.ChunkedArray) else list(classes)
    if cap < 1:
        raise ProjectError("balance.cap", f"is {cap}; a class would lose all its rows", "use a cap of 1 or more, or take the key out")
    if len(values) != len(ranks):
        raise ProjectError("balance", f"got {len(ranks)} ranks for {len(values)} rows", "give each row a rank")
    seen: Counter[str] = Counter()
    over: list[tuple[int, str, int]] = []
    for row in sorted(range(len(values)), key=lambda r: (ranks[r], r)):
        name = values[row]
        if name is None:
            continue
        seen[name] += 1
        if seen[name] > cap:
            over.append((row, name, seen[name]))
    over.sort()
    return pa.table(
        {
            "row": pa.array([row for row, _, _ in over], pa.int64()),
            "class": pa.array([name for _, name, _ in over], pa.string()),
            "place": pa.array([place for _, _, place in over], pa.int64()),
            "cap": pa.array([cap] * len(over), pa.int64()),
        }
    )


def class_weights(counts: Mapping[str, int], *, scheme: Literal["sqrt", "inverse"]) -> dict[str, float]:
    """A weight for each class that has rows, so that the mean over all rows is 1.

    `inverse` makes every class count the same; `sqrt` goes half the way (on a log scale) and is the usual choice where rare
    classes have few rows, which `inverse` would repeat too often (Mahajan et al. 2018).
    """
    power = {"sqrt": 0.5, "inverse": 1.0}[scheme]
    raw = {name: n**-power for name, n in counts.items() if n}
    total = sum(counts[name] * weight for name, weight in raw.items())
    rows = sum(counts.values())
    return {name: weight * rows / total for name, weight in raw.items()}


def refill_quota(counts: Mapping[str, int], *, target: int) -> dict[str, int]:
    """How many rows each class lacks until it has `target`, the emptiest first; classes that have enough are left out."""
    lacking = {name: target - n for name, n in counts.items() if n < target}
    return dict(sorted(lacking.items(), key=lambda item: (-item[1], item[0])))


def count_classes(classes: Sequence[str | None], known: Sequence[str] = ()) -> dict[str, int]:
    """Rows by class; `known` classes without rows count 0."""
    counts: defaultdict[str, int] = defaultdict(int, dict.fromkeys(known, 0))
    for name in classes:
        if name is not None:
            counts[name] += 1
    return dict(sorted(counts.items()))
