"""Named views of the table of rows, stored in PROJECT/views.json: a condition, a search, an order and columns under a name."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from curation.errors import ProjectError
from curation.snapshot.write import replace_file
from curation.store.database import hold_lock
from curation.workspace import open_workspace

FILE = "views.json"
MOST = 200
LOCK_S = 10.0
"""Seconds to wait for another process that changes the views."""


class SavedView(BaseModel):
    """A view of the table of rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    where: str = Field(default="", max_length=5000)
    search: str = Field(default="", max_length=5000)
    order: str = Field(default="", max_length=300)
    columns: tuple[str, ...] = Field(default=(), max_length=100)
    group: tuple[str, ...] = Field(default=(), max_length=4)
    """Columns by whose values rows are counted."""
    by: str = Field(default="", max_length=200)
    at: str = Field(default="", max_length=40)
    """ISO 8601 in UTC."""


_VIEWS = TypeAdapter(tuple[SavedView, ...])


def list_views(folder: Path) -> tuple[SavedView, ...]:
    """Return the saved views of a project by name.

    Raises:
        ProjectError: views.json cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        return ()
    try:
        return _VIEWS.validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ProjectError(str(file), "cannot be read as saved views", "restore the file, or remove it") from error


def save_view(folder: Path, view: SavedView) -> tuple[SavedView, ...]:
    """Store a view, in place of one with the same name, and return all.

    Args:
        folder: of the project.
        view: the view; `at` is set here.

    Raises:
        ProjectError: there are too many views, or views.json cannot be read.
    """
    stamped = view.model_copy(update={"name": view.name.strip(), "at": datetime.now(UTC).isoformat(timespec="seconds")})
    if not stamped.name:
        raise ProjectError("name", "is empty", "give the view a name")
    with open_workspace(folder) as workspace, hold_lock(workspace.db, "views", wait_s=LOCK_S):
        others = tuple(one for one in list_views(folder) if one.name != stamped.name)
        if len(others) >= MOST:
            raise ProjectError(f"view {stamped.name}", f"is one too many: a project has at most {MOST}", "delete some first")
        return _write(folder, (*others, stamped))


def delete_view(folder: Path, name: str) -> tuple[SavedView, ...]:
    """Delete a view and return the others.

    Raises:
        ProjectError: there is no such view.
    """
    with open_workspace(folder) as workspace, hold_lock(workspace.db, "views", wait_s=LOCK_S):
        views = list_views(folder)
        if all(one.name != name for one in views):
            raise ProjectError(f"view {name[:100]}", "does not exist", "reload the page")
        return _write(folder, tuple(one for one in views if one.name != name))


def _write(folder: Path, views: tuple[SavedView, ...]) -> tuple[SavedView, ...]:
    ordered = tuple(sorted(views, key=lambda one: one.name.casefold()))
    replace_file(folder / FILE, _VIEWS.dump_json(ordered, indent=2) + b"\n")
    return ordered
