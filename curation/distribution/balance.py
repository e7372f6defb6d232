"""Measure how evenly rows are distributed over classes, and compute the remedies: caps, weights and refills.

A cap leaves out the lowest-ranked rows of a class, with reason and rank, and is undone by raising it. Weights are only reported, for a
trainer that reads them. A refill quota is the number of rows that each class lacks.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import pyarrow as pa

from curation.distribution.schema import Imbalance
from curation.errors import ProjectError

# A class with less than this share of an equal part of the rows is rare.
RARE = 0.25


def measure_balance(counts: Mapping[str, int]) -> Imbalance:
    """Return the effective number of classes, the Gini coefficient, the ratio of largest to smallest, and the rare classes."""
    total, sizes = sum(counts.values()), sorted(counts.values())
    filled = [n for n in sizes if n]
    # Empty classes add nothing to the entropy and are listed separately.
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
    """Find the rows that a cap leaves out.

    Of each class the `cap` rows with the lowest rank are kept; a row without a class is never left out. Time grows as n log n.

    Args:
        classes: class of each row, None for none.
        ranks: rank of each row; lower is better.
        cap: rows that a class may keep.

    Returns:
        One line per row left out: row, class, place (1 is the best of its class), cap.

    Raises:
        ProjectError: the cap is below 1, or the number of ranks is not the number of rows.
    """
    values = classes.to_pylist() if isinstance(classes, pa.Array | pa.ChunkedArray) else list(classes)
    if cap < 1:
        raise ProjectError("balance.cap", f"is {cap}; a class would lose all its rows", "use a cap of 1 or more, or remove the key")
    if len(values) != len(ranks):
        raise ProjectError("balance", f"got {len(ranks)} ranks for {len(values)} rows", "give each row a rank")
    seen: Counter[str] = Counter()
    over: list[tuple[int, str, int]] = []
    # Best first; ties by position, so that the result does not depend on the order of equal ranks.
    for row in sorted(range(len(values)), key=lambda r: (ranks[r], r)):
        name = values[row]
        if name is None:
            continue
        seen[name] += 1
        if seen[name] > cap:
            over.append((row, name, seen[name]))
    # In row order, as the tables of all gates.
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
    """Return a weight for each class that has rows; the mean over all rows is 1.

    `inverse` gives every class the same total weight. `sqrt` goes half of the way (on a log scale) and is the usual choice when rare
    classes have few rows, which `inverse` would repeat too often (Mahajan et al. 2018).
    """
    power = {"sqrt": 0.5, "inverse": 1.0}[scheme]
    raw = {name: n**-power for name, n in counts.items() if n}
    total = sum(counts[name] * weight for name, weight in raw.items())
    rows = sum(counts.values())
    return {name: weight * rows / total for name, weight in raw.items()}


def refill_quota(counts: Mapping[str, int], *, target: int) -> dict[str, int]:
    """Return the rows that each class lacks until it has `target`, the emptiest class first; complete classes are left out."""
    lacking = {name: target - n for name, n in counts.items() if n < target}
    return dict(sorted(lacking.items(), key=lambda item: (-item[1], item[0])))


def count_classes(classes: Sequence[str | None], known: Sequence[str] = ()) -> dict[str, int]:
    """Return the number of rows of each class; `known` classes without rows count 0."""
    counts: defaultdict[str, int] = defaultdict(int, dict.fromkeys(known, 0))
    for name in classes:
        if name is not None:
            counts[name] += 1
    return dict(sorted(counts.items()))
