"""Random samples for review: which rows are drawn, and what the answers say about the rows that nobody looked at.

Rows are drawn by permanent random numbers (Ohlsson 1995): a row's number is a keyed hash of its id, and the rows with the lowest numbers
are the sample. The sample therefore changes little when rows are added or dropped. With labels the sample is stratified, in proportion
to the size of each label, and every row still has the same chance, also where there are more labels than rows to draw. The interval of
the error rate is Clopper and Pearson's (1934): exact for a simple random sample, and too wide rather than too narrow for a stratified
one or a large part of few rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

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
    shares = allocate({name: len(places) for name, places in by_stratum.items()}, size=size, key=key)
    drawn: list[int] = []
    for name, places in by_stratum.items():
        numbers = {place: _number(ids[place], key) for place in places}
        drawn += sorted(places, key=lambda place, numbers=numbers: numbers[place])[: shares[name]]  # type: ignore[misc]
    return sorted(drawn)


def allocate(sizes: Mapping[str, int], *, size: int, key: bytes) -> Counter[str]:
    """Return how many of SIZE rows each stratum gives, so that every row has the same chance.

    A stratum gives the whole part of its proportional share, and one row more with the chance of the rest: the strata are laid on a
    line in random order, each as long as its rest, and those at a random point and at every whole step from it give one more.
    """
    total = sum(sizes.values())
    wanted = min(size, total)
    shares, reached = Counter[str](), 0
    point = _number("start", key) % total if total else 0
    for name in sorted(sizes, key=lambda name: _number(f"stratum:{name}", key)):
        whole, rest = divmod(wanted * sizes[name], total)
        extra = (reached + rest - point - 1) // total > (reached - point - 1) // total
        shares[name], reached = whole + extra, reached + rest
    return shares


def _number(text: str, key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), key=key, digest_size=16).digest())


def clopper_pearson(bad: int, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share of which BAD of N were observed; 0 to 1 where nothing was observed."""
    from scipy.stats import beta

    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, bad, n - bad + 1)) if bad else 0.0
    high = float(beta.ppf(1 - tail, bad + 1, n - bad)) if bad < n else 1.0
    return low, high
