"""What a server is doing and what it holds."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass

from argilla_setup.server.database import count_contents
from argilla_setup.server.home import Home
from argilla_setup.server.processes import find_elsewhere, read_processes
from argilla_setup.server.settings import LOOPBACK, Choices, hide_password, load_choices


@dataclass(frozen=True)
class Status:
    """What a server is doing."""

    url: str
    up: bool
    healthy: bool
    home: str
    pid: int | None
    processes: dict[str, int]
    counts: dict[str, int]
    stores: dict[str, str]
    """The stores by address, passwords hidden; empty when all are the server's own."""
    note: str = ""
    """A folder that was copied or moved while a server ran in it, in a sentence."""


def describe_server(home: Home) -> Status:
    """Whether it is up, where, and how much it holds."""
    body, choices = read_processes(home), load_choices(home)
    port = int(body["port"]) if body else choices.port
    healthy = body is not None and is_healthy(port)
    processes = {"supervisor": body["supervisor"], **body["children"]} if body else {}
    counts = {} if choices.database_url else count_contents(home)
    pid = body["supervisor"] if body else None
    elsewhere = find_elsewhere(home)
    note = elsewhere.sentence(home) if elsewhere is not None else ""
    return Status(server_url(port), body is not None, healthy, str(home.folder), pid, processes, counts, describe_stores(choices), note)


def describe_stores(choices: Choices) -> dict[str, str]:
    """The stores that are not the server's own, as they may be shown."""
    named = {"database": choices.database_url, "redis": choices.redis_url, "elasticsearch": choices.elasticsearch_url}
    return {name: hide_password(url) for name, url in named.items() if url}


def is_healthy(port: int) -> bool:
    """Does the API answer, database and search engine behind it included?"""
    try:
        with urllib.request.urlopen(f"{server_url(port)}/api/v1/status", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def server_url(port: int) -> str:
    """Where the server on this machine is reached."""
    return f"http://{LOOPBACK}:{port}"
