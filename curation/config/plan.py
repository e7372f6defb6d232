"""Sections `plan` and `records`: how many examples of what, how they are asked for, and how an example becomes a record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from curation.config.base import Closed, Share
from curation.errors import ProjectError
from curation.patterns import compile_pattern
from curation.records import Kind

VERBALIZED = 5
"""Candidates in one answer under `sampling: verbalized`, as in Zhang et al. 2025 (arXiv:2510.01171)."""

MOST_ROWS = 10_000_000
"""Rows that one plan may ask for: the largest set that near-duplicates were searched in."""


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


class Documents(Closed):
    """Texts whose passages the examples are written about, one passage a cell."""

    files: tuple[str, ...] = Field(min_length=1)
    """File names or patterns under the project's folder, for example docs/*.md."""
    chunk_chars: int = Field(default=2000, ge=200)
    """About how long a passage is; paragraphs are kept whole where they fit."""

    @field_validator("files", mode="before")
    @classmethod
    def _one_or_many(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given


class ValuesFile(Closed):
    """A file that holds the values of an attribute: one a line, or the column of a CSV or Parquet table."""

    file: str
    column: str | None = None
    """Of a table: the column of values; the first one by default."""
    weight: str | None = None
    """Of a table: a column of weights; all equal by default."""
    says: str | None = None
    """Of a table: a column of sentences that describe the value to the teacher."""


class Quota(Closed):
    """An exact number of examples with some combination of values."""

    kind: Kind = "instruction"
    where: dict[str, str] = Field(min_length=1)
    """Attribute to value; attributes that are not named vary by their weights."""
    cells: int = Field(ge=0)

    @field_validator("where", mode="before")
    @classmethod
    def _as_texts(cls, given: Any) -> Any:
        return _texts(given) if isinstance(given, Mapping) else given


class Sampling(Closed):
    """How many candidates are asked for in the place of one, each with a stated probability, and how many are kept."""

    candidates: int = Field(default=1, ge=1, le=20)
    keep: int = Field(default=1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        named = {"plain": {"candidates": 1}, "verbalized": {"candidates": VERBALIZED}}
        return named.get(given, given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _keeps_some(self) -> Sampling:
        if self.keep > self.candidates:
            raise ValueError(f"keep ({self.keep}) is more than candidates ({self.candidates})")
        return self


class Evolve(Closed):
    """Shares of the instruction examples that are made from an earlier one, in a second round."""

    deeper: Share = 0.0
    """The same matter, harder."""
    broader: Share = 0.0
    """Another, rarer matter of the same kind."""

    @model_validator(mode="after")
    def _leaves_parents(self) -> Evolve:
        if self.deeper + self.broader > 0.8:
            raise ValueError("deeper and broader together may be at most 0.8: the others are what they grow from")
        return self


class Refill(Closed):
    """Asking again for the cells whose row fell."""

    rounds: int = Field(default=2, ge=0, le=10)
    """How often a cell is asked again at most."""


class Plan(Closed):
    """How many examples of what, and how they are asked for."""

    seed: int = 7
    instruction: int = Field(default=0, ge=0, le=MOST_ROWS)
    """Instruction examples to write."""
    preference: int = Field(default=0, ge=0, le=MOST_ROWS)
    """Preference pairs to write."""
    attributes: dict[str, dict[str, float]] = Field(default_factory=dict)
    """For each attribute its values and their weights, for example difficulty: {basic: 5, intermediate: 3, advanced: 2}. A list
    gives each value the weight 1; {weight: 2, says: a sentence} describes one; {file: topics.txt} reads them from a file."""
    attribute_files: dict[str, ValuesFile] = Field(default_factory=dict)
    """The attributes whose values stand in files; written under `attributes` as a rule."""
    described: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Sentences given to the teacher with a value; written under `attributes` as `says`, as a rule."""
    quotas: tuple[Quota, ...] = ()
    grounding: Grounding | None = None
    documents: Documents | None = None
    examples_shown: int = Field(default=3, ge=0, le=20)
    """Seed examples shown to the teacher in each request."""
    turns: dict[int, float] = Field(default={1: 1.0}, min_length=1)
    """User turns of an instruction example, with weights; also a number, or a range as 1..3."""
    per_call: int = Field(default=1, ge=1, le=20)
    """Examples asked for in one request."""
    avoid: int = Field(default=0, ge=0, le=50)
    """At most so many neighbouring examples that exist already are shown as taken; the cells are then written in four waves."""
    sampling: Sampling = Sampling()
    evolve: Evolve = Evolve()
    refill: Refill = Refill()
    candidates: int = Field(default=0, ge=0, le=12)
    """Answers to one prompt from which a preference pair is chosen; 0: the teacher writes a better and a worse one itself."""
    margin: float = Field(default=1.0, ge=0, le=10)
    """Points of 10 by which a candidate must be better than another to make a pair with it."""
    preferred_by: Literal["judge", "people"] = "judge"
    """Who says which of two candidates is better. With `people` nobody has said so before they do."""

    @model_validator(mode="before")
    @classmethod
    def _sort_attributes(cls, given: Any) -> Any:
        """The several ways in which an attribute may be written, taken apart."""
        if not isinstance(given, Mapping) or not isinstance(given.get("attributes"), Mapping):
            return given
        parts: dict[str, dict[str, Any]] = {
            "attributes": {},
            "attribute_files": dict(given.get("attribute_files") or {}),
            "described": dict(given.get("described") or {}),
        }
        for name, values in given["attributes"].items():
            _sort_attribute(str(name), values, parts)
        return {**given, **parts}

    @field_validator("turns", mode="before")
    @classmethod
    def _spread_turns(cls, given: Any) -> Any:
        if isinstance(given, int) and not isinstance(given, bool):
            return {given: 1.0}
        if isinstance(given, str) and (found := re.fullmatch(r"(\d+)\s*(?:\.\.|-)\s*(\d+)", given.strip())):
            return dict.fromkeys(range(int(found[1]), int(found[2]) + 1), 1.0)
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> Plan:
        if min(self.turns) < 1 or max(self.turns) > 12 or min(self.turns.values()) < 0 or sum(self.turns.values()) <= 0:
            raise ValueError("turns must be from 1 to 12, for example 1, 1..3 or {1: 3, 2: 1}")
        if self.grounding and self.documents:
            raise ValueError("grounding and documents cannot both be given: an example is about a row or about a passage")
        if self.per_call > 1 and self.sampling.candidates > 1:
            raise ValueError("per_call and sampling cannot both ask for several examples in one request; leave one of them at 1")
        if self.candidates == 1:
            raise ValueError("candidates must be 0 or at least 2: a pair needs two")
        if self.preferred_by == "people" and not self.candidates:
            raise ValueError("preferred_by: people needs candidates of at least 2; a pair that the teacher writes says which is better")
        return self


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
            groups = compile_pattern(self.label_pattern).groups
        except ProjectError as error:
            raise ValueError(f"label_pattern {error.fact}") from error
        if groups < 1:
            raise ValueError("label_pattern needs one group in parentheses")
        return self


def _sort_attribute(name: str, values: Any, parts: dict[str, dict[str, Any]]) -> None:
    if isinstance(values, list | tuple):
        parts["attributes"][name] = dict.fromkeys(map(_text, values), 1.0)
    elif isinstance(values, Mapping) and isinstance(values.get("file"), str):
        parts["attributes"][name], parts["attribute_files"][name] = {}, values
    elif isinstance(values, Mapping):
        told = {_text(v): w["says"] for v, w in values.items() if isinstance(w, Mapping) and "says" in w}
        # {weight: …, says: …} and nothing else; what does not fit is left for the field to refuse by its path.
        parts["attributes"][name] = {
            _text(v): w.get("weight", 1.0) if isinstance(w, Mapping) and w.keys() <= {"weight", "says"} else w for v, w in values.items()
        }
        if told:
            parts["described"][name] = {**parts["described"].get(name, {}), **told}
    else:
        parts["attributes"][name] = values


def _text(value: Any) -> str:
    """A value as people wrote it: YAML reads `yes` and 2024 as something else."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _texts(values: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): _text(value) for name, value in values.items()}
