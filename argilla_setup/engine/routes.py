"""Handlers that replace argilla-server's own: a record by its id, the log-in, and the search's check of hidden metadata."""

from __future__ import annotations

import math
from typing import Annotated, Any
from uuid import UUID

from argilla_server.api.handlers.v1 import authentication, records
from argilla_server.api.handlers.v1.datasets import records as search_handlers
from argilla_server.api.policies.v1 import RecordPolicy, authorize
from argilla_server.api.routes import api_v1
from argilla_server.api.schemas.v1.oauth2 import Token
from argilla_server.api.schemas.v1.records import Record as RecordSchema
from argilla_server.database import get_async_db
from argilla_server.errors import UnauthorizedError
from argilla_server.errors.future import UnprocessableEntityError
from argilla_server.models import Dataset, Record, User, Vector
from argilla_server.security import auth
from fastapi import APIRouter, Depends, Form, HTTPException, Request, Security, status
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from argilla_setup.engine.logins import LoginLimiter

router = APIRouter()
limiter = LoginLimiter()


def replace_handlers() -> None:
    """Put these handlers in the place of argilla-server's."""
    replaced = (records.get_record, authentication.create_token)
    routes = api_v1.router.routes
    kept = [route for route in routes if getattr(route, "endpoint", None) not in replaced]
    assert len(kept) == len(routes) - len(replaced), "argilla-server's routes have changed"
    routes[:] = kept
    api_v1.include_router(router)
    refuse_hidden_metadata()


@router.get("/records/{record_id}", response_model=RecordSchema)
async def get_record(
    *, db: AsyncSession = Depends(get_async_db), record_id: UUID, current_user: User = Security(auth.get_current_user)
) -> Any:
    """Return a record, its vectors' names included; argilla-server loads those lazily and answers 500.

    An annotator gets what the search gives them: no metadata that is hidden from annotators, and no answers but their own.
    """
    vectors = selectinload(Record.vectors).selectinload(Vector.vector_settings)
    dataset = selectinload(Record.dataset).selectinload(Dataset.metadata_properties)
    parts = [dataset, selectinload(Record.suggestions), selectinload(Record.responses), vectors]
    record = await Record.get_or_raise(db, record_id, options=parts)
    await authorize(current_user, RecordPolicy.get(record))
    shown = RecordSchema.model_validate(record)
    shown.metadata = await search_handlers._filter_record_metadata_for_user(record, current_user)
    if current_user.is_annotator:
        shown.responses = [response for response in shown.responses or [] if response.user_id == current_user.id]
    return shown


@router.post("/token", status_code=status.HTTP_201_CREATED, response_model=Token)
async def create_token(
    *,
    request: Request,
    db: AsyncSession = Depends(get_async_db),
    username: Annotated[str, Form()],
    password: Annotated[str, Form()],
) -> Any:
    """Log a person in, unless too many attempts failed before."""
    address = request.client.host if request.client else ""
    wait = math.ceil(limiter.begin(username, address))
    if wait:
        detail = f"Too many failed log-ins. Try again in {wait} seconds."
        raise HTTPException(status.HTTP_429_TOO_MANY_REQUESTS, detail, headers={"Retry-After": str(wait)})
    user = await authentication.accounts.authenticate_user(db, username, password)
    if not user:
        raise UnauthorizedError
    limiter.succeed(username, address)
    return Token(access_token=authentication.accounts.generate_user_token(user))


def refuse_hidden_metadata() -> None:
    """Refuse an annotator's search that filters or sorts by metadata hidden from annotators.

    argilla-server removes the values from its responses but filters by them for anybody, so a few searches would reveal a record's score.
    """
    find = search_handlers._get_search_responses

    async def find_without_hidden(**given: Any) -> Any:
        user, query, dataset = given.get("user"), given.get("search_records_query"), given["dataset"]
        if user is not None and user.is_annotator and query is not None:
            hidden = {item.name for item in dataset.metadata_properties if not item.visible_for_annotators}
            parts = [*(query.filters.and_ if query.filters else ()), *(query.sort or ())]
            for name in hidden & {getattr(part.scope, "metadata_property", None) for part in parts}:
                raise UnprocessableEntityError(f"Metadata property `{name}` is not open to annotators")
        return await find(**given)

    search_handlers._get_search_responses = find_without_hidden
