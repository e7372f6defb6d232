"""The secrets that docker-compose.yml reads from files."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from argilla_setup.errors import UserError
from argilla_setup.server.home import write_private

COMPOSE_SECRETS: dict[str, Callable[[], str]] = {
    "postgres_password": lambda: secrets.token_hex(24),  # goes into a URL, so no characters that mean something there
    "redis_password": lambda: secrets.token_hex(24),
    "argilla_auth_secret": lambda: secrets.token_hex(32),
    "argilla_owner_password": lambda: secrets.token_urlsafe(18),
    "argilla_owner_api_key": lambda: secrets.token_urlsafe(32),
}


def write_compose_secrets(folder: Path) -> list[Path]:
    """One file for each secret, readable by this user only. Those that exist are kept: a database remembers its first password."""
    files = [folder / name for name in COMPOSE_SECRETS]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        for file in files:
            if not file.exists():
                write_private(file, COMPOSE_SECRETS[file.name]())
    except OSError as error:
        raise UserError(f"{folder}", f"cannot be written ({error.strerror})", "argilla-setup secrets --compose ANOTHER_FOLDER") from error
    return files
