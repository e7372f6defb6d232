"""Argilla's bulk writes without the work that nobody asked for.

argilla-server reads back every suggestion and vector that it has just written, and builds an event for each record, six queries long,
before it looks whether anybody listens. Here new records' parts are inserted in one go and taken as they were given, and an event is
built only where a webhook is enabled. What is stored and what is answered is the same; the tests of the real server hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from argilla_server.bulk import records_bulk
from argilla_server.contexts import distribution
from argilla_server.contexts.webhooks import list_enabled_webhooks
from argilla_server.models import Record, Suggestion, Vector
from argilla_server.webhooks.v1 import records as record_events
from argilla_server.webhooks.v1 import responses as response_events
from sqlalchemy import insert
from sqlalchemy.orm.attributes import set_committed_value

FRESH = "seedcorn.fresh"
"""In a session's notes: the parts of the records that this request made, by the record's id."""
WEBHOOKS = "seedcorn.webhooks"
Parts = tuple[list[Suggestion], list[Vector]]


class Unheard:
    """The event of a server without webhooks."""

    async def notify(self, _: Any) -> list[Any]:
        """Nobody listens."""
        return []


def write_without_reading_back() -> None:
    """Put the quicker ways in the place of argilla-server's, whose own remain for records that existed or come with answers."""
    bulk = records_bulk.UpsertRecordsBulk
    fetch, relate = bulk._fetch_existing_dataset_records, bulk._upsert_records_relationships
    preload, update = records_bulk._preload_records_relationships_before_index, distribution.unsafe_update_records_status

    async def fetch_and_note(self: Any, *given: Any) -> Any:
        found = await fetch(self, *given)
        self.known = frozenset(record.id for record in found.values())
        return found

    async def insert_parts(self: Any, records: Sequence[Record], creates: Sequence[Any]) -> None:
        known: frozenset[Any] = getattr(self, "known", frozenset())
        pairs = list(zip(records, creates, strict=False))
        fresh = [(record, create) for record, create in pairs if record.id not in known and not create.responses]
        self._db.info[FRESH] = await _insert_parts(self._db, fresh)
        rest = [pair for pair in pairs if pair[0].id not in self._db.info[FRESH]]
        if rest:
            await relate(self, [record for record, _ in rest], [create for _, create in rest])

    async def update_others(db: Any, records: Sequence[Record]) -> None:
        others = [record for record in records if record.id not in db.info.get(FRESH, {})]
        if others:  # a new record without an answer is pending from the start
            await update(db, others)

    async def preload_others(db: Any, records: Sequence[Record]) -> None:
        fresh: dict[Any, Parts] = db.info.get(FRESH, {})
        for record in records:
            if record.id in fresh:
                _take_as_given(record, *fresh[record.id])
        others = [record for record in records if record.id not in fresh]
        if others:
            await preload(db, others)

    bulk._fetch_existing_dataset_records = fetch_and_note
    records_bulk.CreateRecordsBulk._upsert_records_relationships = insert_parts
    distribution.unsafe_update_records_status = update_others
    records_bulk._preload_records_relationships_before_index = preload_others


def build_events_for_listeners_only() -> None:
    """Build a record's or a response's event only where a webhook is enabled; one look for each request."""
    for module, name in ((record_events, "build_record_event"), (response_events, "build_response_event")):
        setattr(module, name, _build_if_heard(getattr(module, name)))


def _build_if_heard(build: Any) -> Any:
    async def build_if_heard(db: Any, event: Any, subject: Any) -> Any:
        if WEBHOOKS not in db.info:
            db.info[WEBHOOKS] = bool(await list_enabled_webhooks(db))
        return await build(db, event, subject) if db.info[WEBHOOKS] else Unheard()

    return build_if_heard


async def _insert_parts(db: Any, fresh: Sequence[tuple[Record, Any]]) -> dict[Any, Parts]:
    now = datetime.now(UTC).replace(tzinfo=None)  # as argilla-server writes its times
    made: dict[Any, Parts] = {}
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for record, create in fresh:
        common = {"record_id": record.id, "inserted_at": now, "updated_at": now}
        given = [{"id": uuid4(), **common, **suggestion.model_dump()} for suggestion in create.suggestions or ()]
        settings = record.dataset.vector_settings_by_name
        vectors = [
            {"id": uuid4(), **common, "value": value, "vector_settings_id": settings(name).id}
            for name, value in (create.vectors or {}).items()
        ]
        rows[0].extend(given)
        rows[1].extend(vectors)
        made[record.id] = [Suggestion(**row) for row in given], [Vector(**row) for row in vectors]
    for model, values in zip((Suggestion, Vector), rows, strict=True):
        if values:
            await db.execute(insert(model.__table__), values)
    return made


def _take_as_given(record: Record, suggestions: list[Suggestion], vectors: list[Vector]) -> None:
    # After the commit only: a session that is still to be flushed would insert these objects a second time.
    for suggestion in suggestions:
        set_committed_value(suggestion, "question", record.dataset.question_by_id(suggestion.question_id))
        set_committed_value(suggestion, "record", record)
    by_id = {item.id: item for item in record.dataset.vectors_settings}
    for vector in vectors:
        set_committed_value(vector, "vector_settings", by_id[vector.vector_settings_id])
    for name, value in (("suggestions", suggestions), ("vectors", vectors), ("responses", []), ("responses_submitted", [])):
        set_committed_value(record, name, value)
