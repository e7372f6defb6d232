"""A fixed model of mode collapse: how a language model repeats itself when it gets the same prompt many times.

For each prompt the model has MODES ideas and picks the k-th with a probability proportional to k ** -EXPONENT: a third of the
responses use the first idea, two thirds one of the first five. The content of the prompt decides which ideas these are; a number in
it does not. A model that is shown the ideas already used avoids them with probability AVOIDANCE.

The law was fixed before any prompt was written. It applies to identical repeated requests, and with `--collapse` to all requests.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from curation.simulation.defects import fraction
from curation.simulation.request_parser import ParsedRequest

MODES, EXPONENT, AVOIDANCE = 40, 1.3, 0.9
TAIL_SHARE = 0.1
"""Upper bound for the probability of an idea from the tail."""
CONTENT_PARTS = ("attributes", "described", "row", "siblings", "passage", "existing_example", "way", "turns")
"""Tagged parts of a request that change which ideas a model has."""

_WEIGHTS = [(rank + 1) ** -EXPONENT for rank in range(MODES)]
SHARES = tuple(weight / sum(_WEIGHTS) for weight in _WEIGHTS)


def draw_mode(*parts: object) -> int:
    """Return the rank of an idea, 0 for the most likely; the same for the same parts."""
    position, edge = fraction("mode", *parts), 0.0
    for rank, share in enumerate(SHARES):
        edge += share
        if position < edge:
            return rank
    return MODES - 1


def draw_tails(count: int, *parts: object) -> list[int]:
    """Return distinct ideas from the tail, all equally likely, as a model gives them that is asked for unlikely ones."""
    tails = [rank for rank, share in enumerate(SHARES) if share < TAIL_SHARE]
    return sorted(tails, key=lambda rank: fraction("tail", rank, *parts))[:count]


def with_idea(request: ParsedRequest, mode: int) -> ParsedRequest:
    """Return the request with a digest that depends only on its content and the idea."""
    content = [request.brief, request.output_format, *(request.part(name) for name in CONTENT_PARTS)]
    sha = hashlib.sha256(f"{json.dumps(content, sort_keys=True, default=str)}:{mode}".encode()).hexdigest()
    attributes = request.part("attributes", {})
    topic = attributes.get("topic") if isinstance(attributes, dict) else None
    return replace(request, sha=sha, parts={**request.parts, **({"about": topic} if topic else {})})
