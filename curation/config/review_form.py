"""The parts of the annotators' form that a project chooses: extra questions, and examples for the guidelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from curation.config.yaml import Closed
from curation.records import Kind

RESERVED = ("verdict", "edited_completion", "reasons", "comment", "better", "strength", "corrected")
"""Names of the form's own questions."""


class Question(Closed):
    """A question that annotators answer besides the verdict. Answers are stored and decide nothing."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    """Name under which the answers are stored."""
    title: str = Field(min_length=1, max_length=500)
    """Text that annotators read."""
    kind: Literal["label", "labels", "rating", "text"] = "label"
    """Answer: one label, any number of labels, a number from 1 to 5, or a text."""
    labels: dict[str, str] = Field(default_factory=dict)
    """For label and labels: value to text; a list gives values that are their own text."""
    required: bool = False
    """True if no answer can be submitted without it."""
    of: Kind | None = None
    """Kind of row that is asked about; null: both."""

    @field_validator("labels", mode="before")
    @classmethod
    def _listed_or_named(cls, given: Any) -> Any:
        return given if isinstance(given, Mapping) else {str(value): str(value) for value in given}

    @model_validator(mode="after")
    def _can_be_asked(self) -> Question:
        if self.name in RESERVED:
            raise ValueError(f"{self.name} is a question of the form; choose another name")
        has_labels = self.kind in ("label", "labels")
        if has_labels != bool(self.labels) or len(self.labels) == 1:
            raise ValueError(f"{self.name}: kind {self.kind} needs {'at least two labels' if has_labels else 'no labels'}")
        return self


class Example(Closed):
    """An answer that the guidelines show as good or as bad."""

    prompt: str = Field(min_length=1)
    """The prompt."""
    answer: str = Field(min_length=1)
    """The answer."""
    good: bool
    """True for an answer to approve, false for one to reject."""
    why: str = Field(min_length=1)
    """Reason, in one sentence."""
