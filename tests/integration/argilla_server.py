"""One Argilla server for a whole test session, on a free port, its state in a temporary folder, stopped whatever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from argilla_setup.server.control import start_detached, stop_server
from argilla_setup.server.home import Home, load_secrets, open_home
from argilla_setup.users import Account, ensure_account

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class RunningArgilla:
    """Where the server is, and its owner's key."""

    home: Home
    url: str
    api_key: str

    def account(self, name: str, *, workspace: str, role: str = "annotator") -> Account:
        """A person in a workspace, with password and key."""
        return ensure_account(self.url, self.api_key, name=name, workspace=workspace, role=role, folder=self.home.users_folder)


@pytest.fixture(scope="session")
def argilla_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningArgilla]:
    """A running server. Its environment is built once into build/cache (or $SEEDCORN_CACHE_DIR) and reused by later sessions."""
    os.environ.setdefault("SEEDCORN_CACHE_DIR", str(REPOSITORY / "build" / "cache"))
    home = open_home(tmp_path_factory.mktemp("argilla"))
    try:
        status = start_detached(home, port=0, say=print)
        yield RunningArgilla(home, status.url, load_secrets(home).owner_api_key)
    finally:
        stop_server(home)
