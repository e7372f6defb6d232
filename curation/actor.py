"""Who makes a change: the name that is stored with keep, drop and undo."""

from __future__ import annotations

import getpass
import os
from contextvars import ContextVar

ACTOR: ContextVar[str | None] = ContextVar("actor", default=None)
"""Set by the service for each request, such as "ana (page)"; None for a command."""


def actor_name() -> str:
    """Return the name of whoever makes the change: the service's user, or the user of this process."""
    if (named := ACTOR.get()) is not None:
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"
