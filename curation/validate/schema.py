"""The checks a project may ask of each row, as written in project.yaml. Nouns only: `validate.py` runs them.

Four kinds: the text fits a pattern, the text is JSON of a given schema, what the text says stands in a table (the code exists, is
billable, carries that description), or a Python function of the project accepts it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from curation.errors import ProjectError
from curation.patterns import compile_pattern

Target = Literal["completion", "prompt", "both"]
"""Which text is looked at; with `both`, each of the two must pass."""


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
        groups = set(compile_pattern(self.pattern).names)
        missing = sorted({self.key, *self.equals} - groups)
        if missing:
            raise ValueError(f"pattern has no group named {', '.join(missing)}; it has {', '.join(sorted(groups)) or 'none'}")
        return self


class PythonCheck(BaseModel):
    """A function of the project's own must accept the text. It runs in a process of its own, within limits.

    It gets the text as its one argument, or prompt and completion with `target: both`, and returns None or True where all is well,
    else False, a reason, or a list of reasons. What it raises counts as a failure of that row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["python"] = "python"
    name: str = "python"
    """How findings of this check are called."""
    callable: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
    """Dotted name, for example `my_checks.is_polite` for the function in my_checks.py beside project.yaml; installed packages too."""
    seconds: float = Field(default=2.0, gt=0, le=600)
    """How long one row may take."""
    memory_mb: int = Field(default=512, ge=16)
    """How much memory it may take beyond what it holds once imported (enforced on Linux)."""
    target: Target = "completion"
    """Which text is looked at."""


Check = Annotated[PatternCheck | SchemaCheck | TableCheck | PythonCheck, Field(discriminator="kind")]


def _compiled(value: str) -> str:
    try:
        compile_pattern(value)
    except ProjectError as error:
        raise ValueError(error.fact) from error
    return value
