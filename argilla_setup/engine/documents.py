"""The input of the index: records, responses and suggestions as plain values, without argilla-server's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LONGEST_VALUE = 32_766
"""Maximum number of bytes of a keyword in Lucene."""

KEYWORD = ".role"
"""Suffix of fields with keywords (the roles of a conversation), which are matched as a whole and with case."""


@dataclass(frozen=True)
class SuggestionDoc:
    """A suggestion for one question."""

    question: str
    value: Any
    score: float | list[float] | None = None
    agent: str | None = None
    type: str | None = None
    updated_at: int | None = None


@dataclass(frozen=True)
class ResponseDoc:
    """A user's response to a record."""

    id: str
    user: str | None
    status: str
    values: Mapping[str, Any] = field(default_factory=dict)
    updated_at: int | None = None
    """Microseconds since 1970; of two states of a response the later one is kept."""


@dataclass(frozen=True)
class RecordDoc:
    """A complete record, so that writing it again replaces everything."""

    id: str
    fields: Mapping[str, str | Sequence[str]]
    """A text, or the messages of a conversation; no phrase matches across messages."""
    status: str = "pending"
    external_id: str | None = None
    inserted_at: int | None = None
    updated_at: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    suggestions: Sequence[SuggestionDoc] = ()
    responses: Sequence[ResponseDoc] = ()
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)


def searchable_values(value: Any) -> list[str | float]:
    """Return the searchable values of a metadata, suggestion or answer value: the items of a list, nothing for an object."""
    if isinstance(value, list | tuple):
        return [item for part in value for item in searchable_values(part)]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, int | float):
        # As a float, because SQLite's integers are limited to 64 bits.
        return [float(value)]
    if isinstance(value, str):
        body = value.encode("utf-8", "replace")
        return [body.decode()] if len(body) <= LONGEST_VALUE else []
    return []
