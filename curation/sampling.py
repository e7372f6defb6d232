"""Draw random samples for review.

Rows are drawn by permanent random numbers (Ohlsson 1995): a row's number is a keyed hash of its id, and the rows with the lowest numbers
are the sample. So the sample changes little when rows are added or dropped. With labels the sample is stratified in proportion to the size
of each label, and every row still has the same chance, even with more labels than rows to draw.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence


def draw_sample(ids: Sequence[str], strata: Sequence[str | None], *, size: int, key: bytes) -> list[int]:
    """Return the indices of the drawn rows, in order.

    Args:
        ids: hex id of each row.
        strata: each row's label; rows without one are a stratum of their own.
        size: rows to draw; all rows if there are fewer.
        key: secret that makes the draw unpredictable for whoever writes the rows.
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
    """Distribute the sample over strata so that every row has the same chance (systematic sampling of the remainders).

    A stratum gives the whole part of its proportional share, and one more row with the probability of the remainder: the strata are
    laid on a line in random order, each as long as its remainder, and those at a random point and at every whole step from it give
    one more.

    Args:
        sizes: rows of each stratum.
        size: rows to draw.
        key: secret of the draw.
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
