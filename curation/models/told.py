"""What a run of calls tells while it goes on, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AskProgress:
    """Where a run of calls stands."""

    done: int
    total: int | None
    in_flight: int
    answered: int
    reused: int
    failed: int
    cost_usd: float
    """Of this run."""
    seconds: float


@dataclass(frozen=True)
class AskSummary:
    """What a run of calls did."""

    answered: int
    reused: int
    """Answered before, or by another process meanwhile."""
    failed: int
    uncertain: int
    """Tries, of this run and of processes that died before it, whose answer never reached us; charged at their upper bound."""
    cost_usd: float
    """What this process spent in this run, its uncertain tries included."""
    failures: dict[str, int]
    """By reason."""
    refusals: dict[str, int]
    """Answers that are refusals, by the provider's category."""
