"""Bring a server's database to the schema of the installed argilla-server, keeping a backup first, and move to a new environment."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from argilla_setup.errors import UserError
from argilla_setup.server.backup import write_backup
from argilla_setup.server.environment import lock_digest
from argilla_setup.server.home import Home, ensure_secrets, write_private
from argilla_setup.server.logs import last_line
from argilla_setup.server.settings import Choices
from argilla_setup.server.supervisor import ENGINE, open_log, server_environment

Say = Callable[[str], None]


def prepare_database(home: Home, choices: Choices, *, python: Path, say: Say) -> Path | None:
    """Migrate and see that the owner exists, when that has not been done with this lock and database.

    Returns the backup that was written first, when there was a database to lose.
    """
    if is_prepared(home, choices):
        return None
    secrets, kept = ensure_secrets(home), None
    if home.database.exists() and not choices.database_url:
        kept = home.folder / "backups" / f"before-upgrade-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar.gz"
        write_backup(home, kept)
        say(f"Kept a backup: {kept}")
    say("Preparing the database")
    owner = {"USERNAME": secrets.owner_username, "PASSWORD": secrets.owner_password, "API_KEY": secrets.owner_api_key}
    told = {f"SEEDCORN_OWNER_{name}": value for name, value in owner.items()}
    try:
        run_engine(home, choices, python=python, arguments=["prepare"], extra=told)
    except UserError as error:
        way_back = f"; the state before it: argilla-setup restore {kept} --home {home.folder} --replace" if kept else ""
        raise UserError("the database could not be prepared", error.fact, f"{error.next_step}{way_back}") from error
    write_private(_mark(home), _prepared_for(choices))
    return kept


def is_prepared(home: Home, choices: Choices) -> bool:
    """Has the database been brought to the schema of the current lock?"""
    mark = _mark(home)
    there = bool(choices.database_url) or home.database.exists()
    return there and mark.exists() and mark.read_text() == _prepared_for(choices)


def run_engine(home: Home, choices: Choices, *, python: Path, arguments: list[str], extra: dict[str, str]) -> None:
    """Run a command inside the server's environment; secrets go by environment, never by argument."""
    verb = arguments[0]
    environment = server_environment(home, ensure_secrets(home), choices) | extra
    with open_log(home, verb) as log:
        done = subprocess.run([str(python), str(ENGINE), *arguments], env=environment, stdout=log, stderr=log, umask=0o077, check=False)
    if done.returncode:
        raise UserError(f"{verb} failed", last_line(home, verb), f"argilla-setup logs --home {home.folder} --process {verb}")


def _mark(home: Home) -> Path:
    return home.folder / "run" / "prepared"


def _prepared_for(choices: Choices) -> str:
    where = hashlib.sha256(choices.database_url.encode()).hexdigest()[:16] if choices.database_url else "sqlite"
    return f"{lock_digest()} {where}"
