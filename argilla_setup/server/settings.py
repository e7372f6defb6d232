"""What was chosen for a server and is kept for its next start: port, addresses, and the stores it uses instead of its own.

Addresses of stores may hold passwords: they are kept in a file that only its user can read, and are never taken from the command line,
which every user of the machine can read in the process list.
"""

from __future__ import annotations

import json
import os
import socket
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from argilla_setup.errors import UserError
from argilla_setup.server.home import Home, write_private

DEFAULT_PORT = 6900
LOOPBACK = "127.0.0.1"
LOCAL = "local"
"""The word that goes back from a store by address to the server's own."""
STORES = {
    "database_url": ("--database-url", "ARGILLA_DATABASE_URL", ("postgresql", "postgresql+asyncpg"), 5432),
    "redis_url": ("--redis-url", "ARGILLA_REDIS_URL", ("redis", "rediss", "unix"), 6379),
    "elasticsearch_url": ("--elasticsearch-url", "ARGILLA_ELASTICSEARCH", ("http", "https"), 9200),
}
"""For each store: the option, the environment variable, what its address may begin with, the usual port."""


@dataclass(frozen=True)
class Asked:
    """What a person asked for at a start; None means as before."""

    host: str | None = None
    origins: tuple[str, ...] = ()
    database_url: str | None = None
    redis_url: str | None = None
    elasticsearch_url: str | None = None


@dataclass(frozen=True)
class Choices:
    """Where a server listens and what it stores in. An empty address stands for the server's own SQLite, Valkey or index."""

    port: int = DEFAULT_PORT
    host: str = LOOPBACK
    origins: tuple[str, ...] = ()
    """Addresses people type when a proxy stands in front, besides this machine's own."""
    database_url: str = ""
    redis_url: str = ""
    elasticsearch_url: str = ""


def load_choices(home: Home) -> Choices:
    """What was chosen at an earlier start."""
    try:
        held = dict(json.loads(home.settings_file.read_text()))
        known = {field.name: held[field.name] for field in fields(Choices) if field.name in held}
        return Choices(**{**known, "origins": tuple(known.get("origins", ()))})
    except FileNotFoundError:
        return Choices()
    except (ValueError, TypeError) as error:
        raise UserError(f"{home.settings_file}", "is damaged", f"remove it and name the port and the stores again: {error}") from error


def save_choices(home: Home, choices: Choices) -> None:
    """Keep them for the next start."""
    write_private(home.settings_file, json.dumps(asdict(choices), indent=2) + "\n")


def choose(home: Home, asked: Asked, *, environment: Mapping[str, str] = os.environ) -> Choices:
    """What is asked for, else what the environment names, else what was chosen before. The port is chosen apart."""
    before = load_choices(home)
    stores: dict[str, Any] = {name: _store(name, getattr(asked, name), environment, getattr(before, name)) for name in STORES}
    chosen = replace(before, host=asked.host or before.host, origins=asked.origins or before.origins)
    chosen = replace(chosen, **stores)
    for origin in chosen.origins:
        if not origin.startswith(("http://", "https://")) or origin.count("/") != 2 or "*" in origin:
            raise UserError("--origin", f"is {origin}; it must be like https://review.example.org", "argilla-setup up --help")
    _refuse_to_leave_answers(home, before, chosen)
    return chosen


def check_stores(choices: Choices) -> None:
    """See that each named store answers; Argilla itself would try for a minute before it said so."""
    for name, (option, _, _, usual_port) in STORES.items():
        parts = urllib.parse.urlsplit(getattr(choices, name))
        if not parts.hostname:
            continue
        try:
            socket.create_connection((parts.hostname, parts.port or usual_port), timeout=5).close()
        except OSError as error:
            fact = f"names {parts.hostname}:{parts.port or usual_port}, which cannot be reached ({error.strerror or error})"
            raise UserError(
                f"{option} (or {STORES[name][1]})", fact, f"start it, or go back to the built-in one with {option} {LOCAL}"
            ) from error


def hide_password(url: str) -> str:
    """An address as it may be shown."""
    parts = urllib.parse.urlsplit(url)
    if parts.password is None:
        return url
    place = f"{parts.username or ''}:***@{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    return parts._replace(netloc=place, query="").geturl()


def _store(name: str, asked: str | None, environment: Mapping[str, str], before: str) -> str:
    option, variable, schemes, _ = STORES[name]
    if asked is not None and urllib.parse.urlsplit(asked).password:
        fact = "holds a password, and every user of this machine can read a command line"
        raise UserError(option, fact, f"write the address into a file of yours and give {option} @FILE, or set {variable}")
    if asked is not None and asked.startswith("@"):
        asked = _read_address(option, Path(asked[1:]))
    url = asked or environment.get(variable) or before
    if url == LOCAL:
        return ""
    if url and urllib.parse.urlsplit(url).scheme not in schemes:
        raise UserError(f"{option} (or {variable})", f"must begin with {schemes[0]}://", f"give such an address, or {LOCAL}")
    return url


def _read_address(option: str, path: Path) -> str:
    try:
        return path.expanduser().read_text().strip()
    except OSError as error:
        raise UserError(f"{option} @{path}", f"cannot be read ({error.strerror})", "name a file that holds the address") from error


def _refuse_to_leave_answers(home: Home, before: Choices, chosen: Choices) -> None:
    # An ARGILLA_DATABASE_URL that happens to be set must not make a server with people's answers seem empty.
    if chosen.database_url == before.database_url or not home.database.exists() or before.database_url:
        return
    from argilla_setup.server.database import count_contents

    held = count_contents(home).get("responses", 0)
    if held:
        fact = f"its own database holds {held} responses, which a start on another database would leave behind"
        option = STORES["database_url"][0]
        raise UserError(f"{home.folder}", fact, f"stay with {option} {LOCAL}, or name a new --home for the other database")
