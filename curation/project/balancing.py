"""Sections `describe` and `balance`: how rows are counted, and what is done about classes that are too large or too small."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from curation.project.closed import Closed

FOUND_TOPIC = "found_topic"
"""Balance by the topics that `curate describe` finds."""


class Describe(Closed):
    """How `curate describe` and `curate compare` count."""

    topics: int | None = Field(default=None, ge=2, le=200)
    """Topics to find; by default about the root of an eighth of the rows, at most 24."""
    region: str | None = Field(default="US", pattern=r"^[A-Z]{2}$")
    """Country whose phone numbers are known without +; null to find only those with it."""
    tokenizer: str | None = None
    """Folder of your base model (or a tokenizer.json) whose tokens are counted; by default the embedding model's."""


class Balance(Closed):
    """By what the rows are balanced, and how. Without `by` nothing is."""

    by: str | None = None
    """`label`, the name of a plan attribute or of the grounding topic, `found_topic`, or a metadata column of imported rows."""
    cap: int | None = Field(default=None, ge=1)
    """Most rows a class may have in a snapshot; further ones, worst first, are left out and not sent to review."""
    weight: Literal["sqrt", "inverse"] | None = None
    """Weights for the classes, told in the snapshot's manifest; the trainer here does not read them."""
    refill: int | None = Field(default=None, ge=1)
    """Rows each class should have; what is missing is asked of the plan."""

    @model_validator(mode="after")
    def _says_by_what(self) -> Balance:
        if self.by is None and (self.cap or self.weight or self.refill):
            raise ValueError("by is missing: label, the name of a plan attribute, or found_topic")
        if self.cap is not None and self.refill is not None and self.refill > self.cap:
            raise ValueError(f"refill ({self.refill}) is above cap ({self.cap}): rows would be written and left out again")
        return self
