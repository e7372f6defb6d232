"""Looks a server over: each finding is a sentence with the command that mends it. It mends by itself only what cannot lose anything."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from argilla_setup.engine.consistency import find_gaps
from argilla_setup.errors import UserError
from argilla_setup.server.control import is_free, listens, stop_server
from argilla_setup.server.environment import environment_folder, find_older_environments, lock_digest
from argilla_setup.server.home import Home, load_secrets
from argilla_setup.server.logs import last_line
from argilla_setup.server.migrate import is_prepared
from argilla_setup.server.processes import find_processes, read_processes
from argilla_setup.server.settings import Choices, check_stores, load_choices
from argilla_setup.server.status import is_healthy

LOW_MB = 500
"""Less than this free and a day's answers may not fit."""
LOOPING = 3
"""So many falls within a minute each are no accident."""
Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    about: str
    level: Level
    text: str
    next_step: str = ""
    fixed: bool = False


def examine(home: Home, *, fix: bool = False) -> list[Finding]:
    """Everything looked at, in the order in which it matters.

    Args:
        fix: end leftovers, close open files, and let the web server build an index that differs from the database.
    """
    choices = load_choices(home)
    looks = (_secrets, _files, _environment, _stores, _processes, _port, _database, _index, _disk)
    return [finding for look in looks for finding in look(home, choices, fix)]


def _secrets(home: Home, _: Choices, __: bool) -> Iterator[Finding]:
    try:
        load_secrets(home)
        yield Finding("secrets", "ok", f"{home.secrets_file} is whole")
    except UserError as error:
        yield Finding("secrets", "wrong", f"{error.what} {error.fact}", error.next_step)


def _files(home: Home, _: Choices, fix: bool) -> Iterator[Finding]:
    private = [home.secrets_file, home.settings_file, home.processes_file, *home.folder.glob("*.db*"), *home.users_folder.glob("*.json")]
    private += [*(home.folder / "backups").glob("*"), *home.logs_folder.glob("*.log*")]
    open_ones = [path for path in private if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    open_ones += [home.folder] if stat.S_IMODE(home.folder.stat().st_mode) & 0o077 else []
    if not open_ones:
        yield Finding("files", "ok", "no other user of this machine can read them")
    for path in open_ones:
        mode = 0o700 if path.is_dir() else 0o600
        if fix:
            path.chmod(mode)
        yield Finding("files", "wrong", f"other users of this machine can read {path}", f"chmod {mode:o} {path}", fixed=fix)


def _environment(home: Home, choices: Choices, _: bool) -> Iterator[Finding]:
    upgrade = f"argilla-setup upgrade --home {home.folder}"
    body = read_processes(home)
    if not (environment_folder() / ".ready").exists():
        yield Finding("environment", "wrong", "the server's environment is not built for this release's lock", upgrade)
    elif not is_prepared(home, choices):
        yield Finding("environment", "wrong", "the database was not brought to this release's schema", upgrade)
    elif body is not None and body.get("lock") != lock_digest():
        yield Finding("environment", "wrong", "the server runs from an older environment", upgrade)
    else:
        yield Finding("environment", "ok", f"built from the shipped lock ({lock_digest()})")
    for folder in find_older_environments():
        if not _in_use(folder):
            yield Finding("environment", "note", f"{folder} is of an older lock and nothing runs from it", f"rm -r {folder}")


def _stores(_: Home, choices: Choices, __: bool) -> Iterator[Finding]:
    try:
        check_stores(choices)
    except UserError as error:
        yield Finding("stores", "wrong", f"{error.what} {error.fact}", error.next_step)


def _processes(home: Home, choices: Choices, fix: bool) -> Iterator[Finding]:
    body = read_processes(home)
    if body is None:
        left = find_processes(home)
        if not left:
            yield Finding("processes", "note", "the server is down", f"argilla-setup up --detach --home {home.folder}")
            return
        text = f"{len(left)} processes are left of a server whose supervisor was killed"
        if fix:
            stop_server(home)
        yield Finding("processes", "wrong", text, f"argilla-setup down --home {home.folder}", fixed=fix)
        return
    wanted = {"web", "worker"} | (set() if choices.redis_url else {"valkey"})
    missing = sorted(name for name in wanted if not psutil.pid_exists(body["children"].get(name, -1)))
    falling = {name: count for name, count in body.get("falls", {}).items() if count >= LOOPING}
    for name in sorted({*missing, *falling}):
        fact = f"ended {body.get('falls', {}).get(name, 1)} times of late and is started again; it said: {last_line(home, name)}"
        yield Finding("processes", "wrong", f"{name} {fact}", f"argilla-setup logs --home {home.folder} --process {name}")
    if not missing and not falling:
        yield Finding("processes", "ok", f"{', '.join(sorted(wanted))} are up under supervisor {body['supervisor']}")


def _port(home: Home, choices: Choices, _: bool) -> Iterator[Finding]:
    body = read_processes(home)
    if body is None:
        if not is_free(choices.port, choices.host):
            text = f"something else listens on port {choices.port}"
            yield Finding("port", "wrong", text, f"argilla-setup up --detach --home {home.folder} --port 0")
        return
    port = int(body["port"])
    if not listens(body["children"].get("web"), port):
        yield Finding("port", "wrong", f"the web server does not listen on port {port}", f"argilla-setup logs --home {home.folder}")
    elif not is_healthy(port):
        text = f"the web server listens on port {port} and does not answer"
        yield Finding("port", "wrong", text, f"argilla-setup logs --home {home.folder} --process web")
    else:
        yield Finding("port", "ok", f"the API answers on port {port}")


def _database(home: Home, choices: Choices, _: bool) -> Iterator[Finding]:
    if choices.database_url or not home.database.exists():
        return
    with contextlib.closing(sqlite3.connect(f"{home.database.as_uri()}?mode=ro", uri=True)) as db:
        try:
            found = db.execute("PRAGMA quick_check").fetchone()[0]
            mode = db.execute("PRAGMA journal_mode").fetchone()[0]
        except sqlite3.DatabaseError as error:
            found, mode = str(error), ""
    if found != "ok":
        yield Finding(
            "database", "wrong", f"{home.database} is damaged: {found}", f"argilla-setup restore BACKUP --home {home.folder} --replace"
        )
    elif mode != "wal":
        text = f"{home.database} is not in WAL mode, so readers and the writer block each other"
        yield Finding("database", "wrong", text, f"rm {home.folder / 'run' / 'prepared'}; argilla-setup upgrade --home {home.folder}")
    else:
        yield Finding("database", "ok", f"{home.database} is whole")


def _index(home: Home, choices: Choices, fix: bool) -> Iterator[Finding]:
    if choices.elasticsearch_url or choices.database_url or not home.database.exists():
        return
    gaps = _find_gaps(home)
    if not gaps:
        yield Finding("index", "ok", "holds what the database holds")
        return
    body = read_processes(home)
    text = f"the index and the database differ in {', '.join(gaps)}"
    if body is None:
        yield Finding("index", "wrong", text, f"argilla-setup up --detach --home {home.folder} builds it again", fixed=False)
        return
    if fix:
        _restart_web(home, int(body["children"]["web"]), until=lambda: not _find_gaps(home))
    yield Finding("index", "wrong", text, f"argilla-setup doctor --fix --home {home.folder}", fixed=fix)


def _find_gaps(home: Home) -> list[str]:
    try:
        return find_gaps(home.database, home.index)
    except sqlite3.DatabaseError as error:
        return [f"everything ({error})"]


def _restart_web(home: Home, pid: int, *, until: Callable[[], bool]) -> None:
    # The web server compares and rebuilds before it takes requests, so nothing is answered in between.
    import time

    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).terminate()
    before, end = _falls(read_processes(home)), time.monotonic() + 600
    while time.monotonic() < end:
        body = read_processes(home)
        if body is not None and body["children"].get("web") not in (None, pid) and is_healthy(int(body["port"])) and until():
            return
        if _falls(body) >= before + LOOPING:
            fact = f"falls again and again while it builds the index; it said: {last_line(home, 'web')}"
            raise UserError("the web server", fact, f"argilla-setup logs --home {home.folder} --process web")
        time.sleep(0.3)
    raise UserError("the index", "could not be built again in ten minutes", f"argilla-setup logs --home {home.folder} --process web")


def _falls(body: dict[str, Any] | None) -> int:
    return int(body.get("falls", {}).get("web", 0)) if body else 0


def _disk(home: Home, _: Choices, __: bool) -> Iterator[Finding]:
    free = shutil.disk_usage(home.folder).free // 2**20
    if free < LOW_MB:
        yield Finding("disk", "wrong", f"{home.folder} has {free} MB free", "make room, or move the folder and name it with --home")
    else:
        yield Finding("disk", "ok", f"{free // 1024} GB free")


def _in_use(folder: Path) -> bool:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if str(folder) in " ".join(process.cmdline()):
                return True
    return False
