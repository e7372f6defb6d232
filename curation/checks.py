"""The checks a project may ask of each row, as written in project.yaml. Nouns only: `validate.py` runs them.

Three kinds: the answer fits a pattern, the answer is JSON of a given schema, or what the answer says stands in a table
(the code exists, is billable, carries that description).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Target = Literal["completion", "prompt"]


class PatternCheck(BaseModel):
    """The text must match a regular expression."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pattern"] = "pattern"
    name: str = "pattern"
    """How findings of this check are called."""
    pattern: str
    """Python regular expression, searched for in the whole text; `^` and `$` match at each line."""
    target: Target = "completion"
    """Which text is looked at."""
    absent: bool = False
    """True turns the check round: the pattern must not occur."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        return _compiled(value)


class SchemaCheck(BaseModel):
    """The text must be JSON that a JSON Schema accepts."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kind: Literal["schema"] = "schema"
    name: str = "schema"
    """How findings of this check are called."""
    json_schema: dict[str, Any] = Field(alias="schema")
    """A JSON Schema, draft 2020-12 unless it names another."""
    target: Target = "completion"
    """Which text is looked at."""


class TableCheck(BaseModel):
    """What the text says must stand in a table: read fields by a pattern, look the key up, compare the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["table"] = "table"
    name: str = "table"
    """How findings of this check are called."""
    table: str
    """Path of a Parquet or CSV file, relative to the project."""
    pattern: str
    """Python regular expression with named groups; `^` and `$` match at each line."""
    key: str
    """The group that holds the key, and the column of the same name that it is looked up in."""
    equals: dict[str, str] = Field(default_factory=dict)
    """Group to column: what the text says there must be what the table says (case and spacing aside)."""
    require: tuple[str, ...] = ()
    """Boolean columns that must be true in the row found (`billable`)."""
    expected: bool = False
    """True: the key must be the value the plan asked for (the record's label)."""
    target: Target = "completion"
    """Which text is looked at."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        return _compiled(value)

    @model_validator(mode="after")
    def _groups_exist(self) -> TableCheck:
        groups = set(re.compile(self.pattern).groupindex)
        missing = sorted({self.key, *self.equals} - groups)
        if missing:
            raise ValueError(f"pattern has no group named {', '.join(missing)}; it has {', '.join(sorted(groups)) or 'none'}")
        return self


Check = Annotated[PatternCheck | SchemaCheck | TableCheck, Field(discriminator="kind")]


def _compiled(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return value
