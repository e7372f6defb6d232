"""Backup and restore of a server: the database, the secrets and the users' credentials in one private file.

The database is copied with SQLite's online backup API, which yields a consistent state while people answer. The search index is left out,
because the next start rebuilds it from the database. Jobs queued in Valkey are left out, because they only recompute what the database
contains.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import zlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from argilla_setup.errors import UserError
from argilla_setup.server.environment import lock_digest
from argilla_setup.server.home import Home, count_contents, load_secrets, write_private
from argilla_setup.server.processes import find_processes, read_processes
from argilla_setup.server.settings import load_settings

FORMAT = "seedcorn-argilla-backup"
VERSION = 1
MANIFEST = "manifest.json"
REQUIRED_FILES = ("argilla.db", "secrets.json")
REQUIRED_TABLES = {"users", "datasets", "records", "responses"}
"""Tables of every Argilla database."""
MAX_MANIFEST = 16 * 2**20
MAX_EXPANSION, MIN_EXPANDED, MAX_FILES = 200, 256 * 2**20, 100_000
"""Limits of an archive: bytes as a multiple of its size, bytes that are always allowed, and files."""


@dataclass(frozen=True)
class Backup:
    """A backup file and its contents."""

    file: str
    created: str
    lock: str
    counts: dict[str, int]


class Manifest(BaseModel):
    """The first file of the archive."""

    model_config = ConfigDict(strict=True, frozen=True)

    format: Literal["seedcorn-argilla-backup"]
    version: Literal[1]
    created: str
    lock: str
    counts: dict[str, int]
    """Rows by table."""
    sha256: dict[str, str]
    """Digest by file name."""


def write_backup(home: Home, file: Path) -> Backup:
    """Write a backup, readable by this user only; the server may run.

    Raises:
        UserError: the folder has no database, its responses are in Postgres, or the file cannot be written.
    """
    load_secrets(home)
    if load_settings(home).database_url:
        raise UserError(f"{home.folder}", "stores its responses in Postgres", "run pg_dump, and keep secrets.json and users/")
    if not home.database.exists():
        raise UserError(f"{home.folder}", "holds no database yet", f"argilla-setup up --home {home.folder}")
    with tempfile.TemporaryDirectory(prefix="backup-", dir=home.folder) as folder:
        copy = Path(folder) / home.database.name
        with contextlib.closing(sqlite3.connect(f"{home.database.as_uri()}?mode=ro", uri=True, timeout=60)) as live:
            with contextlib.closing(sqlite3.connect(copy)) as target:
                live.backup(target)
                target.execute("PRAGMA journal_mode = DELETE")  # one file instead of a file and its write-ahead log
        copy.chmod(0o600)
        _check_integrity(copy)
        files = {home.database.name: copy, home.secrets_file.name: home.secrets_file}
        files |= {f"users/{path.name}": path for path in sorted(home.users_folder.glob("*.json"))}
        made = Backup(str(file), datetime.now(UTC).isoformat(timespec="seconds"), lock_digest(), count_contents(Home(Path(folder))))
        _write_archive(made, files)
    return made


def restore_backup(home: Home, file: Path, *, replace: bool = False) -> Backup:
    """Restore a backup into a state folder whose server does not run.

    Args:
        home: the state folder.
        file: the backup.
        replace: move existing contents to `before-restore-…` instead of refusing.

    Raises:
        UserError: the server runs, the folder is in use, or the file is not a complete backup. Nothing was changed.
    """
    if read_processes(home) is not None or find_processes(home):
        raise UserError(f"{home.folder}", "its server is running", f"argilla-setup down --home {home.folder}")
    in_use = any(path.exists() for path in (home.database, home.secrets_file))
    if in_use and not replace:
        fact = f"holds a server already ({count_contents(home).get('responses', 0)} responses)"
        raise UserError(f"{home.folder}", fact, "name an empty --home, or move the old state aside with --replace")
    # In the state folder, so that restored files are moved by renaming.
    with tempfile.TemporaryDirectory(prefix="restore-", dir=home.folder) as folder:
        made = _read_archive(file, Path(folder))
        if in_use:
            aside = home.folder / f"before-restore-{datetime.now(UTC):%Y%m%d-%H%M%S}"
            aside.mkdir(mode=0o700)
            for path in (*home.folder.glob(f"{home.database.name}*"), home.secrets_file, home.users_folder):
                if path.exists():
                    path.rename(aside / path.name)
            home.users_folder.mkdir(exist_ok=True)
            write_private(aside / "README", "The contents of this folder's server before a backup was restored into it.\n")
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                target = home.folder / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    # The next start recreates both from the restored database.
    for stale in (home.folder / "run" / "prepared", *home.folder.glob(f"{home.index.name}*")):
        stale.unlink(missing_ok=True)
    return made


def _write_archive(made: Backup, files: dict[str, Path]) -> None:
    """Write the archive under a temporary name and rename it."""
    file = Path(made.file)
    manifest = {"format": FORMAT, "version": VERSION, **asdict(made), "sha256": {name: _digest(path) for name, path in files.items()}}
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz", compresslevel=3) as archive:
            body = json.dumps(manifest, indent=2).encode()
            info = tarfile.TarInfo(MANIFEST)
            info.size, info.mode = len(body), 0o600
            archive.addfile(info, io.BytesIO(body))
            for name, path in files.items():
                archive.add(path, arcname=name, recursive=False)
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{file}", f"cannot be written ({error.strerror})", "argilla-setup backup ANOTHER_FILE") from error


def _read_archive(file: Path, folder: Path) -> Backup:
    """Unpack an archive into an empty folder and check everything in it."""
    try:
        with tarfile.open(file) as archive:
            # Far more than a database compresses to, or more than the free disk space. Headers are read one at a time, so that a
            # decompression bomb is stopped at the limit.
            limit, total = min(max(MAX_EXPANSION * file.stat().st_size, MIN_EXPANDED), shutil.disk_usage(file.parent).free), 0
            for count, member in enumerate(archive, 1):
                total += member.size
                if total > limit or count > MAX_FILES:
                    fact = f"expands to more than {min(total, limit):,} bytes or {MAX_FILES:,} files"
                    raise UserError(f"{file}", fact, "use another backup")
            manifest = _read_manifest(file, archive)
            for name, digest in manifest.sha256.items():
                body, path = archive.extractfile(name), folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                # Private from the moment it exists.
                path.touch(0o600)
                if body is not None:
                    with path.open("wb") as target:
                        shutil.copyfileobj(body, target)
                if body is None or _digest(path) != digest:
                    raise UserError(f"{file}", f"its {name} is damaged", "use another backup")
    except FileNotFoundError:
        raise UserError(f"{file}", "does not exist", "argilla-setup backup FILE creates one") from None
    # ValueError: not JSON, not UTF-8, or a number that tar cannot read; zlib.error: damaged compression.
    except (tarfile.TarError, KeyError, EOFError, OSError, ValueError, zlib.error) as error:
        raise UserError(f"{file}", f"is not a complete Seedcorn backup ({str(error)[:200]})", "use another backup") from error
    _check_integrity(folder / "argilla.db")
    with contextlib.closing(sqlite3.connect(folder / "argilla.db")) as db:
        try:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        except sqlite3.DatabaseError as error:
            raise UserError(f"{file}", f"its argilla.db is damaged ({error})", "use another backup") from error
    if missing := sorted(REQUIRED_TABLES - tables):
        raise UserError(f"{file}", f"its argilla.db is not an Argilla database (it has no table {missing[0]})", "use another backup")
    try:
        load_secrets(Home(folder))
    except UserError as error:
        raise UserError(f"{file}", "its secrets.json is damaged", "use another backup") from error
    return Backup(str(file), manifest.created, manifest.lock, manifest.counts)


def _read_manifest(file: Path, archive: tarfile.TarFile) -> Manifest:
    body = archive.extractfile(MANIFEST)
    content = json.loads(body.read(MAX_MANIFEST)) if body is not None else {}
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{file}", "is not a Seedcorn backup", "argilla-setup backup FILE creates one")
    if isinstance(content.get("version"), int) and content["version"] > VERSION:
        raise UserError(f"{file}", "was made by a newer release", "upgrade Seedcorn first")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{file}", f"its {MANIFEST} is damaged", "use another backup") from error
    # Names are checked before anything is written: `../` or an absolute path would leave the folder.
    for name in manifest.sha256:
        path = PurePosixPath(name)
        if name not in REQUIRED_FILES and (len(path.parts) != 2 or path.parts[0] != "users" or path.suffix != ".json"):
            raise UserError(f"{file}", f"lists an unexpected file {name}", "use another backup")
    if missing := [name for name in REQUIRED_FILES if name not in manifest.sha256]:
        raise UserError(f"{file}", f"has no {' and no '.join(missing)}", "use another backup")
    return manifest


def _check_integrity(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        try:
            found = db.execute("PRAGMA quick_check").fetchone()[0]
        except sqlite3.DatabaseError as error:
            found = str(error)
    if found != "ok":
        raise UserError(f"{path.name}", f"is damaged ({found})", "use another backup, or an earlier one")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
