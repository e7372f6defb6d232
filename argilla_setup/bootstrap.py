"""Bring an Argilla server to the state that review needs: a workspace, people in it, a dataset with our form. All of it idempotent."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from argilla_setup.errors import UserError
from argilla_setup.users import TIMEOUT, ArgillaRefused, ArgillaUnreachable, open_api

if TYPE_CHECKING:
    import argilla as rg

__all__ = [
    "ArgillaRefused",
    "ArgillaUnreachable",
    "FormMismatch",
    "connect",
    "ensure_dataset",
    "ensure_workspace",
    "shows_text_literally",
]


class FormMismatch(UserError):
    """A dataset of that name holds another form, whose fields and questions Argilla does not let us change."""


def connect(url: str, api_key: str, *, timeout: int = 60) -> rg.Argilla:
    """A client that has been seen to work; it also becomes the SDK's default client.

    Raises:
        ArgillaUnreachable: nothing answers there.
        ArgillaRefused: the key is not known.
    """
    if not url.startswith(("http://", "https://")):
        raise ArgillaUnreachable(f"Argilla's address {url!r}", "must begin with http:// or https://", "give the whole address")
    if not api_key:
        raise ArgillaRefused("Argilla's key", "is empty", "argilla-setup secrets")
    with open_api(url, api_key) as api:
        api.get("me")
    import argilla as rg

    return rg.Argilla(api_url=url.rstrip("/"), api_key=api_key, timeout=timeout)


def shows_text_literally(url: str) -> bool:
    """Return whether the page of the Argilla at this address is ours, which shows text literally, or inserts fields as HTML."""
    import httpx

    from argilla_setup.engine.page import LITERAL, TEXT_HEADER

    try:
        reply = httpx.get(f"{url.rstrip('/')}/api/v1/version", timeout=TIMEOUT)
    except httpx.TransportError as error:
        raise ArgillaUnreachable(f"Argilla at {url}", f"cannot be reached ({error})", "argilla-setup status") from error
    return bool(reply.headers.get(TEXT_HEADER) == LITERAL)


def ensure_workspace(client: rg.Argilla, name: str) -> rg.Workspace:
    """The workspace, made if need be."""
    import argilla as rg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK warns when there is none, which is why we ask
        found = client.workspaces(name)
    return found if found is not None else rg.Workspace(name=name, client=client).create()


def ensure_dataset(client: rg.Argilla, name: str, *, workspace: str, settings: rg.Settings) -> rg.Dataset:
    """Return the published dataset with this form; metadata and vectors that an existing one lacks are added.

    The guidelines, the overlap and what annotators see of the metadata follow the settings. When the overlap changes, Argilla's worker
    computes the status of every answered record again.
    """
    import argilla as rg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = client.datasets(name, workspace=workspace)
    if found is not None and found.api_model().status == "draft":
        found.delete()  # a process died while making it; it was never open to anyone and holds no record
        found = None
    if found is None:
        return rg.Dataset(name=name, workspace=workspace, settings=settings, client=client).create()
    found.settings.get()
    _check_form(found, settings)
    missing = _missing_properties(found.settings, settings)
    for item in missing:
        found.settings.add(item)
    opened = _follow_visibility(found.settings, settings)
    overlap = settings.distribution.min_submitted
    changes = found.settings.guidelines != settings.guidelines or found.settings.distribution.min_submitted != overlap
    if missing or opened or changes:
        found.settings.guidelines = settings.guidelines
        found.settings.distribution = rg.TaskDistribution(min_submitted=overlap)
        found.settings.update()
        found.settings.get()
    return found


def _check_form(found: rg.Dataset, settings: rg.Settings) -> None:
    for part in ("fields", "questions"):
        held = {item.name: type(item).__name__ for item in getattr(found.settings, part)}
        wanted = {item.name: type(item).__name__ for item in getattr(settings, part)}
        if held != wanted:
            fact = f"holds the {part} {', '.join(held)}; this form has {', '.join(wanted)}"
            raise FormMismatch(f"dataset {found.name}", fact, "choose another dataset name, or delete that dataset in Argilla")
    sizes = {vector.name: vector.dimensions for vector in found.settings.vectors}
    for vector in settings.vectors:
        if sizes.get(vector.name, vector.dimensions) != vector.dimensions:
            fact = f"holds {vector.name} vectors of {sizes[vector.name]} numbers; these have {vector.dimensions}"
            raise FormMismatch(f"dataset {found.name}", fact, "use the embedding model it was made with, or another dataset name")


def _follow_visibility(held: rg.Settings, wanted: rg.Settings) -> bool:
    """Show and hide metadata as the form does; what the form does not know stays as it is. True when anything changed."""
    shown = {item.name: item.visible_for_annotators for item in wanted.metadata}
    changed = [item for item in held.metadata if item.visible_for_annotators != shown.get(item.name, item.visible_for_annotators)]
    for item in changed:
        item.visible_for_annotators = shown[item.name]
    return bool(changed)


def _missing_properties(held: rg.Settings, wanted: rg.Settings) -> list[Any]:
    names = {item.name for item in (*held.metadata, *held.vectors)}
    return [item for item in (*wanted.metadata, *wanted.vectors) if item.name not in names]
