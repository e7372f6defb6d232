"""What the index is given: records, responses and suggestions as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LONGEST_VALUE = 1000
"""Characters; longer metadata texts are not something people filter by."""


@dataclass(frozen=True)
class SuggestionDoc:
    question: str
    value: Any
    score: float | list[float] | None = None
    agent: str | None = None
    type: str | None = None


@dataclass(frozen=True)
class ResponseDoc:
    id: str
    user: str | None
    status: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordDoc:
    """A record as it is searched: whole, so that writing it again replaces what was there."""

    id: str
    fields: Mapping[str, str]
    status: str = "pending"
    external_id: str | None = None
    inserted_at: float | None = None
    updated_at: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    suggestions: Sequence[SuggestionDoc] = ()
    responses: Sequence[ResponseDoc] = ()
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)


def searchable_values(value: Any) -> list[str | float]:
    """The plain values inside a metadata, suggestion or answer value; a list gives its items, an object nothing."""
    if isinstance(value, list | tuple):
        return [item for part in value for item in searchable_values(part)]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, int | float):
        # SQLite's integers end at 64 bits.
        return [float(value)]
    if isinstance(value, str) and len(value) <= LONGEST_VALUE:
        return [value.encode("utf-8", "replace").decode()]
    return []
