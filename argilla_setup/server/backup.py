"""Everything of a server that cannot be made again, in one file: the database, the secrets, people's credentials.

The database is copied with SQLite's online backup, so it is one moment's state even while people answer. The index is left out: the next
start builds it from the database. Jobs waiting in Valkey are left out too; they only recompute what the database already says.
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
from typing import IO, Any

from argilla_setup.errors import UserError
from argilla_setup.server.database import count_contents
from argilla_setup.server.environment import lock_digest
from argilla_setup.server.home import Home, load_secrets, write_private
from argilla_setup.server.processes import find_processes, read_processes
from argilla_setup.server.settings import load_choices

FORMAT = "seedcorn-argilla-backup"
VERSION = 1
MANIFEST = "manifest.json"
TABLES = {"users", "datasets", "records", "responses"}
"""What every database of Argilla has."""
LARGEST_MANIFEST = 16 * 2**20
MOST_EXPANSION, FREE_BYTES, MOST_PARTS = 200, 256 * 2**20, 100_000
"""What an archive may expand to: times its size, and bytes in any case; and files in it."""


@dataclass(frozen=True)
class Backup:
    """What a backup file holds."""

    file: str
    created: str
    lock: str
    counts: dict[str, int]


def write_backup(home: Home, file: Path) -> Backup:
    """Write the file aside, private to its user, and rename it; the server may be up."""
    load_secrets(home)
    if load_choices(home).database_url:
        raise UserError(f"{home.folder}", "keeps its answers in Postgres", "back that up with pg_dump, and keep secrets.json and users/")
    if not home.database.exists():
        raise UserError(f"{home.folder}", "holds no database yet", f"argilla-setup up --home {home.folder}")
    with tempfile.TemporaryDirectory(prefix="backup-", dir=home.folder) as folder:
        copy = Path(folder) / home.database.name
        _copy_database(home.database, copy)
        counts = count_contents(Home(Path(folder)))
        parts = {home.database.name: copy, home.secrets_file.name: home.secrets_file}
        parts |= {f"users/{path.name}": path for path in sorted(home.users_folder.glob("*.json"))}
        made = Backup(str(file), datetime.now(UTC).isoformat(timespec="seconds"), lock_digest(), counts)
        _write_archive(file, parts, made)
    return made


def restore_backup(home: Home, file: Path, *, replace: bool = False) -> Backup:
    """Put a backup's contents into a state folder that is not in use.

    Args:
        replace: set what the folder holds aside, under `before-restore-…`, instead of refusing.
    """
    if read_processes(home) is not None or find_processes(home):
        raise UserError(f"{home.folder}", "its server is running", f"argilla-setup down --home {home.folder}")
    held = [path for path in (home.database, home.secrets_file) if path.exists()]
    if held and not replace:
        fact = f"holds a server already ({count_contents(home).get('responses', 0)} responses)"
        raise UserError(f"{home.folder}", fact, "name an empty --home, or set the old state aside with --replace")
    with tempfile.TemporaryDirectory(prefix="restore-", dir=home.folder) as folder:
        made = _read_archive(file, Path(folder))
        if held:
            _set_aside(home)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                target = home.folder / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    # Both are made again at the next start, from what was just put here.
    for stale in (home.folder / "run" / "prepared", *home.folder.glob(f"{home.index.name}*")):
        stale.unlink(missing_ok=True)
    return made


def _copy_database(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=60)) as live:
        with contextlib.closing(sqlite3.connect(target)) as copy:
            live.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    target.chmod(0o600)
    _check_database(target)


def _check_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        try:
            found = db.execute("PRAGMA quick_check").fetchone()[0]
        except sqlite3.DatabaseError as error:
            found = str(error)
    if found != "ok":
        raise UserError(f"{path.name}", f"is damaged ({found})", "take another backup, or an earlier one")


def _write_archive(file: Path, parts: dict[str, Path], made: Backup) -> None:
    digests = {name: _digest(path) for name, path in parts.items()}
    manifest = {"format": FORMAT, "version": VERSION, **asdict(made), "sha256": digests}
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz", compresslevel=3) as archive:
            body = json.dumps(manifest, indent=2).encode()
            info = tarfile.TarInfo(MANIFEST)
            info.size, info.mode = len(body), 0o600
            archive.addfile(info, io.BytesIO(body))
            for name, path in parts.items():
                archive.add(path, arcname=name, recursive=False)
        aside.replace(file)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(f"{file}", f"cannot be written ({error.strerror})", "argilla-setup backup ANOTHER_FILE") from error


def _read_archive(file: Path, folder: Path) -> Backup:
    try:
        with tarfile.open(file) as archive:
            _check_size(file, archive)
            manifest = _read_manifest(file, archive)
            for name, digest in manifest["sha256"].items():
                body = archive.extractfile(name)
                if body is None or _write_part(folder / name, body) != digest:
                    raise UserError(f"{file}", f"its part {name} is damaged", "use another backup")
    except FileNotFoundError:
        raise UserError(f"{file}", "does not exist", "argilla-setup backup FILE makes one") from None
    # ValueError: what is no JSON, no UTF-8, or no number where tar or the manifest has one; zlib.error: a damaged archive.
    except (tarfile.TarError, KeyError, EOFError, OSError, ValueError, zlib.error) as error:
        raise UserError(f"{file}", f"is no whole backup of ours ({str(error)[:200]})", "use another backup") from error
    _check_database(folder / "argilla.db")
    _check_tables(file, folder / "argilla.db")
    try:
        load_secrets(Home(folder))
    except UserError as error:
        raise UserError(f"{file}", "its secrets.json is damaged", "use another backup") from error
    return Backup(str(file), manifest["created"], manifest["lock"], manifest["counts"])


def _check_size(file: Path, archive: tarfile.TarFile) -> None:
    """Refuse an archive that expands to far more than a database does, or to more than the disk has room for."""
    most = min(max(MOST_EXPANSION * file.stat().st_size, FREE_BYTES), shutil.disk_usage(file.parent).free)
    total = 0
    for count, member in enumerate(archive, 1):  # the headers are read one by one, so a bomb ends here
        total += member.size
        if total > most or count > MOST_PARTS:
            raise UserError(f"{file}", f"expands to more than {min(total, most):,} bytes or {MOST_PARTS:,} parts", "use another backup")


def _read_manifest(file: Path, archive: tarfile.TarFile) -> dict[str, Any]:
    body = archive.extractfile(MANIFEST)
    manifest = json.loads(body.read(LARGEST_MANIFEST)) if body is not None else {}
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{file}", "is no backup of ours", "argilla-setup backup FILE makes one")
    parts, counts = manifest.get("sha256"), manifest.get("counts")
    if isinstance(manifest.get("version"), int) and manifest["version"] > VERSION:
        raise UserError(f"{file}", "was made by a newer release", "upgrade Seedcorn first")
    if not (
        manifest.get("version") == VERSION
        and all(isinstance(manifest.get(name), str) for name in ("created", "lock"))
        and isinstance(parts, dict)
        and all(isinstance(digest, str) for digest in parts.values())
        and isinstance(counts, dict)
        and all(isinstance(count, int) for count in counts.values())
    ):
        raise UserError(f"{file}", f"its {MANIFEST} is damaged", "use another backup")
    for name in parts:
        _check_name(file, name)
    if missing := [name for name in ("argilla.db", "secrets.json") if name not in parts]:
        raise UserError(f"{file}", f"has no {' and no '.join(missing)}", "use another backup")
    return manifest


def _check_tables(file: Path, database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as db:
        try:
            there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        except sqlite3.DatabaseError as error:
            raise UserError(f"{file}", f"its argilla.db is damaged ({error})", "use another backup") from error
    if missing := sorted(TABLES - there):
        raise UserError(f"{file}", f"its argilla.db is no database of Argilla (it has no table {missing[0]})", "use another backup")


def _check_name(file: Path, name: str) -> None:
    path = PurePosixPath(name)
    if name not in ("argilla.db", "secrets.json") and (len(path.parts) != 2 or path.parts[0] != "users" or path.suffix != ".json"):
        raise UserError(f"{file}", f"names a part {name} that no backup of ours has", "use another backup")


def _write_part(path: Path, body: IO[bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    with path.open("wb") as file:
        shutil.copyfileobj(body, file)
    return _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _set_aside(home: Home) -> None:
    aside = home.folder / f"before-restore-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    aside.mkdir(mode=0o700)
    for path in (*home.folder.glob(f"{home.database.name}*"), home.secrets_file, home.users_folder):
        if path.exists():
            path.rename(aside / path.name)
    home.users_folder.mkdir(exist_ok=True)
    write_private(aside / "README", "What this folder's server held before a backup was restored into it.\n")
