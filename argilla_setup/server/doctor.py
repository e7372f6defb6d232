"""Diagnosis of a server: one finding per check, each with the command that fixes it.

With `fix`, only repairs that cannot lose data are made: stopping leftover processes, closing file permissions, and rebuilding the index.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import psutil

from argilla_setup.engine.consistency import find_gaps
from argilla_setup.errors import UserError
from argilla_setup.server.control import is_free, is_healthy, is_listening, stop_server
from argilla_setup.server.environment import environment_folder, find_older_environments, lock_digest
from argilla_setup.server.home import Home, load_secrets
from argilla_setup.server.logs import last_line
from argilla_setup.server.migrate import is_prepared
from argilla_setup.server.processes import ProcessState, find_processes, read_processes
from argilla_setup.server.settings import ServerSettings, check_stores, load_settings

LOW_MB = 500
"""Free disk space below which a day's answers may not fit."""
CRASH_LOOP = 3
"""Crashes, each within a minute of the start, that make a crash loop."""
REBUILD_SECONDS = 600
Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    about: str
    level: Level
    text: str
    next_step: str = ""
    fixed: bool = False


def examine(home: Home, *, fix: bool = False) -> list[Finding]:
    """Run every check and return the findings, most fundamental first.

    Args:
        home: the state folder.
        fix: make the repairs that cannot lose data.
    """
    settings = load_settings(home)
    checks = (
        _check_secrets,
        _check_files,
        _check_environment,
        _check_stores,
        _check_processes,
        _check_port,
        _check_database,
        _check_index,
        _check_disk,
    )
    return [finding for check in checks for finding in check(home, settings, fix)]


def _check_secrets(home: Home, _: ServerSettings, __: bool) -> Iterator[Finding]:
    try:
        load_secrets(home)
        yield Finding("secrets", "ok", f"{home.secrets_file} is complete")
    except UserError as error:
        yield Finding("secrets", "wrong", f"{error.what} {error.fact}", error.next_step)


def _check_files(home: Home, _: ServerSettings, fix: bool) -> Iterator[Finding]:
    private = [home.secrets_file, home.settings_file, home.processes_file, *home.folder.glob("*.db*"), *home.users_folder.glob("*.json")]
    private += [*(home.folder / "backups").glob("*"), *home.logs_folder.glob("*.log*"), home.folder]
    readable = [path for path in private if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    if not readable:
        yield Finding("files", "ok", "no other user of this machine can read them")
    for path in readable:
        mode = 0o700 if path.is_dir() else 0o600
        if fix:
            path.chmod(mode)
        yield Finding("files", "wrong", f"other users of this machine can read {path}", f"chmod {mode:o} {path}", fixed=fix)


def _check_environment(home: Home, settings: ServerSettings, _: bool) -> Iterator[Finding]:
    upgrade = f"argilla-setup upgrade --home {home.folder}"
    body = read_processes(home)
    if not (environment_folder() / ".ready").exists():
        yield Finding("environment", "wrong", "the server's environment is not built for this release's lock file", upgrade)
    elif not is_prepared(home, settings):
        yield Finding("environment", "wrong", "the database is not migrated to this release's schema", upgrade)
    elif body is not None and body.get("lock") != lock_digest():
        yield Finding("environment", "wrong", "the server runs from an older environment", upgrade)
    else:
        yield Finding("environment", "ok", f"built from the shipped lock file ({lock_digest()})")
    for folder in find_older_environments():
        in_use = False
        # A server that another installed release started may run from it.
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                in_use = in_use or str(folder) in " ".join(process.cmdline())
        if not in_use:
            yield Finding("environment", "note", f"{folder} belongs to an older lock file and is not in use", f"rm -r {folder}")


def _check_stores(_: Home, settings: ServerSettings, __: bool) -> Iterator[Finding]:
    try:
        check_stores(settings)
    except UserError as error:
        yield Finding("stores", "wrong", f"{error.what} {error.fact}", error.next_step)


def _check_processes(home: Home, settings: ServerSettings, fix: bool) -> Iterator[Finding]:
    body = read_processes(home)
    if body is None:
        left = find_processes(home)
        if not left:
            yield Finding("processes", "note", "the server is down", f"argilla-setup up --detach --home {home.folder}")
            return
        text = f"{len(left)} processes remain of a server whose supervisor was killed"
        if fix:
            stop_server(home)
        yield Finding("processes", "wrong", text, f"argilla-setup down --home {home.folder}", fixed=fix)
        return
    wanted = {"web", "worker"} | (set() if settings.redis_url else {"valkey"})
    crashes = body.get("falls", {})
    # The supervisor writes the file at each change, so a child may have ended since.
    missing = {name for name in wanted if not psutil.pid_exists(body["children"].get(name, -1))}
    looping = {name for name, count in crashes.items() if count >= CRASH_LOOP}
    for name in sorted(missing | looping):
        text = f"{name} ended {crashes.get(name, 1)} times recently and is being restarted; last log line: {last_line(home, name)}"
        yield Finding("processes", "wrong", text, f"argilla-setup logs --home {home.folder} --process {name}")
    if not missing and not looping:
        yield Finding("processes", "ok", f"{', '.join(sorted(wanted))} run under supervisor {body['supervisor']}")


def _check_port(home: Home, settings: ServerSettings, _: bool) -> Iterator[Finding]:
    body = read_processes(home)
    if body is None:
        if not is_free(settings.port, settings.host):
            text = f"something else listens on port {settings.port}"
            yield Finding("port", "wrong", text, f"argilla-setup up --detach --home {home.folder} --port 0")
        return
    port = int(body["port"])
    if not is_listening(body["children"].get("web"), port):
        yield Finding("port", "wrong", f"the web server does not listen on port {port}", f"argilla-setup logs --home {home.folder}")
    elif not is_healthy(port):
        text = f"the web server listens on port {port} and does not answer"
        yield Finding("port", "wrong", text, f"argilla-setup logs --home {home.folder} --process web")
    else:
        yield Finding("port", "ok", f"the API answers on port {port}")


def _check_database(home: Home, settings: ServerSettings, _: bool) -> Iterator[Finding]:
    if settings.database_url or not home.database.exists():
        return
    with contextlib.closing(sqlite3.connect(f"{home.database.as_uri()}?mode=ro", uri=True)) as db:
        try:
            found = db.execute("PRAGMA quick_check").fetchone()[0]
            mode = db.execute("PRAGMA journal_mode").fetchone()[0]
        except sqlite3.DatabaseError as error:
            found, mode = str(error), ""
    if found != "ok":
        next_step = f"argilla-setup restore BACKUP --home {home.folder} --replace"
        yield Finding("database", "wrong", f"{home.database} is damaged: {found}", next_step)
    elif mode != "wal":
        text = f"{home.database} is not in WAL mode, so readers and the writer block each other"
        yield Finding("database", "wrong", text, f"rm {home.folder / 'run' / 'prepared'}; argilla-setup upgrade --home {home.folder}")
    else:
        yield Finding("database", "ok", f"{home.database} is intact")


def _check_index(home: Home, settings: ServerSettings, fix: bool) -> Iterator[Finding]:
    if settings.elasticsearch_url or settings.database_url or not home.database.exists():
        return
    gaps = _find_gaps(home)
    if not gaps:
        yield Finding("index", "ok", "matches the database")
        return
    body = read_processes(home)
    text = f"the index and the database differ in {', '.join(gaps)}"
    if body is None:
        yield Finding("index", "wrong", text, f"argilla-setup up --detach --home {home.folder} rebuilds it", fixed=False)
        return
    if fix:
        _rebuild_index(home, body)
    yield Finding("index", "wrong", text, f"argilla-setup doctor --fix --home {home.folder}", fixed=fix)


def _check_disk(home: Home, _: ServerSettings, __: bool) -> Iterator[Finding]:
    free = shutil.disk_usage(home.folder).free // 2**20
    if free < LOW_MB:
        next_step = "free some space, or move the folder and name it with --home"
        yield Finding("disk", "wrong", f"{home.folder} has {free} MB free", next_step)
    else:
        yield Finding("disk", "ok", f"{free // 1024} GB free")


def _find_gaps(home: Home) -> list[str]:
    try:
        return find_gaps(home.database, home.index)
    except sqlite3.DatabaseError as error:
        return [f"everything ({error})"]


def _rebuild_index(home: Home, body: ProcessState) -> None:
    """Restart the web server, which compares and rebuilds the index before it accepts requests."""
    pid, crashes = body["children"]["web"], body.get("falls", {}).get("web", 0)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).terminate()
    until = time.monotonic() + REBUILD_SECONDS
    while time.monotonic() < until:
        now = read_processes(home)
        if now is not None:
            # Another process id: the old web server may still answer while it ends.
            if now["children"].get("web") not in (None, pid) and is_healthy(int(now["port"])) and not _find_gaps(home):
                return
            if now.get("falls", {}).get("web", 0) >= crashes + CRASH_LOOP:
                fact = f"crashes repeatedly while it builds the index; last log line: {last_line(home, 'web')}"
                raise UserError("the web server", fact, f"argilla-setup logs --home {home.folder} --process web")
        time.sleep(0.3)
    raise UserError("the index", "was not rebuilt within ten minutes", f"argilla-setup logs --home {home.folder} --process web")
