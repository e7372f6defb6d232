"""Rates of the planted defects and the seeded draws that decide which response gets one.

Draws are functions of their arguments, so the same seed and request always get the same defect.
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
"""Share of responses with each defect. The two leaks: share of the rows that have a name which the request does not show."""

LEAKS = ("leak_verbatim", "leak_reworded")
COPIES = ("exact_copy", "light_edit", "paraphrase")
PAIR_DEFECTS = ("wrong_sibling", "pair_truncated_json", "pair_refusal")
INSTRUCTION_DEFECTS = tuple(name for name in RATES if name not in PAIR_DEFECTS)

_GOLDEN = (math.sqrt(5) - 1) / 2


def draw_defect(
    kind: str, number: int, *, seed: int, rates: Mapping[str, float], has_hidden_name: bool = False, position: float | None = None
) -> str | None:
    """Return the defect of a response, or None for a clean one.

    Args:
        kind: "instruction" or "preference".
        number: number of the request. Defects are spread evenly over the numbers, so that small runs have some of each kind.
        seed: seed of the mock provider.
        rates: share of responses by defect.
        has_hidden_name: whether the row has an official name that the request does not show; only then can it leak.
        position: a draw in [0, 1) that replaces the one by number.
    """
    if position is None:
        # Multiples of the golden ratio fill the unit interval more evenly than random draws, at every length.
        position = (random.Random(f"{seed}:{kind}").random() + number * _GOLDEN) % 1.0
    edge = 0.0
    for name in PAIR_DEFECTS if kind == "preference" else INSTRUCTION_DEFECTS:
        edge += rates.get(name, 0.0)
        if position < edge:
            return None if name in LEAKS and not has_hidden_name else name.removeprefix("pair_")
    return None


def parse_rates(text: str) -> dict[str, float]:
    """Return the default rates with changes such as "wrong_code=0.1,refusal=0" applied.

    Raises:
        ValueError: a name is unknown, or a rate is not between 0 and 1.
    """
    rates = dict(RATES)
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        if name not in rates:
            raise ValueError(f"{name}: unknown defect. Use one of {', '.join(rates)}")
        rates[name] = float(value)
        if not 0 <= rates[name] <= 1:
            raise ValueError(f"{name}: the rate must be between 0 and 1")
    return rates


def chance(share: float, *parts: object) -> bool:
    """Return True for a share of all parts, always the same for the same parts."""
    return fraction(*parts) < share


def fraction(*parts: object) -> float:
    """Return a number in [0, 1) that depends on the parts alone."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
