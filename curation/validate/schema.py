"""The checks that a project can define for each row in project.yaml; `rules.py` runs them.

Four kinds: the text matches a pattern, the text is JSON of a given schema, the values in the text agree with a table (the code exists, is
billable, has that description), or a Python function of the project accepts the text.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from curation.errors import ProjectError
from curation.patterns import compile_pattern

Target = Literal["completion", "prompt", "both"]
"""The text that is checked; with `both`, each of the two must pass."""


class PatternCheck(BaseModel):
    """The text must match a regular expression."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pattern"] = "pattern"
    """The kind of check."""
    name: str = "pattern"
    """Name of this check in findings."""
    pattern: str
    """Python regular expression, searched for in the whole text; `^` and `$` match at each line."""
    target: Target = "completion"
    """The text that is checked."""
    absent: bool = False
    """True inverts the check: the pattern must not occur."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        return _compiled(value)


class SchemaCheck(BaseModel):
    """The text must be JSON that is valid under a JSON Schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kind: Literal["schema"] = "schema"
    """The kind of check."""
    name: str = "schema"
    """Name of this check in findings."""
    json_schema: dict[str, Any] = Field(alias="schema")
    """A JSON Schema, draft 2020-12 unless it names another."""
    target: Target = "completion"
    """The text that is checked."""


class TableCheck(BaseModel):
    """The values in the text must agree with a table: a pattern reads the fields, the key is looked up, the rest is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["table"] = "table"
    """The kind of check."""
    name: str = "table"
    """Name of this check in findings."""
    table: str
    """Path of a Parquet or CSV file, relative to the project."""
    pattern: str
    """Python regular expression with named groups; `^` and `$` match at each line."""
    key: str
    """The group that holds the key; it is looked up in the column of the same name."""
    equals: dict[str, str] = Field(default_factory=dict)
    """Group to column: both values must be equal, apart from case and spacing."""
    require: tuple[str, ...] = ()
    """Boolean columns that must be true in the row that was found (`billable`)."""
    expected: bool = False
    """True if the key must be the planned value (the record's label)."""
    target: Target = "completion"
    """The text that is checked."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        return _compiled(value)

    @model_validator(mode="after")
    def _groups_exist(self) -> TableCheck:
        groups = set(compile_pattern(self.pattern).names)
        missing = sorted({self.key, *self.equals} - groups)
        if missing:
            raise ValueError(f"pattern has no group named {', '.join(missing)}; it has {', '.join(sorted(groups)) or 'none'}")
        return self


class PythonCheck(BaseModel):
    """A function of the project must accept the text. It runs in a separate process with limits.

    It receives the text, or prompt and completion with `target: both`, and returns None or True if the text is valid, else False, a
    reason, or a list of reasons. An exception counts as a failure of that row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["python"] = "python"
    """The kind of check."""
    name: str = "python"
    """Name of this check in findings."""
    callable: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
    """Dotted name, for example `my_checks.is_polite` for a function in the project's my_checks.py; installed packages work too."""
    seconds: float = Field(default=2.0, gt=0, le=600)
    """Time limit for one row."""
    memory_mb: int = Field(default=512, ge=16)
    """Memory limit beyond what it uses after the import (enforced on Linux)."""
    target: Target = "completion"
    """The text that is checked."""


Check = Annotated[PatternCheck | SchemaCheck | TableCheck | PythonCheck, Field(discriminator="kind")]


def _compiled(value: str) -> str:
    try:
        compile_pattern(value)
    except ProjectError as error:
        raise ValueError(error.fact) from error
    return value
