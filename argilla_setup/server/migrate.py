"""Migration of a server's database to the schema of the installed argilla-server, after a backup."""

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
from argilla_setup.server.settings import ServerSettings
from argilla_setup.server.supervisor import ENGINE, open_log, server_environment


def prepare_database(home: Home, settings: ServerSettings, *, python: Path, notify: Callable[[str], None]) -> Path | None:
    """Migrate the database and create the owner, unless that was done with this lock file and database.

    Args:
        home: the state folder.
        settings: names an external database, which is migrated without a backup.
        python: interpreter of the server's environment.
        notify: receives progress messages.

    Returns:
        The backup that was written first, or None if there was nothing to back up.

    Raises:
        UserError: the migration failed; the message names the backup.
    """
    if is_prepared(home, settings):
        return None
    secrets, kept = ensure_secrets(home), None
    if home.database.exists() and not settings.database_url:
        kept = home.folder / "backups" / f"before-upgrade-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar.gz"
        write_backup(home, kept)
        notify(f"Kept a backup: {kept}")
    notify("Preparing the database")
    variables = {
        "SEEDCORN_OWNER_USERNAME": secrets.owner_username,
        "SEEDCORN_OWNER_PASSWORD": secrets.owner_password,
        "SEEDCORN_OWNER_API_KEY": secrets.owner_api_key,
    }
    try:
        run_engine(home, settings, python=python, arguments=["prepare"], variables=variables)
    except UserError as error:
        way_back = f"; to return to the previous state: argilla-setup restore {kept} --home {home.folder} --replace" if kept else ""
        raise UserError("the database could not be prepared", error.fact, f"{error.next_step}{way_back}") from error
    # Last, so that a migration that was interrupted is repeated.
    write_private(_marker(home), _marker_text(settings))
    return kept


def is_prepared(home: Home, settings: ServerSettings) -> bool:
    """Return whether the database has the schema of the current lock file."""
    marker = _marker(home)
    exists = bool(settings.database_url) or home.database.exists()
    return exists and marker.exists() and marker.read_text() == _marker_text(settings)


def run_engine(home: Home, settings: ServerSettings, *, python: Path, arguments: list[str], variables: dict[str, str]) -> None:
    """Run a command of `argilla_setup/engine` inside the server's environment and wait for it.

    Args:
        home: the state folder; the command's output goes to its logs.
        settings: external stores.
        python: interpreter of the server's environment.
        arguments: the command and its arguments, without secrets.
        variables: additional environment variables, secrets among them.

    Raises:
        UserError: the command failed.
    """
    verb = arguments[0]
    environment = server_environment(home, ensure_secrets(home), settings) | variables
    with open_log(home, verb) as log:
        done = subprocess.run([str(python), str(ENGINE), *arguments], env=environment, stdout=log, stderr=log, umask=0o077, check=False)
    if done.returncode:
        raise UserError(f"{verb} failed", last_line(home, verb), f"argilla-setup logs --home {home.folder} --process {verb}")


def _marker(home: Home) -> Path:
    return home.folder / "run" / "prepared"


def _marker_text(settings: ServerSettings) -> str:
    # A digest, because the URL may contain a password.
    database = hashlib.sha256(settings.database_url.encode()).hexdigest()[:16] if settings.database_url else "sqlite"
    return f"{lock_digest()} {database}"
