"""Which flaw the stand-in plants where. Rates are stated here; a draw depends on the seed and on the number that the request carries, and
is spread evenly over the numbers, so that small runs hold some of each kind too.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping

RATES: dict[str, float] = {
    "wrong_code": 0.045,
    "truncated_json": 0.04,
    "refusal": 0.04,
    "exact_copy": 0.045,
    "light_edit": 0.045,
    "paraphrase": 0.045,
    "off_brief": 0.045,
    "leak_verbatim": 0.13,
    "leak_reworded": 0.2,
    "wrong_sibling": 0.14,
    "pair_truncated_json": 0.02,
    "pair_refusal": 0.02,
}
"""Share of the answers with each flaw. The two leaks: share among the rows that have a name which was not shown."""

INSTRUCTION = ("wrong_code", "truncated_json", "refusal", "exact_copy", "light_edit", "paraphrase", "off_brief")
LEAKS = ("leak_verbatim", "leak_reworded")
PAIR = ("wrong_sibling", "pair_truncated_json", "pair_refusal")

_GOLDEN = (math.sqrt(5) - 1) / 2


def draw_flaw(
    kind: str, number: int, *, seed: int, rates: Mapping[str, float], has_hidden_name: bool = False, place: float | None = None
) -> str | None:
    """The flaw of an answer, or None for a clean one; PLACE (0 to 1) takes the place of the draw by number."""
    if place is None:
        # Multiples of the golden ratio fill the unit interval more evenly than chance at every length.
        place = (random.Random(f"{seed}:{kind}").random() + number * _GOLDEN) % 1.0
    names = PAIR if kind == "preference" else INSTRUCTION + LEAKS
    edge = 0.0
    for name in names:
        edge += rates.get(name, 0.0)
        if place < edge:
            if name in LEAKS and not has_hidden_name:
                return None
            return name.removeprefix("pair_")
    return None


def parse_rates(text: str) -> dict[str, float]:
    """Rates from "wrong_code=0.1,refusal=0" laid over the defaults.

    Raises:
        ValueError: an unknown name, or a rate that is no share.
    """
    rates = dict(RATES)
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        if name not in rates:
            raise ValueError(f"{name} is no kind of flaw; known are {', '.join(rates)}")
        rates[name] = float(value)
        if not 0 <= rates[name] <= 1:
            raise ValueError(f"the rate of {name} must be from 0 to 1")
    return rates


def chance(share: float, *parts: object) -> bool:
    """True for SHARE of all PARTS, always the same for the same parts."""
    return fraction(*parts) < share


def fraction(*parts: object) -> float:
    """A number from 0 to 1 that depends on the parts alone."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
