"""What becomes of requests that are offered to the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from curation.requests import Request


@dataclass(frozen=True)
class ClaimedCall:
    """A call that is ours to send."""

    seq: int
    request: Request
    held_nano: int


@dataclass(frozen=True)
class Claim:
    """What became of the first `looked_at` requests of those offered."""

    calls: tuple[ClaimedCall, ...] = ()
    looked_at: int = 0
    reused: int = 0
    """Already answered."""
    failed: int = 0
    """Failed since the run began, or failed in a way that was paid for; not asked again under this key."""
    elsewhere: tuple[int, ...] = ()
    """Places (in what was offered) of those already on their way, in this process or another."""
    over_budget: bool = False
    """The next one could pass the budget."""


@dataclass(frozen=True)
class Recovered:
    """What dead processes left behind."""

    uncertain: int = 0
    freed: int = 0
