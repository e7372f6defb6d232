"""What the index is given: records, responses and suggestions as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LONGEST_VALUE = 32_766
"""Bytes; Lucene's limit for a keyword."""

KEYWORD = ".role"
"""A field of this ending holds keywords: the roles of a conversation, searched whole and case for case."""


@dataclass(frozen=True)
class SuggestionDoc:
    """A suggestion for one question, as it is filtered and sorted by."""

    question: str
    value: Any
    score: float | list[float] | None = None
    agent: str | None = None
    type: str | None = None
    updated_at: int | None = None


@dataclass(frozen=True)
class ResponseDoc:
    """One person's answer to a record, as it is filtered and sorted by."""

    id: str
    user: str | None
    status: str
    values: Mapping[str, Any] = field(default_factory=dict)
    updated_at: int | None = None
    """Microseconds since 1970; of two states of one response the later one stays."""


@dataclass(frozen=True)
class RecordDoc:
    """A record as it is searched: whole, so that writing it again replaces what was there."""

    id: str
    fields: Mapping[str, str | Sequence[str]]
    """A text, or the texts of a conversation, over whose borders no phrase goes."""
    status: str = "pending"
    external_id: str | None = None
    inserted_at: int | None = None
    updated_at: int | None = None
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
    if isinstance(value, str):
        body = value.encode("utf-8", "replace")
        return [body.decode()] if len(body) <= LONGEST_VALUE else []
    return []
