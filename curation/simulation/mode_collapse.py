"""How a model that is asked the same again and again repeats itself: a fixed law, written down before any prompt was.

Whatever a request says, the model has MODES ideas for it and takes the k-th with a share that falls as k to the power -EXPONENT: the
first comes up in a third of the answers, the first five in two thirds. What the request says decides which ideas these are; a
number that it carries does not, since models pay it no attention. A model that is told what is taken keeps away from it at the
rate KEEPS_AWAY.

The law holds for every request that carries no number (the same prompt repeated), and with `--collapse` for all.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from curation.simulation.defects import fraction
from curation.simulation.request_parser import Asked

MODES, EXPONENT, KEEPS_AWAY = 40, 1.3, 0.9
TAILS = 0.1
"""What the least likely ideas have in common: none has a larger share."""
HEARD = ("attributes", "described", "row", "siblings", "passage", "existing_example", "way", "turns")
"""Parts of a request that change what a model thinks of."""

_WEIGHTS = [(rank + 1) ** -EXPONENT for rank in range(MODES)]
SHARES = tuple(weight / sum(_WEIGHTS) for weight in _WEIGHTS)


def draw_mode(*parts: object) -> int:
    """The rank of an idea, 0 the most likely; the same for the same parts."""
    place, edge = fraction("mode", *parts), 0.0
    for rank, share in enumerate(SHARES):
        edge += share
        if place < edge:
            return rank
    return MODES - 1


def draw_tails(count: int, *parts: object) -> list[int]:
    """Distinct ideas from the tails, each as likely as the next: what a model gives that is asked for unlikely ones."""
    tails = [rank for rank, share in enumerate(SHARES) if share < TAILS]
    return sorted(tails, key=lambda rank: fraction("tail", rank, *parts))[:count]


def think_of(asked: Asked, mode: int) -> Asked:
    """The request as the model answers it: all that follows depends on what was heard and on the idea taken."""
    heard = json.dumps([asked.brief, asked.output_format, *(asked.part(name) for name in HEARD)], sort_keys=True, default=str)
    sha = hashlib.sha256(f"{heard}:{mode}".encode()).hexdigest()
    attributes = asked.part("attributes", {})
    about = attributes.get("topic") if isinstance(attributes, dict) else None
    return replace(asked, sha=sha, parts={**asked.parts, **({"about": about} if about else {})})
