"""Random samples for review: which rows are drawn, and what the answers say about the rows that nobody looked at.

Rows are drawn by permanent random numbers (Ohlsson 1995): a row's number is a keyed hash of its id, and the rows with the lowest numbers
are the sample. The sample therefore changes as little as possible when rows are added or dropped. With labels the sample is
stratified, in proportion to the size of each label (largest remainder). The interval of the error rate is Clopper and Pearson's (1934):
exact for a simple random sample, and too wide rather than too narrow for a stratified one or a large part of few rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

LEVEL = 0.95
"""Confidence of the interval."""


def draw_sample(ids: Sequence[str], strata: Sequence[str | None], *, size: int, key: bytes) -> list[int]:
    """Return the places of the drawn rows, in order.

    Args:
        ids: hex id of each row.
        strata: each row's label; rows without one are a stratum of their own.
        size: rows to draw; all of them where there are not more.
        key: what makes the draw unpredictable to whoever writes the rows.
    """
    by_stratum: defaultdict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(strata):
        by_stratum[name or ""].append(place)
    shares = allocate({name: len(places) for name, places in by_stratum.items()}, size=size)
    drawn: list[int] = []
    for name, places in by_stratum.items():
        number = {place: hashlib.blake2b(ids[place].encode(), key=key, digest_size=16).digest() for place in places}
        drawn += sorted(places, key=lambda place, number=number: number[place])[: shares[name]]  # type: ignore[misc]
    return sorted(drawn)


def allocate(sizes: dict[str, int], *, size: int) -> Counter[str]:
    """Return how many of SIZE rows each stratum gives, in proportion to its own size; remainders go to the largest fractions."""
    total = sum(sizes.values())
    wanted = min(size, total)
    shares = Counter({name: wanted * n // total for name, n in sizes.items()})
    order = sorted(sizes, key=lambda name: (-(wanted * sizes[name] % total), name))
    shares.update(order[: wanted - shares.total()])
    return shares


def clopper_pearson(bad: int, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share of which BAD of N were observed; 0 to 1 where nothing was observed."""
    from scipy.stats import beta

    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, bad, n - bad + 1)) if bad else 0.0
    high = float(beta.ppf(1 - tail, bad + 1, n - bad)) if bad < n else 1.0
    return low, high
