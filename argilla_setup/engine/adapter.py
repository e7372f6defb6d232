"""argilla-server's `SearchEngine`, answered by our index.

Everything that touches the ORM happens before the work moves to a thread: a lazy load outside the session raises.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from argilla_server.enums import MetadataPropertyType, SimilarityOrder, SortOrder
from argilla_server.models import Dataset, MetadataProperty, Record, Response, Suggestion, User, VectorSettings
from argilla_server.search_engine import base
from argilla_server.settings import settings

from argilla_setup.engine.converters import (
    moment_of,
    plain_question,
    plain_scope,
    record_doc,
    response_doc,
    searched_fields,
    suggestion_doc,
)
from argilla_setup.engine.index import Index
from argilla_setup.engine.schema import VERSION
from argilla_setup.engine.search import (
    Page,
    count_responses,
    count_statuses,
    count_terms,
    find_extent,
    search,
    search_similar,
)
from argilla_setup.engine.sorting import Sort

NAME = "sqlite"
_LOG = logging.getLogger("argilla.search_engine.sqlite")
T = TypeVar("T")


@cache
def shared_index() -> Index:
    """The process's one index; argilla-server makes and closes an engine for every request."""
    return Index(Path(settings.home_path) / "search.db")


def forget_index() -> None:
    """Remove the file; the next one who asks for the index begins it anew."""
    shared_index.cache_clear()
    path = Path(settings.home_path) / "search.db"
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=4, thread_name_prefix="search")


async def _run(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads(), partial(call, *args, **kwargs))


@base.SearchEngine.register(NAME)
class SQLiteSearchEngine(base.SearchEngine):
    """See argilla_server.search_engine.base for what each method must do."""

    @classmethod
    async def new_instance(cls) -> SQLiteSearchEngine:
        return cls()

    async def close(self) -> None:
        """Nothing: the index outlives the request."""

    async def ping(self) -> bool:
        await _run(count_statuses, shared_index(), "")
        return True

    async def info(self) -> dict[str, Any]:
        return {"name": "seedcorn-sqlite", "path": shared_index().path.name, "schema": VERSION}

    async def create_index(self, dataset: Dataset) -> None:
        questions = {question.name: str(question.type) for question in dataset.questions}
        await _run(shared_index().create_dataset, str(dataset.id), fields=searched_fields(dataset), questions=questions)

    async def delete_index(self, dataset: Dataset) -> None:
        await _run(shared_index().delete_dataset, str(dataset.id))

    async def configure_metadata_property(self, dataset: Dataset, metadata_property: MetadataProperty) -> None:
        """Nothing: the index keeps every metadata value, so a new property finds the old records' values."""

    async def configure_index_vectors(self, vector_settings: VectorSettings) -> None:
        """Nothing: vectors are kept by the settings' id."""

    async def index_records(self, dataset: Dataset, records: Iterable[Record]) -> None:
        await _run(shared_index().put_records, str(dataset.id), [record_doc(record) for record in records])

    async def partial_record_update(self, record: Record, **update: Any) -> None:
        found = await _run(shared_index().set_status, str(record.id), str(update["status"]), updated_at=moment_of(record.updated_at))
        _warn_if_missing(found, record.id)

    async def delete_records(self, dataset: Dataset, records: Iterable[Record]) -> None:
        await _run(shared_index().delete_records, str(dataset.id), [str(record.id) for record in records])

    async def update_record_response(self, response: Response) -> None:
        record = response.record
        found = await _run(shared_index().put_response, str(record.dataset_id), str(record.id), response_doc(response))
        _warn_if_missing(found, record.id)

    async def delete_record_response(self, response: Response) -> None:
        await _run(shared_index().delete_response, str(response.id))

    async def update_record_suggestion(self, suggestion: Suggestion) -> None:
        dataset, record = str(suggestion.record.dataset_id), str(suggestion.record_id)
        found = await _run(shared_index().put_suggestion, dataset, record, suggestion_doc(suggestion))
        _warn_if_missing(found, record)

    async def delete_record_suggestion(self, suggestion: Suggestion) -> None:
        await _run(shared_index().delete_suggestion, str(suggestion.record_id), suggestion.question.name)

    async def get_dataset_progress(self, dataset: Dataset) -> dict[str, int]:
        return {} if dataset.is_draft else _with_total(await _run(count_statuses, shared_index(), str(dataset.id)))

    async def get_dataset_user_progress(self, dataset: Dataset, user: User) -> dict[str, int]:
        return {} if dataset.is_draft else _with_total(await _run(count_responses, shared_index(), str(dataset.id), user=str(user.id)))

    async def search(  # type: ignore[override, unused-ignore]
        self,
        dataset: Dataset,
        query: base.TextQuery | str | None = None,
        filter: base.Filter | None = None,
        sort: list[base.Order] | None = None,
        offset: int = 0,
        limit: int = 100,
        user_id: UUID | None = None,  # passed by /me/…/records/search though the abstract signature lacks it
    ) -> base.SearchResponses:
        orders = [Sort(plain_scope(order.scope), descending=order.order == SortOrder.desc) for order in sort or []]
        user = None if user_id is None else str(user_id)
        page = await _run(
            search,
            shared_index(),
            str(dataset.id),
            question=plain_question(query, filter),
            sort=orders,
            offset=offset,
            limit=limit,
            user=user,
        )
        return _responses(page)

    async def similarity_search(
        self,
        dataset: Dataset,
        vector_settings: VectorSettings,
        value: list[float] | None = None,
        record: Record | None = None,
        query: base.TextQuery | str | None = None,
        filter: base.Filter | None = None,
        max_results: int = 100,
        order: SimilarityOrder = SimilarityOrder.most_similar,
        threshold: float | None = None,
    ) -> base.SearchResponses:
        if bool(value) == bool(record):
            raise ValueError("a similarity search needs either a vector or a record")
        wanted = value or (record.vector_value_by_vector_settings(vector_settings) if record else None)
        if not wanted:
            raise ValueError("the record has no vector of that name")
        page = await _run(
            search_similar,
            shared_index(),
            str(dataset.id),
            vector=str(vector_settings.id),
            value=[-x for x in wanted] if order == SimilarityOrder.least_similar else wanted,
            question=plain_question(query or None, filter),  # an empty text asks for nothing here, as in argilla-server's own engines
            excluded=str(record.id) if record is not None and not value else None,
            limit=max_results,
            threshold=threshold,
        )
        return _responses(page)

    async def compute_metrics_for(self, metadata_property: MetadataProperty) -> base.MetadataMetrics:
        dataset, name = str(metadata_property.dataset_id), metadata_property.name
        if metadata_property.type == MetadataPropertyType.terms:
            counts = await _run(count_terms, shared_index(), dataset, metadata=name)
            values = [base.TermsMetrics.TermCount(term=term, count=count) for term, count in counts]
            return base.TermsMetrics(total=sum(count for _, count in counts), values=values)
        least, greatest = await _run(find_extent, shared_index(), dataset, metadata=name)
        if metadata_property.type == MetadataPropertyType.integer:
            return base.IntegerMetadataMetrics(min=None if least is None else int(least), max=None if greatest is None else int(greatest))
        return base.FloatMetadataMetrics(min=least, max=greatest)


def _responses(page: Page) -> base.SearchResponses:
    items = [base.SearchResponseItem(record_id=UUID(hit.record), score=hit.score) for hit in page.hits]
    return base.SearchResponses(items=items, total=page.total)


def _with_total(counts: dict[str, int]) -> dict[str, int]:
    return {"total": sum(counts.values()), **counts}


def _warn_if_missing(found: bool, record: Any) -> None:
    if not found:
        _LOG.warning("record %s is not in the index; the check at the next start will rebuild it", record)
