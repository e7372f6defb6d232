"""Move a server to the environment of the shipped lock: backup, new environment, migration, and up again if it was up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from argilla_setup.server.control import start_detached, stop_server
from argilla_setup.server.environment import ensure_environment, environment_folder, lock_digest
from argilla_setup.server.home import Home, load_secrets
from argilla_setup.server.migrate import is_prepared, prepare_database
from argilla_setup.server.processes import read_processes
from argilla_setup.server.settings import check_stores, load_choices


@dataclass(frozen=True)
class Upgrade:
    """What was done."""

    changed: bool
    lock: str
    backup: str | None
    restarted: bool


def upgrade_server(home: Home, *, say: Callable[[str], None]) -> Upgrade:
    """Build first, while the old server still runs; then stop, keep a backup, migrate, start."""
    load_secrets(home)
    choices, body = load_choices(home), read_processes(home)
    running_old = body is not None and body.get("lock") != lock_digest()
    if (environment_folder() / ".ready").exists() and is_prepared(home, choices) and not running_old:
        return Upgrade(False, lock_digest(), None, False)
    check_stores(choices)
    python = ensure_environment(say)
    if body is not None:
        say("Stopping the server")
        stop_server(home)
    kept = prepare_database(home, choices, python=python, say=say)
    if body is not None:
        start_detached(home, port=None, say=say)
    return Upgrade(True, lock_digest(), str(kept) if kept else None, body is not None)
