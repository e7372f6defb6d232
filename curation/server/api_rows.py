"""Routes of the page of rows besides those of `api.py`: counts by several columns, saved views, and what surrounds one row."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from curation.actor import ACTOR
from curation.server.api import Most, Serving, Text, needs
from curation.store import records
from curation.views.row_context import RowContext, load_context
from curation.views.row_story import load_story
from curation.views.row_table import Pivot
from curation.views.row_table import Query as RowQuery
from curation.views.saved_views import SavedView, delete_view, list_views, save_view
from curation.workspace import open_workspace


class ViewRequest(BaseModel):
    """A view to store."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    where: str = Field(default="", max_length=5000)
    search: str = Field(default="", max_length=5000)
    order: str = Field(default="", max_length=300)
    columns: list[str] = Field(default_factory=list, max_length=100)
    group: list[str] = Field(default_factory=list, max_length=4)


class ViewName(BaseModel):
    """Name of a view."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=100)


router = APIRouter(prefix="/api")


@router.get("/pivot", dependencies=[needs("viewer")])
def pivot(
    service: Serving,
    by: Annotated[list[str], Query(min_length=1, max_length=4)],
    where: Text = None,
    search: Text = None,
    most: Most = 200,
) -> list[Pivot]:
    """Count rows by the values of several columns."""
    return service.live.table().pivot(by, RowQuery(where, search), most=most)


@router.get("/rows/{identity}/context", dependencies=[needs("viewer")])
def context(identity: str, service: Serving) -> RowContext:
    """Return what surrounds one row: requests and responses, twins with word differences, adapters trained on it."""
    with open_workspace(service.folder) as workspace:
        return load_context(workspace, load_story(workspace, records.find_seq(workspace.db, identity)))


@router.get("/views", dependencies=[needs("viewer")])
def views(service: Serving) -> list[SavedView]:
    """List the saved views of the table of rows."""
    return list(list_views(service.folder))


@router.post("/views", dependencies=[needs("curator")])
def store_view(request: ViewRequest, service: Serving) -> list[SavedView]:
    """Store a view under a name, in place of one with the same name; returns all views."""
    # A condition that cannot be used is refused now, not when somebody opens the view.
    service.live.table().select(RowQuery(request.where, request.search, request.order, 0), request.columns or None)
    if request.group:
        service.live.table().pivot(request.group, RowQuery(request.where, request.search), most=1)
    values = request.model_dump()
    return list(save_view(service.folder, SavedView(**values, by=ACTOR.get() or "")))


@router.post("/views/delete", dependencies=[needs("curator")])
def remove_view(request: ViewName, service: Serving) -> list[SavedView]:
    """Delete a view; returns the others."""
    return list(delete_view(service.folder, request.name))
