"""The settings of a server that are kept for its next start: port, addresses, and external stores.

Store addresses may contain passwords. They are kept in a file that only its user can read and are refused as command-line arguments, which
every user of the machine can read in the process list.
"""

from __future__ import annotations

import json
import os
import socket
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from argilla_setup.errors import UserError
from argilla_setup.server.home import Home, count_contents, write_private

DEFAULT_PORT = 6900
LOOPBACK = "127.0.0.1"
LOCAL = "local"
"""The option value that switches from an external store back to the built-in one."""


class Store(NamedTuple):
    """One kind of external store."""

    option: str
    variable: str
    schemes: tuple[str, ...]
    port: int
    """The default port."""


STORES = {
    "database_url": Store("--database-url", "ARGILLA_DATABASE_URL", ("postgresql", "postgresql+asyncpg"), 5432),
    "redis_url": Store("--redis-url", "ARGILLA_REDIS_URL", ("redis", "rediss", "unix"), 6379),
    "elasticsearch_url": Store("--elasticsearch-url", "ARGILLA_ELASTICSEARCH", ("http", "https"), 9200),
}
"""The external stores by the name of their field in `ServerSettings`."""


@dataclass(frozen=True)
class StartOptions:
    """Options of one start; None keeps the saved setting."""

    host: str | None = None
    origins: tuple[str, ...] = ()
    database_url: str | None = None
    redis_url: str | None = None
    elasticsearch_url: str | None = None


@dataclass(frozen=True)
class ServerSettings:
    """Network addresses and stores of a server. An empty URL selects the built-in SQLite, Valkey or search index."""

    port: int = DEFAULT_PORT
    host: str = LOOPBACK
    origins: tuple[str, ...] = ()
    """Addresses under which a proxy serves the page, in addition to those of this machine."""
    database_url: str = ""
    redis_url: str = ""
    elasticsearch_url: str = ""


def load_settings(home: Home) -> ServerSettings:
    """Return the saved settings, or the defaults before the first start."""
    try:
        saved = dict(json.loads(home.settings_file.read_text()))
        known = {field.name: saved[field.name] for field in fields(ServerSettings) if field.name in saved}
        return ServerSettings(**{**known, "origins": tuple(known.get("origins", ()))})
    except FileNotFoundError:
        return ServerSettings()
    except (ValueError, TypeError) as error:
        raise UserError(f"{home.settings_file}", "is damaged", f"remove it and set the port and the stores again: {error}") from error


def save_settings(home: Home, settings: ServerSettings) -> None:
    """Save the settings for the next start."""
    write_private(home.settings_file, json.dumps(asdict(settings), indent=2) + "\n")


def resolve_settings(home: Home, options: StartOptions, *, environment: Mapping[str, str] = os.environ) -> ServerSettings:
    """Return the settings of a start: its options, else the environment, else the saved settings. The port is resolved separately.

    Args:
        home: the state folder with the saved settings.
        options: options of the command line; `@FILE` reads a store's address from a file.
        environment: variables that may name stores, such as ARGILLA_DATABASE_URL.

    Raises:
        UserError: an address is invalid or contains a password on the command line, or another database would hide existing responses.
    """
    saved = load_settings(home)
    stores: dict[str, Any] = {
        name: _resolve_store(store, getattr(options, name), environment, getattr(saved, name)) for name, store in STORES.items()
    }
    resolved = replace(saved, host=options.host or saved.host, origins=options.origins or saved.origins, **stores)
    for origin in resolved.origins:
        # Scheme and host only: a browser sends its origin without a path.
        if not origin.startswith(("http://", "https://")) or origin.count("/") != 2 or "*" in origin:
            raise UserError("--origin", f"is {origin}; expected a form such as https://review.example.org", "argilla-setup up --help")
    # An ARGILLA_DATABASE_URL that happens to be set must not make a server with responses look empty.
    if resolved.database_url != saved.database_url and not saved.database_url and home.database.exists():
        count = count_contents(home).get("responses", 0)
        if count:
            fact = f"its own database holds {count} responses, which a start with another database would hide"
            option = STORES["database_url"].option
            raise UserError(f"{home.folder}", fact, f"keep it with {option} {LOCAL}, or name a new --home for the other database")
    return resolved


def check_stores(settings: ServerSettings) -> None:
    """Connect to each external store once; Argilla itself would retry for a minute before it reports a failure.

    Raises:
        UserError: a store cannot be reached.
    """
    for name, store in STORES.items():
        parts = urllib.parse.urlsplit(getattr(settings, name))
        if not parts.hostname:
            continue
        try:
            socket.create_connection((parts.hostname, parts.port or store.port), timeout=5).close()
        except OSError as error:
            fact = f"names {parts.hostname}:{parts.port or store.port}, which cannot be reached ({error.strerror or error})"
            next_step = f"start it, or return to the built-in one with {store.option} {LOCAL}"
            raise UserError(f"{store.option} (or {store.variable})", fact, next_step) from error


def hide_password(url: str) -> str:
    """Return the URL with its password masked and without its query."""
    parts = urllib.parse.urlsplit(url)
    if parts.password is None:
        return url
    netloc = f"{parts.username or ''}:***@{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    # The query may hold a password as well (`?password=`).
    return parts._replace(netloc=netloc, query="").geturl()


def _resolve_store(store: Store, given: str | None, environment: Mapping[str, str], saved: str) -> str:
    if given is not None and urllib.parse.urlsplit(given).password:
        fact = "contains a password, and every user of this machine can read a command line"
        raise UserError(store.option, fact, f"write the address into a private file and pass {store.option} @FILE, or set {store.variable}")
    if given is not None and given.startswith("@"):
        path = Path(given[1:])
        try:
            given = path.expanduser().read_text().strip()
        except OSError as error:
            fact = f"cannot be read ({error.strerror})"
            raise UserError(f"{store.option} @{path}", fact, "name a file that contains the address") from error
    url = given or environment.get(store.variable) or saved
    if url == LOCAL:
        return ""
    if url and urllib.parse.urlsplit(url).scheme not in store.schemes:
        fact = f"must begin with {store.schemes[0]}://"
        raise UserError(f"{store.option} (or {store.variable})", fact, f"give an address of that form, or {LOCAL}")
    return url
