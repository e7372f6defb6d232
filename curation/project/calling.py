"""Sections `models` and `budget`: who writes, who judges, who serves them, and what it may cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curation.project.closed import Closed


class Price(Closed):
    """US dollars per million tokens, for a model that the shipped price file does not know."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class ModelSpec(Closed):
    """A model and who serves it."""

    provider: Literal["anthropic", "offline-stand-in"] = "anthropic"
    """`offline-stand-in` answers on this machine with made-up text: for trying things out, never for real data."""
    model: str
    base_url: str | None = None
    """Another address that speaks the Messages API; for the stand-in, the address it was started on."""
    max_tokens: int = Field(default=1024, ge=16)
    concurrency: int = Field(default=8, ge=1, le=256)
    batch: bool = False
    """Send by Message Batches: half the price, answers within 24 hours."""
    price: Price | None = None


class Models(Closed):
    """Who writes and who judges."""

    teacher: ModelSpec
    judge: ModelSpec


class Budget(Closed):
    """The hard cap on what all calls of this project may cost."""

    usd: float = Field(default=5.0, gt=0)
