"""The state folder of one server: database, secrets, logs, process ids, search index. Everything in it is private to its user."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from argilla_setup.errors import UserError

OWNER = "owner"


@dataclass(frozen=True)
class Secrets:
    """What only the owner of the machine may know; generated once."""

    owner_username: str
    owner_password: str
    owner_api_key: str
    auth_secret: str


@dataclass(frozen=True)
class Home:
    """Paths inside the state folder."""

    folder: Path

    @property
    def secrets_file(self) -> Path:
        return self.folder / "secrets.json"

    @property
    def settings_file(self) -> Path:
        """The port, kept so that bookmarks go on working, and the stores by address."""
        return self.folder / "server.json"

    @property
    def processes_file(self) -> Path:
        """The supervisor and its children, while they run."""
        return self.folder / "run" / "processes.json"

    @property
    def users_folder(self) -> Path:
        return self.folder / "users"

    @property
    def logs_folder(self) -> Path:
        return self.folder / "logs"

    @property
    def database(self) -> Path:
        return self.folder / "argilla.db"

    @property
    def index(self) -> Path:
        return self.folder / "search.db"

    @property
    def socket(self) -> Path:
        """Valkey's socket; outside the folder, because a socket's path may have about 100 characters only."""
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"seedcorn-{os.getuid()}-{name}" / "valkey.sock"


def open_home(folder: Path | None = None) -> Home:
    """The state folder, made if need be: the one given, or the user's data folder."""
    if folder is None:
        from platformdirs import user_data_path

        folder = user_data_path("seedcorn") / "argilla"
    home = Home(folder.expanduser().resolve())
    try:
        for part in (home.folder, home.users_folder, home.logs_folder, home.processes_file.parent, home.folder / "valkey"):
            part.mkdir(parents=True, exist_ok=True)
        home.folder.chmod(0o700)
        identify(home)
    except OSError as error:
        raise UserError(
            f"{home.folder}", f"cannot hold the server's state ({error.strerror})", "name another folder with --home"
        ) from error
    return home


def identify(home: Home) -> str:
    """Return what tells this folder from every other one: 16 hex characters that a rename keeps and a copy changes.

    They are made of a random id kept in the folder, which another folder at the same place does not have, and of the folder's inode, which
    a copy does not have.
    """
    file = home.folder / "run" / "id"
    try:
        kept = file.read_text()
    except FileNotFoundError:
        kept = secrets.token_hex(16)
        write_private(file, kept)
    found = home.folder.stat()
    return hashlib.sha256(f"{kept} {found.st_dev} {found.st_ino}".encode()).hexdigest()[:16]


def ensure_secrets(home: Home) -> Secrets:
    """The secrets of this server; generated when there are none yet."""
    if not home.secrets_file.exists():
        made = Secrets(OWNER, secrets.token_urlsafe(18), secrets.token_urlsafe(32), secrets.token_hex(32))
        write_private(home.secrets_file, json.dumps(asdict(made), indent=2) + "\n")
    return load_secrets(home)


def load_secrets(home: Home) -> Secrets:
    """The secrets of a server that has been up before."""
    try:
        return Secrets(**json.loads(home.secrets_file.read_text()))
    except FileNotFoundError:
        raise UserError(f"{home.folder}", "holds no Argilla server yet", f"argilla-setup up --home {home.folder}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{home.secrets_file}", "is damaged", "restore it from a backup; without it nobody can log in as owner") from error


def write_private(path: Path, text: str) -> None:
    """Write a file that only its user can read, aside and then renamed, so that it is never half there or open to others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    aside.replace(path)
