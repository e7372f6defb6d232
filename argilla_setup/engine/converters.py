"""Argilla's records, filters and orders as the index's plain values."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from argilla_server.models import Dataset, Field, Record, Response, Suggestion
from argilla_server.search_engine import base

from argilla_setup.engine.documents import KEYWORD, RecordDoc, ResponseDoc, SuggestionDoc
from argilla_setup.engine.filters import All, Filter, Range, Scope, Terms, microseconds
from argilla_setup.engine.search import Question


def searched_fields(dataset: Dataset) -> list[str]:
    """The fields of a dataset that text is looked for in; a conversation has its roles besides."""
    names = [[field.name, f"{field.name}{KEYWORD}"] if field.is_chat else [field.name] for field in dataset.fields if not field.is_image]
    return [name for group in names for name in group]


def record_doc(record: Record) -> RecordDoc:
    """A record whose dataset's fields, responses, suggestions and vectors are loaded."""
    return RecordDoc(
        id=str(record.id),
        fields={name: value for field in record.dataset.fields for name, value in field_texts(field, record.fields.get(field.name))},
        status=str(record.status),
        external_id=record.external_id,
        inserted_at=moment_of(record.inserted_at),
        updated_at=moment_of(record.updated_at),
        metadata=dict(record.metadata_ or {}),
        suggestions=[suggestion_doc(suggestion) for suggestion in record.suggestions],
        responses=[response_doc(response) for response in record.responses],
        vectors={str(vector.vector_settings_id): list(vector.value) for vector in record.vectors},
    )


def response_doc(response: Response) -> ResponseDoc:
    """A response; its values are wrapped as {"value": …}."""
    values = {question: answer.get("value") for question, answer in (response.values or {}).items()}
    user = None if response.user_id is None else str(response.user_id)
    return ResponseDoc(str(response.id), user, str(response.status), values, moment_of(response.updated_at))


def suggestion_doc(suggestion: Suggestion) -> SuggestionDoc:
    """A suggestion whose question is loaded."""
    return SuggestionDoc(
        suggestion.question.name,
        suggestion.value,
        score=suggestion.score,
        agent=suggestion.agent,
        type=None if suggestion.type is None else str(suggestion.type),
        updated_at=moment_of(suggestion.updated_at),
    )


def field_texts(field: Field, value: Any) -> list[tuple[str, str | list[str]]]:
    """What is searched in a field: a text, the contents and the roles of a chat's messages, or a custom value as Python writes it."""
    if field.is_image or value is None:
        return []
    if field.is_chat and isinstance(value, list):
        messages = [message for message in value if isinstance(message, dict)]
        contents, roles = ([str(message.get(key) or "") for message in messages] for key in ("content", "role"))
        return [(field.name, contents), (f"{field.name}{KEYWORD}", roles)]
    return [(field.name, str(value))]


def plain_question(query: base.TextQuery | str | None, filter: base.Filter | None) -> Question:
    """The text and the filter of a request."""
    condition = None if filter is None else plain_filter(filter)
    if query is None or isinstance(query, str):
        return Question(text=query, filter=condition)
    return Question(text=query.q, field=query.field, filter=condition)


def plain_filter(filter: base.Filter) -> Filter:
    """Argilla's filter as ours."""
    if isinstance(filter, base.AndFilter):
        return All(tuple(plain_filter(part) for part in filter.filters))
    if isinstance(filter, base.TermsFilter):
        return Terms(plain_scope(filter.scope), tuple(str(value) for value in filter.values))
    return Range(plain_scope(filter.scope), ge=filter.ge, le=filter.le)


def plain_scope(scope: base.FilterScope) -> Scope:
    """Argilla's scope as ours."""
    if isinstance(scope, base.MetadataFilterScope):
        return Scope("metadata", scope.metadata_property)
    if isinstance(scope, base.SuggestionFilterScope):
        known = scope.property in ("value", "score", "agent", "type")
        return Scope("suggestion", scope.question, scope.property if known else "value")
    if isinstance(scope, base.ResponseFilterScope):
        return Scope("response", scope.question, user=None if scope.user is None else str(scope.user.id))
    return Scope("record", str(scope.property))


def moment_of(moment: datetime | None) -> int | None:
    """Microseconds since 1970; the database's times are UTC without saying so."""
    return None if moment is None else microseconds(moment)
