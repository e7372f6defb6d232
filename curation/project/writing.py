"""Sections `plan` and `records`: how many examples of what, and how an example becomes a record."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from curation.project.closed import Closed


class Grounding(Closed):
    """A table whose rows the examples are written about, one row a cell."""

    table: str
    key: str
    where: str | None = None
    """Name of a true/false column: only its true rows are written about."""
    topic: str | None = None
    """Column whose values share the rows evenly."""
    show: tuple[str, ...] = ()
    """Columns given to the teacher, and to the judge as the reference."""
    siblings: str | None = None
    """Column whose equal value makes two rows plausible confusions of each other; needed for preference pairs."""
    sibling_where: str | None = None
    """Name of a true/false column that a confusion must satisfy."""


class Plan(Closed):
    """How many examples of what."""

    seed: int = 7
    instruction: int = Field(default=0, ge=0)
    """Instruction examples to write."""
    preference: int = Field(default=0, ge=0)
    """Preference pairs to write."""
    attributes: dict[str, dict[str, float]] = Field(default_factory=dict)
    """For each attribute its values and their weights, for example difficulty: {basic: 5, intermediate: 3, advanced: 2}."""
    grounding: Grounding | None = None
    examples_shown: int = Field(default=3, ge=0, le=20)
    """Seed examples shown to the teacher in each request."""


class RecordRules(Closed):
    """How a generated example becomes a record."""

    system: str | None = None
    """Standing system message of every record."""
    label_pattern: str | None = None
    """Regular expression on the completion; its first group is the record's label."""
    output_format: str = ""
    """Told to the teacher and the judge: what an answer must look like."""

    @model_validator(mode="after")
    def _compiles(self) -> RecordRules:
        if self.label_pattern is None:
            return self
        try:
            groups = re.compile(self.label_pattern).groups
        except re.error as error:
            raise ValueError(f"label_pattern is not a regular expression: {error}") from error
        if groups < 1:
            raise ValueError("label_pattern needs one group in parentheses")
        return self
